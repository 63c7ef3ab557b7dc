"""From the placement now to a better one: what a few received experts buy, and what is proven.

By layer there is a *front*: for each number of received experts the least makespan that was found
with them. One placement of it is chosen, and with a search it is proven how many experts its
makespan takes at least (:mod:`solvers.migration`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt import bounds
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.rationals import relative_gap
from eplb_opt.problem.result import Limit
from eplb_opt.problem.shown import Shown, ShowsItself, percent
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.transfer import copied, received
from solvers.dispatch import value
from solvers.options import SearchOptions

STEPS = (0, 5, 10, 20, 40, 80, 160)
"""Received experts at which the front is shown, up to the budget."""


@dataclass(frozen=True)
class Move:
    """A placement of one layer and what it takes to get there.

    Attributes:
        slots: [P] the logical expert in each slot.
        makespan: in tokens, exact.
        above: makespan over the lower bound, less 1; None for a layer without load.
        received: experts that its ranks must hold and did not hold.
        copied: slots that are filled from the rank's own memory.
    """

    slots: tuple[int, ...]
    makespan: Fraction
    above: float | None
    received: int
    copied: int


@dataclass(frozen=True)
class LayerPlan:
    """One layer.

    Attributes:
        layer: its number.
        lower_bound: in tokens, proven, whatever is received.
        before: the placement now.
        front: for each of the plan's budgets the best placement within it.
        after: the one chosen.
        at_least: no placement as good as ``after`` receives fewer; None if that was not searched.
    """

    layer: int
    lower_bound: Fraction
    before: Move
    front: tuple[Move, ...]
    after: Move
    at_least: int | None = None


@dataclass(frozen=True, repr=False)
class MigrationPlan(ShowsItself):
    """All layers of an instance.

    Attributes:
        instance: the loads now.
        budgets: received experts of a layer, for which ``front`` has a placement each.
        layers: in order.
        interrupted: Ctrl-C ended the search for proofs early, or came before there was any layer.
    """

    instance: Instance
    budgets: tuple[int, ...]
    layers: tuple[LayerPlan, ...]
    interrupted: bool = False

    def _shown(self) -> Shown:
        """What each budget buys."""
        columns = ("", "mean above bound", "max above bound", "received")
        rows = [
            (f"at most {budget}", percent(mean), percent(most), f"{moves:.1f}")
            for budget, mean, most, moves in self.summary()
        ]
        return Shown(f"MigrationPlan({self.instance!r})", columns, rows)

    @property
    def placement(self) -> Placement:
        """The placement chosen for each layer."""
        slots = np.array([layer.after.slots for layer in self.layers])
        return Placement(slots, self.instance.num_logical_experts)

    def summary(self) -> list[tuple[int, float, float, float]]:
        """For each budget, over the layers with load: mean and maximum of makespan over bound less
        1, and the mean of received experts; empty without such a layer.
        """
        fronts = [layer.front for layer in self.layers if layer.lower_bound > 0]
        rows = []
        for budget, moves in zip(self.budgets, zip(*fronts, strict=True), strict=False):
            above = [move.above or 0.0 for move in moves]
            mean = sum(move.received for move in moves) / len(moves)
            rows.append((budget, sum(above) / len(above), max(above), mean))
        return rows


def plan_migration(
    instance: Instance,
    before: NDArray[np.int64],
    *,
    budget: int = 40,
    within: Fraction | None = None,
    search: SearchOptions | None = None,
) -> MigrationPlan:
    """Change the placement ``before`` for the loads of ``instance``, receiving few experts.

    The front is a heuristic's (:mod:`heuristics.migration`); bounds, makespans and what is proven
    of received experts are exact.

    Args:
        instance: the loads now; without ``spread_replicas``.
        before: [L, P] a valid placement of the instance.
        budget: received experts of a layer at most.
        within: choose the fewest received experts that come within this ratio above the lower
            bound; None, or where none come: the least makespan.
        search: limits of the search of each layer for fewer received experts, or for the proof that
            it takes as many; None for no search.

    Raises:
        ValueError: the instance has ``spread_replicas``.

    Example:
        >>> from eplb_opt import Topology
        >>> now = Instance([[4, 3, 2, 1]], Topology(4, 2))
        >>> plan = plan_migration(now, np.array([[0, 1, 2, 3]]), budget=2, search=SearchOptions())
        >>> [(x.after.received, x.at_least, str(x.after.makespan)) for x in plan.layers]
        [(2, 2, '5')]
    """
    if instance.spread_replicas:
        raise ValueError("spread_replicas: a migration does not keep replicas apart")
    shown = tuple(sorted({step for step in (*STEPS, budget) if step <= budget}))
    plan = MigrationPlan(instance, shown, (), interrupted=True)
    try:
        plan = _front(plan, before, budget, within)
        return plan if search is None else _proven(plan, before, budget, within, search)
    except KeyboardInterrupt:
        return replace(plan, interrupted=True)


def _front(
    plan: MigrationPlan, before: NDArray[np.int64], budget: int, within: Fraction | None
) -> MigrationPlan:
    import torch

    from heuristics.migration import migrate

    instance, topology = plan.instance, plan.instance.topology
    found = migrate(
        torch.tensor(instance.loads, dtype=torch.float64),
        torch.tensor(before),
        topology.num_ranks,
        range(budget + 1) if within is not None else plan.budgets,
        num_nodes=topology.num_nodes if instance.rule == Rule.HIERARCHICAL else 1,
        every_budget=within is None,
    )
    kept = [found.budgets.index(b) for b in plan.budgets]
    layers = []
    for layer, old, maps in zip(instance.layers(), before, found.phy2log.numpy(), strict=True):
        bound = bounds.of(layer).value
        moves = [_move(layer, bound, old, new) for new in maps]
        front = tuple(moves[j] for j in kept)
        now = _move(layer, bound, old, old)
        layers.append(LayerPlan(layer.index, bound, now, front, _chosen(moves, bound, within)))
    return MigrationPlan(instance, plan.budgets, tuple(layers))


def _move(layer: Layer, bound: Fraction, old: NDArray[np.int64], new: NDArray[np.int64]) -> Move:
    size, slots = layer.topology.slots_per_rank, tuple(int(e) for e in new)
    moves, copies = (int(count(old[None], new[None], size).sum()) for count in (received, copied))
    makespan = value(layer, slots).incumbent
    above = relative_gap(makespan, bound) if bound > 0 else None
    return Move(slots, makespan, above, moves, copies)


def _chosen(moves: Sequence[Move], bound: Fraction, within: Fraction | None) -> Move:
    """The fewest received experts that come within the ratio; else the least makespan."""
    if within is not None:
        near = [move for move in moves if move.makespan <= (1 + within) * bound]
        if near:
            return min(near, key=lambda move: (move.received, move.makespan))
    return min(moves, key=lambda move: (move.makespan, move.received))


def _proven(
    plan: MigrationPlan,
    before: NDArray[np.int64],
    budget: int,
    within: Fraction | None,
    search: SearchOptions,
) -> MigrationPlan:
    """With proven numbers of received experts, and with the placements that the proofs came upon;
    after Ctrl-C the other layers stay as they are.
    """
    layers = list(plan.layers)
    for i, layer in enumerate(plan.instance.layers()):
        limits = [layers[i].after.makespan]
        if within is not None:
            limits.insert(0, (1 + within) * layers[i].lower_bound)
        try:
            layers[i], limit = _prove_layer(layer, layers[i], before[i], limits, budget, search)
        except KeyboardInterrupt:
            limit = Limit.INTERRUPT
        if limit == Limit.INTERRUPT:
            return replace(plan, layers=tuple(layers), interrupted=True)
    return replace(plan, layers=tuple(layers))


def _prove_layer(
    layer: Layer,
    plan: LayerPlan,
    before: NDArray[np.int64],
    makespans: Sequence[Fraction],
    budget: int,
    search: SearchOptions,
) -> tuple[LayerPlan, Limit | None]:
    """For the first of the makespans that takes no more than the budget, or for the last; the plan
    as it was after Ctrl-C.
    """
    from solvers.migration import fewest_moves

    start = plan.after.slots
    for makespan in makespans:
        result = fewest_moves(layer, plan.before.slots, makespan, initial=[start], search=search)
        if result.limit == Limit.INTERRUPT:
            return plan, result.limit
        if result.moves is not None and result.moves <= budget:
            break
    plan = replace(plan, at_least=result.lower_bound)
    if result.placement is not None and result.placement != start:
        after = _move(layer, plan.lower_bound, before, np.array(result.placement))
        plan = replace(plan, after=after)
    return plan, result.limit
