"""Bounds over steps, against brute force and against the bounds of each step alone."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology, bounds
from eplb_opt.bounds import steps as over_steps
from eplb_opt.bounds.closed_form import dispatch_bound, threshold
from eplb_opt.bounds.each_step import heaviest_experts, heaviest_replicas, partitions, step_ratios
from eplb_opt.bounds.partitions import bottleneck_partition
from eplb_opt.problem.objective import Dispatch, Objective, mean_load
from tests.oracles.steps import (
    DISPATCHES,
    OBJECTIVES,
    distinct_placements,
    exact_value,
    optimum,
    over,
    tiny_traces,
)

objectives, dispatches = st.sampled_from(OBJECTIVES), st.sampled_from(DISPATCHES)


@settings(max_examples=100, deadline=None)
@given(tiny_traces(), objectives, dispatches, st.booleans())
def test_no_placement_is_below_its_bound(
    layer: Layer, objective: str, dispatch: str, arrays_alone: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if arrays_alone:
            patch.setattr(over_steps, "LARGEST_CLOSED_FORM", 0)
        bound = bounds.of(layer, objective, dispatch).value
        best = optimum(layer, objective, dispatch)
        assert bound <= best
        loose = bounds.wait_and_see(layer, objective, dispatch).value
        free = bounds.wait_and_see(layer, objective, dispatch, rule_free=True).value
    assert mean_load(layer, Objective.parse(objective)) <= free <= loose <= bound
    if objective != "sum":
        each = [optimum(step, "sum", dispatch) for step in layer.each_step()]
        assert loose <= over(each, objective) <= best


loads = st.one_of(st.integers(0, 9), st.integers(0, 10**18), st.integers(0, 10**30))
"""Small ones with ties, those whose products exceed 64 bits, and those that do themselves."""


@st.composite
def machines(draw: st.DrawFn) -> Layer:
    experts, ranks, more = (draw(st.integers(1, n)) for n in (7, 6, 3))
    slots = ranks * (-(-experts // ranks) + more - 1)
    most = draw(st.sampled_from([10**18, 10**30, 9]))
    row = st.lists(st.integers(0, most), min_size=experts, max_size=experts)
    trace = draw(st.lists(row, min_size=1, max_size=5))
    spread = draw(st.booleans()) and slots <= ranks * experts
    summed = tuple(map(sum, zip(*trace, strict=True)))
    integers = np.array(trace, dtype=np.int64 if most * len(trace) < 2**63 else object)
    topology = Topology(slots, ranks)
    return Layer(summed, Fraction(1), topology, spread_replicas=spread, steps=integers)


@settings(max_examples=150, deadline=None)
@given(machines())
def test_arrays_agree_with_the_closed_forms_of_a_step(layer: Layer) -> None:
    heaviest = heaviest_experts(layer.topology, layer.steps).fractions(Fraction(1))
    replicas = heaviest_replicas(layer, layer.steps).fractions(Fraction(1))
    either = step_ratios(layer, layer.steps, Dispatch.EVEN).fractions(Fraction(1))
    for step, *found in zip(layer.each_step(), heaviest, replicas, either, strict=True):
        mean, alone = mean_load(step), threshold(step)
        assert found[0] == dispatch_bound(step).value
        assert found[1] == (alone if alone >= mean and step.has_load else 0)
        assert found[2] == max(mean, alone)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=8, max_size=8), min_size=1, max_size=4))
def test_partitions_of_all_steps_agree_with_those_of_one(trace: list[list[int]]) -> None:
    layer = Instance(np.array([[row] for row in trace]), Topology(12, 6, 2, 4)).layer(0)
    found = partitions(layer, layer.steps, Dispatch.OPTIMAL)
    assert found is not None
    assert len(found.parts) == 3
    best = found.worst_blocks(slice(None)).min(axis=1)
    for t, step in enumerate(layer.each_step()):
        cost = {block: dispatch_bound(step.node_problem(block)).value for block in found.blocks}
        assert Fraction(int(best[t]), found.bottom) == bottleneck_partition(dict(cost), 4).bound


def test_one_partition_is_above_wait_and_see() -> None:
    """Four groups on two nodes: each step has a perfect partition, another one each."""
    trace = np.array([[[6, 6, 0, 0]], [[6, 0, 6, 0]], [[6, 0, 0, 6]]])
    layer = Instance(trace, Topology(4, 2, 2, 4)).layer(0)
    assert bounds.wait_and_see(layer, "mean", "optimal").value == 6
    bound = bounds.of(layer, "mean", "optimal")
    assert (bound.value, bound.source) == (8, "one-partition")
    assert bounds.of(layer, "worst", "even").value == 12
    assert bounds.of(layer, "cvar:1/2", "even").value == Fraction(10)


def test_too_many_partitions_leave_the_heaviest_group() -> None:
    trace = np.arange(2 * 32).reshape(2, 1, 32) % 7
    layer = Instance(trace, Topology(32, 8, 8, 32)).layer(0)
    free = bounds.wait_and_see(layer, "mean", "even", rule_free=True).value
    assert bounds.of(layer, "mean", "even").value >= free == mean_load(layer, Objective("mean"))


@settings(max_examples=60, deadline=None)
@given(tiny_traces(hierarchical=False, spread=False), objectives, st.data())
def test_bounds_with_counts(layer: Layer, objective: str, data: st.DataObject) -> None:
    placed = data.draw(st.sampled_from(distinct_placements(layer)))
    counts = tuple(placed.count(e) for e in range(len(layer.loads)))
    bound = bounds.of(layer, objective, "even", counts=counts).value
    assert bound <= exact_value(layer, placed, objective, "even")


def test_counts_need_even_dispatch() -> None:
    layer = Instance([[1, 2]], Topology(2, 2)).layer(0)
    with pytest.raises(ValueError, match="dispatch='optimal' with counts"):
        bounds.of(layer, "sum", "optimal", counts=(1, 1))


def test_a_layer_without_load_costs_nothing() -> None:
    layer = Instance(np.zeros((3, 1, 2)), Topology(4, 2)).layer(0)
    assert bounds.of(layer, "mean", "even").value == 0
    assert bounds.wait_and_see(layer, "worst", "optimal").value == 0
