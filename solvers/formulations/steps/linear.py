"""What the models of several steps share: the objective in integers, and counts worth a look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle, islice

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost, Dispatch, Objective
from eplb_opt.problem.topology import Rule
from solvers.scaling import LARGEST_SUM, Scale

FINEST_SHARE = 2**20
"""Denominator of a share of ``cvar`` in a model at most; a finer one is rounded up, which makes the
objective smaller, so that what is proven of it is proven."""
COARSE_SUM = 2**30
"""Loads that have to be rounded are rounded to such parts of their sum: flows in parts of 2^50 took
CP-SAT minutes and all memory for four experts."""


@dataclass(frozen=True)
class Terms:
    """``objective(m) = min over eta of (level * eta + excess * sum_t (m_t - eta)+) / divisor``,
    in integers; with ``level`` 0 eta is 0, with ``excess`` 0 no m_t may be above eta.
    """

    level: int
    excess: int
    divisor: int

    @classmethod
    def of(cls, objective: Objective, num_steps: int) -> Terms:
        """The terms of an objective over T steps."""
        share = objective.share
        if share.denominator > FINEST_SHARE:
            share = Fraction(math.ceil(share * FINEST_SHARE), FINEST_SHARE)
        if objective.name in ("sum", "worst") or share * num_steps <= 1:
            return cls(1, 0, 1)
        if share == 1:
            return cls(0, 1, num_steps)
        counted = share * num_steps
        return cls(counted.numerator, counted.denominator, counted.numerator)


def model_cost(cost: Cost, layer: Layer) -> Cost:
    """For one step ``fixed`` is ``optimal``: the cost that a model has to know."""
    cost = cost.on(layer)
    one_step = cost.objective.name == "sum" and cost.dispatch == Dispatch.FIXED
    return cost._replace(dispatch=Dispatch.OPTIMAL) if one_step else cost


def flow_parts(layer: Layer) -> int:
    """Parts of a load, under ``optimal`` dispatch, of which all makespans are multiples.

    A makespan is ``w(F) / |U|`` for a set U of ranks. With a limit of traffic p / q it is such a
    sum, of loads and the tokens that may go off home, over a sum of whole prices rho of ranks: the
    differences of rho are costs of moving a token along ranks, 0 or 1 each, so no price below the
    largest is left out, and the sum is at most ``0 + 1 + .. + G - 1``.
    """
    ranks, limit = layer.topology.num_ranks, layer.traffic_limit
    if layer.rule != Rule.HOME or limit == 1:
        return math.lcm(*range(1, ranks + 1))
    most = max(ranks, ranks * (ranks - 1) // 2)
    return math.lcm(*range(1, most + 1)) * limit.denominator


def loads_with_tokens(layer: Layer, objective: Objective) -> list[list[int]]:
    """The loads of the steps that count; those without load cost nothing and are left out."""
    steps = objective.loads_of(layer).tolist()
    return [step for step in steps if any(step)] or steps[:1]


def scale_over_steps(
    layer: Layer,
    steps: Sequence[Sequence[int]],
    parts: int,
    terms: Terms,
    largest_sum: int = LARGEST_SUM,
) -> Scale:
    """Units of which the loads of all ``steps``, divided by any divisor of ``parts``, are
    multiples; coarser ones where these would be too small for ``largest_sum``.
    """
    largest = min(largest_sum, 2**60 // layer.topology.num_ranks) // (terms.level + terms.excess)
    common = max(1, math.gcd(*(w for step in steps for w in step)))
    total = sum(map(sum, steps))
    if total * parts > largest * common:
        coarse = min(largest, COARSE_SUM)
        return Scale(total * layer.unit / coarse, exact=False)
    return Scale(common * layer.unit / parts, exact=True)


def least_counts(layer: Layer, objective: Objective, incumbent: Fraction) -> tuple[int, ...] | None:
    """[E] the fewest replicas of each expert in a placement below ``incumbent`` under ``even``
    dispatch; None if there is no such placement.

    A replica of e weighs w[t,e] / k at step t, and no makespan is below the mean load.
    """
    steps = [[w * layer.unit for w in step] for step in objective.loads_of(layer).tolist()]
    means = [sum(step) / layer.topology.num_ranks for step in steps]

    def below(expert: int, count: int) -> bool:
        replica = (max(m, s[expert] / count) for s, m in zip(steps, means, strict=True))
        return objective.over(list(replica)) < incumbent

    counts = range(1, layer.most_replicas + 1)
    found = [next((k for k in counts if below(e, k)), None) for e in range(len(layer.loads))]
    least = tuple(k for k in found if k is not None)
    short = len(least) < len(found) or sum(least) > layer.topology.num_physical_experts
    return None if short else least


def count_windows(
    layer: Layer, objective: Objective, incumbent: Fraction, counts: Sequence[int] | None
) -> dict[int, range] | None:
    """Under ``even`` dispatch the counts of each expert with load in a placement below
    ``incumbent``; None if there is no such placement. With ``counts`` [E] those, of every expert.
    """
    if counts is not None:
        return {e: range(count, count + 1) for e, count in enumerate(counts)}
    least = least_counts(layer, objective, incumbent)
    if least is None:
        return None
    spare = layer.topology.num_physical_experts - sum(least)
    return {
        e: range(least[e], min(least[e] + spare, layer.most_replicas) + 1)
        for e, load in enumerate(layer.loads)
        if load
    }


def fill_ranks(
    layer: Layer, held: Sequence[Sequence[int]], empty: Sequence[int], group_nodes: Sequence[int]
) -> tuple[int, ...]:
    """The placement [P] of a solution whose rank g holds ``held[g]`` and has ``empty[g]`` slots for
    experts without load of the groups on its node (``group_nodes`` [K]); these take turns. Under
    the rule ``home`` each has a replica on its node, and further ones anywhere.
    """
    topology = layer.topology
    if layer.rule == Rule.HOME:
        return _fill_from_home(layer, held, empty, group_nodes)
    size = len(layer.loads) // topology.num_groups
    idle = [
        cycle([e for e, w in enumerate(layer.loads) if not w and group_nodes[e // size] == n])
        for n in range(topology.num_nodes)
    ]
    phy2log: list[int] = []
    for g, rank in enumerate(held):
        phy2log += rank
        phy2log += islice(idle[g // topology.ranks_per_node], empty[g])
    return tuple(phy2log)


def _fill_from_home(
    layer: Layer, held: Sequence[Sequence[int]], empty: Sequence[int], homes: Sequence[int]
) -> tuple[int, ...]:
    """Experts without load once on their home, then different ones on a rank while there are."""
    size = len(layer.groups[0])
    idle = [e for e, w in enumerate(layer.loads) if not w]
    waiting = [[e for e in idle if homes[e // size] == n] for n in range(layer.topology.num_nodes)]
    phy2log: list[int] = []
    for g, rank in enumerate(held):
        here = waiting[g // layer.topology.ranks_per_node]
        first, here[: empty[g]] = here[: empty[g]], []
        others = cycle([e for e in idle if e not in first] or idle)
        phy2log += [*rank, *first, *islice(others, empty[g] - len(first))]
    return tuple(phy2log)


def fill_up(layer: Layer, held: Sequence[list[int]]) -> tuple[int, ...]:
    """The placement [P] whose rank g holds the experts ``held[g]``; slots that are left are filled
    with a repetition, which changes no value under ``optimal`` and ``fixed`` dispatch.
    """
    S = layer.topology.slots_per_rank
    return tuple(e for rank in held for e in (rank + rank[:1] * S)[:S])
