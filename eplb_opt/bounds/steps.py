r"""Bounds over several steps.

**Wait-and-see**: the objective of proven bounds of each step alone. It holds against every policy,
however often it moves experts, since an objective over steps is monotone in their makespans. Not
for ``sum``: of steps (1, 0) and (0, 1) on two ranks it would be 2, and the sum has the optimum 1.

**One partition** (hierarchical rule): a constant placement gives the same groups to a node at every
step, so it costs at least the least, over partitions of the groups, of the objective of the worst
node's bound at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from eplb_opt.bounds.closed_form import Bound, dispatch_bound, packing_bound, placement_bound
from eplb_opt.bounds.each_step import (
    Partitions,
    Ratios,
    heaviest_group,
    larger,
    mean_ratios,
    partitions,
    step_ratios,
)
from eplb_opt.bounds.same_rank import same_rank_bound
from eplb_opt.problem.evidence import CLOSED_FORM, ONE_PARTITION, Blocks, StepBlock
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import SUM, Cost, Dispatch, Objective
from eplb_opt.problem.rationals import Integers, widen
from eplb_opt.problem.topology import Rule

LARGEST_CLOSED_FORM = 100_000
"""T E S up to which every step is bounded by all of :mod:`eplb_opt.bounds.closed_form`, also by the
destructive bound; beyond by mean and threshold. On recorded steps it adds nothing from S = 4 on."""
LARGEST_CHUNK = 2_000_000
"""Entries of an array at a time."""


def wait_and_see(
    layer: Layer, objective: Objective | str, dispatch: Dispatch | str, rule_free: bool = False
) -> Bound:
    """In tokens, the objective of bounds of each step alone: no policy costs less, not even one
    that knows every step before it comes and moves all experts for it.

    For ``sum``, which is one step, the bound of that step. 0 for a layer without load.

    Args:
        layer: the problem.
        objective: over its steps.
        dispatch: how replicas share tokens.
        rule_free: under the global rule, whatever the rule of the layer.
    """
    cost = Cost.of(objective, dispatch).on(layer)
    if rule_free:
        layer = layer.without_nodes()
    if cost.objective == SUM:
        return bound_of_sum(layer, cost.dispatch)
    return _of_steps(step_bounds(layer, cost.dispatch), cost.objective)


def constant_bound(layer: Layer, cost: Cost, counts: Sequence[int] | None = None) -> Bound:
    """The largest bound for every placement that stays: wait-and-see, under the hierarchical rule
    that of one partition, and where shares are the same at every step that of experts on the same
    rank.

    With ``counts`` [E], for placements with these counts, under the global rule and ``even``
    dispatch.
    """
    if cost.objective == SUM:
        return bound_of_sum(layer, cost.dispatch, counts)
    if counts is not None:
        return _of_steps(_packing_bounds(layer, counts), cost.objective)
    floors = step_bounds(layer, cost.dispatch)
    found = [_of_steps(floors, cost.objective)]
    if _has_nodes(layer):
        found.append(_partition_bound(layer, cost))
    if cost.dispatch != Dispatch.OPTIMAL:
        found.append(same_rank_bound(layer, cost.objective, floors) or found[0])
    return max(found, key=lambda bound: bound.value)


def bound_of_sum(layer: Layer, dispatch: Dispatch, counts: Sequence[int] | None = None) -> Bound:
    """Of the makespan of the summed loads, or of the only step."""
    if not layer.has_load:
        return Bound(Fraction(0), "no-load")
    if counts is not None:
        return packing_bound(layer, counts)
    if dispatch == Dispatch.EVEN:
        return placement_bound(layer)
    best = dispatch_bound(layer)
    if _has_nodes(layer):
        best = max(
            best, _partition_bound(layer, Cost(SUM, dispatch)), key=lambda bound: bound.value
        )
    return best


def step_bounds(layer: Layer, dispatch: Dispatch) -> list[Fraction]:
    """Proven bounds in tokens on the makespan of each step under the layer's rule."""
    experts, slots_per_rank = layer.num_logical_experts, layer.topology.slots_per_rank
    small = len(layer.steps) * experts * slots_per_rank <= LARGEST_CLOSED_FORM
    ratios = step_ratios(layer, layer.steps, dispatch)
    if _has_nodes(layer):
        ratios = larger(ratios, _partition_of_each_step(layer, dispatch))
    found = ratios.fractions(layer.unit)
    if dispatch == Dispatch.EVEN and small:
        exact = [bound_of_sum(step, dispatch).value for step in layer.each_step()]
        found = list(map(max, found, exact))
    return found


def _packing_bounds(layer: Layer, counts: Sequence[int]) -> list[Fraction]:
    """Of each step, of placements with these counts."""
    if layer.steps.size * layer.topology.slots_per_rank <= LARGEST_CLOSED_FORM:
        return [bound_of_sum(step, Dispatch.EVEN, counts).value for step in layer.each_step()]
    best = mean_ratios(layer.topology, layer.steps)
    for expert, count in enumerate(counts):
        replica = Ratios(layer.steps[:, expert], np.full(len(layer.steps), count))
        best = larger(best, replica)
    return best.fractions(layer.unit)


def _of_steps(bounds: list[Fraction], objective: Objective) -> Bound:
    """The objective of the bounds of single steps, which are its evidence."""
    blocks = tuple(StepBlock((t,), bound, CLOSED_FORM) for t, bound in enumerate(bounds) if bound)
    return Bound(objective.over(bounds), "wait-and-see", Blocks(blocks))


def _has_nodes(layer: Layer) -> bool:
    return layer.rule == Rule.HIERARCHICAL and layer.topology.num_nodes > 1


def _partition_of_each_step(layer: Layer, dispatch: Dispatch) -> Ratios:
    """The best partition of the groups at each step, or a relaxation of it."""
    found = partitions(layer, layer.steps, dispatch)
    if found is None:
        return heaviest_group(layer, layer.steps)
    best = None
    for chosen in _chunks(found):
        least = found.worst_blocks(chosen).min(axis=1)
        best = least if best is None else np.minimum(best, least)
    assert best is not None
    return Ratios(best, np.full(len(best), found.bottom, dtype=best.dtype))


def _partition_bound(layer: Layer, cost: Cost) -> Bound:
    """Over partitions of the groups the least objective of the worst node of each step."""
    loads = cost.objective.loads_of(layer)
    found = partitions(layer, loads, cost.dispatch)
    if found is None:
        return Bound(Fraction(0), "one-partition")
    costs = [_costs(found.worst_blocks(chosen), cost.objective) for chosen in _chunks(found)]
    least = min(Fraction(int(top.min()), bottom) for top, bottom in costs)
    return Bound(least / found.bottom * layer.unit, "one-partition", ONE_PARTITION)


def _chunks(found: Partitions) -> list[slice]:
    """Of the partitions."""
    size = max(1, LARGEST_CHUNK // len(found.tops))
    return [slice(i, i + size) for i in range(0, len(found.parts), size)]


def _costs(makespans: Integers, objective: Objective) -> tuple[Integers, int]:
    """The objective of each column of ``makespans`` [T, columns]: numerators and denominator."""
    steps = len(makespans)
    if objective.name in ("sum", "worst"):
        return makespans.max(axis=0), 1
    counted, parts = (objective.share * steps).as_integer_ratio()
    falling = np.sort(widen(makespans, steps * parts), axis=0)[::-1]
    whole = counted // parts
    total = parts * falling[:whole].sum(axis=0)
    if whole * parts < counted:
        total = total + (counted - whole * parts) * falling[whole]
    return total, counted
