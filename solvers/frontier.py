"""The frontier of balance and traffic of a small layer: what a limit of traffic costs, exactly.

A point of the frontier is a placement under the rule ``home`` such that no other has less traffic
and no larger makespan, nor a smaller makespan and no more traffic. The first one has the least
makespan without a limit, and of the placements that reach it the least traffic. The traffic of a
placement is a multiple of ``1 / (W lcm(1 .. most replicas))`` for W load units, so whatever has
less is within the limit that is one such part lower; and so on until nothing is off home: the
hierarchical optimum (or less, where experts without load make room).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.topology import Rule
from solvers.api import solve
from solvers.formulations.steps.least_traffic import least_traffic
from solvers.options import Budget, SearchOptions


@dataclass(frozen=True)
class FrontierPoint:
    """Under ``even`` dispatch, for the loads of all steps together.

    Attributes:
        limit: of traffic, for which ``makespan`` was minimized.
        traffic: of the placement, the part of the tokens that is served off home.
        makespan: tokens on its fullest rank.
        least_traffic: no placement with this makespan has less.
        least_makespan: no placement within ``limit`` has less.
        placement: [P].
    """

    limit: Fraction
    traffic: Fraction
    makespan: Fraction
    least_traffic: Fraction
    least_makespan: Fraction
    placement: tuple[int, ...]

    @property
    def proven(self) -> bool:
        """Whether it is a point of the frontier, not just near it."""
        return self.traffic == self.least_traffic and self.makespan == self.least_makespan


def frontier(
    layer: Layer,
    limits: Iterable[Fraction | float] | None = None,
    *,
    search: SearchOptions | None = None,
) -> list[FrontierPoint]:
    """Points by falling limit of traffic.

    Exact, with no point missing, where every one is ``proven``. The models count in integers: where
    the sum of the loads (over their common divisor) times ``lcm(1 .. most replicas)`` is beyond
    2^30 loads are rounded, points are near those of the frontier at best, and some may be missing.
    Limits of a search hold for each of the two solves of a point.

    Args:
        layer: under the rule ``home``, or that of its groups and nodes is meant.
        limits: of traffic, one point for each that has a placement; None for the whole frontier.
        search: limits of each solve.
    """
    layer = replace(layer, rule=Rule.HOME)
    asked = None if limits is None else [Fraction(x) for x in limits]
    if asked is not None and not all(0 <= x <= 1 for x in asked):
        raise ValueError(f"limits={limits!r} must be parts of the tokens, from 0 to 1")
    if not layer.has_load:
        placed = solve(layer, search=search).placement or ()
        nothing = Fraction(0)
        return [FrontierPoint(Fraction(1), nothing, nothing, nothing, nothing, placed)]
    if asked is not None:
        return [found for x in asked if (found := _point(layer, x, search)) is not None]
    return list(_all_points(layer, search))


def _all_points(layer: Layer, search: SearchOptions | None) -> Iterator[FrontierPoint]:
    counts = range(1, layer.most_replicas + 1)
    step = Fraction(1, sum(layer.loads) * math.lcm(*counts))
    point = _point(layer, Fraction(1), search)
    while point is not None:
        yield point
        if not point.traffic:
            return
        point = _point(layer, point.traffic - step, search)


def _point(layer: Layer, limit: Fraction, search: SearchOptions | None) -> FrontierPoint | None:
    """None if no placement within the limit is known."""
    found = solve(replace(layer, traffic_limit=limit), search=search)
    if found.placement is None or found.objective is None:
        return None
    least = least_traffic(layer, found.placement, Budget(search))
    return FrontierPoint(
        limit, least.incumbent, found.objective, least.bound, found.lower_bound, least.phy2log
    )
