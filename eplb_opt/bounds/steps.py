r"""Bounds over several steps.

**Wait-and-see**: the objective of proven bounds of each step alone. It holds against every policy,
however often it moves experts, since an objective over steps is monotone in their makespans. Not
for ``sum``: of steps (1, 0) and (0, 1) on two ranks it would be 2, and the sum has the optimum 1.

**One partition** (hierarchical rule): a constant placement gives the same groups to a node at every
step, so it costs at least the least, over partitions of the groups, of the objective of the worst
node's bound at each step.

**Homes** (rule ``home``): the same with the limit of traffic at each step under ``optimal``
dispatch. Under ``even`` and ``fixed`` the limit is one of all steps together: then the bound of the
summed loads, over T, holds for the mean of the makespans, which no objective is below.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from eplb_opt.bounds.closed_form import (
    Bound,
    dispatch_bound,
    groups_bound,
    packing_bound,
    placement_bound,
)
from eplb_opt.bounds.each_step import (
    Partitions,
    Ratios,
    heaviest_group,
    larger,
    mean_ratios,
    partitions,
    step_ratios,
)
from eplb_opt.bounds.homes import (
    Excesses,
    excesses,
    heaviest_groups,
    least_of_homes,
    simplify,
    without_traffic,
)
from eplb_opt.bounds.same_rank import same_rank_bound
from eplb_opt.problem.evidence import CLOSED_FORM, ONE_PARTITION, Blocks, StepBlock
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import SUM, Cost, Dispatch, Objective
from eplb_opt.problem.rationals import Integers, integer_array, widen
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
    layer = simplify(layer)
    if cost.objective == SUM:
        return bound_of_sum(layer, cost.dispatch, counts)
    if counts is not None:
        return _of_steps(_packing_bounds(layer, counts), cost.objective)
    floors = step_bounds(layer, cost.dispatch)
    found = [_of_steps(floors, cost.objective)]
    if _has_nodes(layer):
        found.append(_partition_bound(layer, cost))
    if _has_homes(layer):
        found += _bounds_of_one_home(layer, cost)
    if cost.dispatch != Dispatch.OPTIMAL:
        found.append(same_rank_bound(layer, cost.objective, floors) or found[0])
    return max(found, key=lambda bound: bound.value)


def bound_of_sum(layer: Layer, dispatch: Dispatch, counts: Sequence[int] | None = None) -> Bound:
    """Of the makespan of the summed loads, or of the only step."""
    layer = simplify(layer)
    if not layer.has_load:
        return Bound(Fraction(0), "no-load")
    if counts is not None:
        return packing_bound(layer, counts)
    found = [placement_bound(layer) if dispatch == Dispatch.EVEN else dispatch_bound(layer)]
    if _has_nodes(layer) and dispatch != Dispatch.EVEN:
        found.append(_partition_bound(layer, Cost(SUM, dispatch)))
    best = max(found, key=lambda bound: bound.value)
    if _has_homes(layer):
        found += _home_bounds(layer, dispatch, best.value)
    return max(found, key=lambda bound: bound.value)


def step_bounds(layer: Layer, dispatch: Dispatch) -> list[Fraction]:
    """Proven bounds in tokens on the makespan of each step under the layer's rule.

    Under the rule ``home`` a limit of traffic is one of each step under ``optimal`` dispatch alone.
    """
    layer = simplify(layer)
    experts, slots_per_rank = layer.num_logical_experts, layer.topology.slots_per_rank
    small = len(layer.steps) * experts * slots_per_rank <= LARGEST_CLOSED_FORM
    ratios = step_ratios(layer, layer.steps, dispatch)
    limited = dispatch == Dispatch.OPTIMAL and layer.traffic_limit < 1
    if _has_nodes(layer) or (_has_homes(layer) and limited):
        ratios = larger(ratios, _partition_of_each_step(layer, dispatch))
    found = ratios.fractions(layer.unit)
    if dispatch == Dispatch.EVEN and small:
        steps = layer.without_limit().each_step()
        exact = [bound_of_sum(step, dispatch).value for step in steps]
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


def _has_homes(layer: Layer) -> bool:
    return layer.rule == Rule.HOME and layer.topology.num_nodes > 1


def _home_bounds(layer: Layer, dispatch: Dispatch, floor: Fraction) -> list[Bound]:
    """Of the summed loads by the homes, which may be above ``floor`` tokens."""
    least = least_of_homes(layer, dispatch, floor / layer.unit)
    if least is None:
        (least,) = heaviest_groups(layer, integer_array([layer.loads])).fractions(Fraction(1))
    bounds = [Bound(least * layer.unit, "homes")]
    if not layer.traffic_limit:
        bounds.append(_partition_bound(without_traffic(layer), Cost(SUM, dispatch)))
        node = layer.node_problem(range(layer.topology.groups_per_node))
        if dispatch == Dispatch.EVEN and all(layer.loads) and node.is_feasible:
            bounds.append(groups_bound(without_traffic(layer)))
    return bounds


def _bounds_of_one_home(layer: Layer, cost: Cost) -> list[Bound]:
    """For homes that are the same at every step.

    Under ``optimal`` dispatch each step has the limit. Else it is one of all steps together; their
    makespans sum to that of the summed loads at least, and no objective is less than their mean.
    """
    if not layer.traffic_limit:
        return [_partition_bound(without_traffic(layer), cost)]
    if cost.dispatch == Dispatch.OPTIMAL:
        found = excesses(layer, layer.steps)
        if found is None or layer.traffic_limit == 1:
            return []
        least = _least_of_partitions(found, cost.objective)
        return [Bound(least * layer.unit, "one-partition", ONE_PARTITION)]
    total = bound_of_sum(layer, cost.dispatch)
    block = StepBlock(tuple(range(len(layer.steps))), total.value, total.evidence)
    return [Bound(total.value / len(layer.steps), f"sum:{total.source}", Blocks((block,)))]


def _partition_of_each_step(layer: Layer, dispatch: Dispatch) -> Ratios:
    """The best partition of the groups at each step, or a relaxation of it."""
    home = layer.rule == Rule.HOME
    if home and not layer.traffic_limit:
        return _partition_of_each_step(without_traffic(layer), dispatch)
    of_layer = excesses(layer, layer.steps) if home else partitions(layer, layer.steps, dispatch)
    if of_layer is None:
        return (heaviest_groups if home else heaviest_group)(layer, layer.steps)
    best = None
    for chosen in _chunks(of_layer):
        least = of_layer.worst_blocks(chosen).min(axis=1)
        best = least if best is None else np.minimum(best, least)
    assert best is not None
    return Ratios(best, np.full(len(best), of_layer.bottom, dtype=best.dtype))


def _partition_bound(layer: Layer, cost: Cost) -> Bound:
    """Over partitions of the groups the least objective of the worst node of each step."""
    found = partitions(layer, cost.objective.loads_of(layer), cost.dispatch)
    if found is None:
        return Bound(Fraction(0), "one-partition")
    least = _least_of_partitions(found, cost.objective)
    return Bound(least * layer.unit, "one-partition", ONE_PARTITION)


def _least_of_partitions(found: Partitions | Excesses, objective: Objective) -> Fraction:
    """In load units, the least objective of a partition that is the same at every step."""
    costs = [_costs(found.worst_blocks(chosen), objective) for chosen in _chunks(found)]
    return min(Fraction(int(top.min()), bottom) for top, bottom in costs) / found.bottom


def _chunks(found: Partitions | Excesses) -> list[slice]:
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
