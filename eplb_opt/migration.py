"""From the placement now to a better one: what a few transfers buy, and what is proven.

By layer there is a *front*: for each number of transfers the least makespan that was found with
them. One placement of it is chosen, and with a search it is proven how many transfers its makespan
takes at least (:mod:`solvers.migration`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt import bounds
from eplb_opt.policies.names import home_limit
from eplb_opt.problem.homes import traffic
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.rationals import relative_gap
from eplb_opt.problem.result import Limit
from eplb_opt.problem.shown import Shown, ShowsItself, percent
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.transfer import count_copies, count_transfers
from solvers.dispatch import value
from solvers.options import SearchOptions

SHOWN_BUDGETS = (0, 5, 10, 20, 40, 80, 160)
"""Transfers at which the front is shown, up to the budget."""


@dataclass(frozen=True)
class Candidate:
    """A placement of one layer and what it takes to get there.

    Attributes:
        phy2log: [P] the logical expert in each slot.
        makespan: in tokens, exact.
        gap: makespan over the lower bound, less 1; None for a layer without load.
        transfers: experts sent to ranks that did not hold them.
        copies: slots that are filled from the rank's own memory.
        traffic: under the rule ``home`` the part of the tokens that is served off home; else None.
    """

    phy2log: tuple[int, ...]
    makespan: Fraction
    gap: float | None
    transfers: int
    copies: int
    traffic: Fraction | None = None


@dataclass(frozen=True)
class LayerPlan:
    """One layer.

    Attributes:
        layer: its number.
        lower_bound: in tokens, proven, for any number of transfers.
        before: the placement now.
        front: for each of the plan's budgets the best placement within it.
        after: the one chosen.
        makespan_limit: tokens on a rank at most that were asked for; None if nothing was.
        transfers_at_least: no placement that keeps the limit takes fewer, or, where it was missed
            or is None, none as good as ``after``; None if that was not searched.
        traffic_limit: under the rule ``home`` the part of the tokens that may be served off home.
    """

    layer: int
    lower_bound: Fraction
    before: Candidate
    front: tuple[Candidate, ...]
    after: Candidate
    makespan_limit: Fraction | None = None
    transfers_at_least: int | None = None
    traffic_limit: Fraction = Fraction(1)

    @property
    def over_before(self) -> bool:
        """Whether ``before`` is above the limit of traffic: its makespan may be below the bound."""
        return _over(self.before, self.traffic_limit) > 0

    @property
    def over_limit(self) -> bool:
        """Whether ``after`` is above the limit of traffic, as the placement until now then is: no
        change within the budget was found that is not.
        """
        return _over(self.after, self.traffic_limit) > 0

    @property
    def missed(self) -> bool:
        """Whether ``after`` is above the makespan that was asked for."""
        return self.makespan_limit is not None and self.after.makespan > self.makespan_limit


@dataclass(frozen=True, repr=False)
class MigrationPlan(ShowsItself):
    """All layers of an instance.

    Attributes:
        instance: the loads now.
        budgets: numbers of transfers of a layer, for which ``front`` has a placement each.
        layers: in order.
        interrupted: Ctrl-C ended the search for proofs early, or came before there was any layer.
    """

    instance: Instance
    budgets: tuple[int, ...]
    layers: tuple[LayerPlan, ...]
    interrupted: bool = False

    def _shown(self) -> Shown:
        """What each budget buys."""
        columns = ("", "mean above bound", "max above bound", "transfers")
        rows = [
            (f"at most {budget}", percent(mean), percent(most), f"{transfers:.1f}")
            for budget, mean, most, transfers in self.summary()
        ]
        return Shown(f"MigrationPlan({self.instance!r})", columns, rows)

    @property
    def placement(self) -> Placement:
        """The placement chosen for each layer."""
        after = np.array([layer.after.phy2log for layer in self.layers])
        return Placement(after, self.instance.num_logical_experts)

    def summary(self) -> list[tuple[int, float, float, float]]:
        """For each budget, over the layers with load: mean and maximum of makespan over bound less
        1, and the mean of transfers; empty without such a layer.
        """
        fronts = [layer.front for layer in self.layers if layer.lower_bound > 0]
        rows = []
        for budget, candidates in zip(self.budgets, zip(*fronts, strict=True), strict=False):
            gaps = [x.gap or 0.0 for x in candidates]
            transfers = sum(x.transfers for x in candidates) / len(candidates)
            rows.append((budget, sum(gaps) / len(gaps), max(gaps), transfers))
        return rows


def plan_migration(
    instance: Instance,
    before: NDArray[np.int64],
    *,
    budget: int = 40,
    within: Fraction | None = None,
    search: SearchOptions | None = None,
) -> MigrationPlan:
    """Change the placement ``before`` for the loads of ``instance``, with few transfers.

    The front is a heuristic's (:mod:`heuristics.migration`); bounds, makespans, traffic and what is
    proven of transfers are exact. Under the rule ``home`` the homes are those of ``before``; where
    that is above the limit of traffic for these loads, placements with less come first.

    Args:
        instance: the loads now; without ``spread_replicas``.
        before: [L, P] a valid placement of the instance; with any traffic.
        budget: transfers of a layer at most; more than P are never needed.
        within: choose the fewest transfers that come within this ratio above the lower
            bound; None, or where none come: the least makespan.
        search: limits of the search of each layer for fewer transfers, or for the proof that
            it takes as many; None for no search.

    Raises:
        ValueError: the instance has ``spread_replicas``.

    Example:
        >>> from eplb_opt import Topology
        >>> now = Instance([[4, 3, 2, 1]], Topology(4, 2))
        >>> plan = plan_migration(now, np.array([[0, 1, 2, 3]]), budget=2, search=SearchOptions())
        >>> [(x.after.transfers, x.transfers_at_least, str(x.after.makespan)) for x in plan.layers]
        [(2, 2, '5')]
    """
    if instance.spread_replicas:
        raise ValueError("spread_replicas: a migration does not keep replicas apart")
    budget = min(budget, instance.topology.num_physical_experts)
    shown = tuple(sorted({b for b in (*SHOWN_BUDGETS, budget) if b <= budget}))
    plan = MigrationPlan(instance, shown, (), interrupted=True)
    try:
        plan = _find_front(plan, before, budget, within)
        return plan if search is None else _prove(plan, before, budget, search)
    except KeyboardInterrupt:
        return replace(plan, interrupted=True)


def _find_front(
    plan: MigrationPlan, before: NDArray[np.int64], budget: int, within: Fraction | None
) -> MigrationPlan:
    import torch

    from heuristics.migration import migrate

    instance, topology = plan.instance, plan.instance.topology
    found = migrate(
        torch.tensor(instance.loads, dtype=torch.float64),
        torch.tensor(before),
        topology.num_ranks,
        plan.budgets if within is None else range(budget + 1),
        num_nodes=1 if instance.rule == Rule.GLOBAL else topology.num_nodes,
        num_groups=topology.num_groups,
        traffic=home_limit(instance),
        second_passes=plan.budgets,
    )
    kept = [found.budgets.index(b) for b in plan.budgets]
    layers = []
    for layer, old, maps in zip(instance.layers(), before, found.phy2log.numpy(), strict=True):
        bound = bounds.of(layer).value
        candidates = [_evaluate(layer, bound, old, new) for new in maps]
        front = tuple(candidates[j] for j in kept)
        now = _evaluate(layer, bound, old, old)
        limit = None if within is None else (1 + within) * bound
        after = _choose(candidates, limit, layer.traffic_limit)
        layers.append(
            LayerPlan(
                layer.index, bound, now, front, after, limit, traffic_limit=layer.traffic_limit
            )
        )
    return replace(plan, layers=tuple(layers), interrupted=False)


def _evaluate(
    layer: Layer, bound: Fraction, old: NDArray[np.int64], new: NDArray[np.int64]
) -> Candidate:
    maps = old[None], new[None], layer.topology.slots_per_rank
    transfers, copies = (int(count(*maps).sum()) for count in (count_transfers, count_copies))
    phy2log = tuple(int(e) for e in new)
    makespan = value(layer, phy2log).incumbent
    gap = relative_gap(makespan, bound) if bound > 0 else None
    away = traffic(layer, phy2log) if layer.rule == Rule.HOME else None
    return Candidate(phy2log, makespan, gap, transfers, copies, away)


def _choose(
    candidates: Sequence[Candidate], makespan_limit: Fraction | None, traffic_limit: Fraction
) -> Candidate:
    """The fewest transfers that keep both limits; without one of the makespan, or if none do, the
    least makespan of those nearest to the limit of traffic.
    """
    if makespan_limit is not None:
        near = [x for x in candidates if x.makespan <= makespan_limit]
        near = [x for x in near if not _over(x, traffic_limit)]
        if near:
            return min(near, key=lambda x: (x.transfers, x.makespan))
    return min(candidates, key=lambda x: (_over(x, traffic_limit), x.makespan, x.transfers))


def _over(candidate: Candidate, traffic_limit: Fraction) -> Fraction:
    """The part of the tokens served off home beyond the limit."""
    return max((candidate.traffic or Fraction(0)) - traffic_limit, Fraction(0))


def _prove(
    plan: MigrationPlan,
    before: NDArray[np.int64],
    budget: int,
    search: SearchOptions,
) -> MigrationPlan:
    """With proven numbers of transfers, and with the placements that the proofs came upon;
    after Ctrl-C the other layers stay as they are.
    """
    layers = list(plan.layers)
    for i, layer in enumerate(plan.instance.layers()):
        try:
            layers[i], limit = _prove_layer(layer, layers[i], before[i], budget, search)
        except KeyboardInterrupt:
            limit = Limit.INTERRUPT
        if limit == Limit.INTERRUPT:
            return replace(plan, layers=tuple(layers), interrupted=True)
    return replace(plan, layers=tuple(layers))


def _prove_layer(
    layer: Layer,
    plan: LayerPlan,
    before: NDArray[np.int64],
    budget: int,
    search: SearchOptions,
) -> tuple[LayerPlan, Limit | None]:
    """For the makespan limit, or, without one or if it takes more than the budget, for the makespan
    of ``after``; the plan as it was after Ctrl-C.
    """
    from solvers.migration import fewest_transfers

    start = plan.after.phy2log
    for makespan in (plan.makespan_limit, plan.after.makespan):
        if makespan is None:
            continue
        result = fewest_transfers(
            layer, plan.before.phy2log, makespan, initial=[start], search=search
        )
        if result.limit == Limit.INTERRUPT:
            return plan, result.limit
        if result.transfers is not None and result.transfers <= budget:
            break
    plan = replace(plan, transfers_at_least=result.lower_bound)
    if result.placement is not None and result.placement != start:
        after = _evaluate(layer, plan.lower_bound, before, np.array(result.placement))
        plan = replace(plan, after=after)
    return plan, result.limit
