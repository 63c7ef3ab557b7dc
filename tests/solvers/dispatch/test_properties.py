"""What holds for every placement: orders of dispatch rules, scaling, permutations, rank sets."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology
from eplb_opt.problem.objective import Objective
from solvers.bracket import Bracket
from solvers.dispatch import value
from tests.oracles.steps import DISPATCHES, OBJECTIVES, exact_value, placed_traces

Placed = tuple[Layer, tuple[int, ...]]
COSTS = st.tuples(st.sampled_from(OBJECTIVES), st.sampled_from(DISPATCHES))


def overlap(one: Bracket, other: Bracket, factor: int | Fraction = 1) -> bool:
    """Whether the same number, times the factor, can be in both brackets; both are closed but for
    what 64-bit floats cannot tell.
    """
    assert one.value is not None
    assert other.value is not None
    return one.bound * factor <= other.value and other.bound <= one.value * factor


@settings(max_examples=100, deadline=None)
@given(placed_traces(), COSTS)
def test_values_are_those_of_the_definition(placed: Placed, cost: tuple[str, str]) -> None:
    layer, slots = placed
    truth = exact_value(layer, slots, *cost)
    found = value(layer, slots, *cost)
    assert found.bound <= truth <= found.incumbent
    assert found.closed or cost[1] == "fixed"


@settings(max_examples=100, deadline=None)
@given(placed_traces(), st.sampled_from(OBJECTIVES))
def test_even_costs_more_than_fixed_and_that_more_than_optimal(
    placed: Placed, objective: str
) -> None:
    even, fixed, optimal = (value(*placed, objective, dispatch) for dispatch in DISPATCHES)
    assert even.incumbent >= fixed.incumbent
    assert fixed.bound >= optimal.incumbent
    if objective == "sum":
        assert fixed.value == fixed.bound == optimal.value


@settings(max_examples=60, deadline=None)
@given(placed_traces(), COSTS, st.integers(2, 9))
def test_values_scale_with_the_loads(placed: Placed, cost: tuple[str, str], factor: int) -> None:
    layer, slots = placed
    steps = layer.steps.astype(object) * factor
    scaled = replace(layer, loads=tuple(int(load) for load in steps.sum(axis=0)), steps=steps)
    assert overlap(value(layer, slots, *cost), value(scaled, slots, *cost), factor)


@settings(max_examples=60, deadline=None)
@given(placed_traces(hierarchical=False), COSTS, st.randoms(use_true_random=False))
def test_orders_of_ranks_and_steps_do_not_matter(
    placed: Placed, cost: tuple[str, str], random: np.random.Generator
) -> None:
    layer, slots = placed
    size = layer.topology.slots_per_rank
    ranks = [slots[i : i + size] for i in range(0, len(slots), size)]
    random.shuffle(ranks)
    order = list(range(len(layer.steps)))
    random.shuffle(order)
    shuffled = replace(layer, steps=layer.steps[order])
    moved = tuple(e for rank in ranks for e in rank)
    assert overlap(value(layer, slots, *cost), value(shuffled, moved, *cost))


@settings(max_examples=60, deadline=None)
@given(placed_traces(spread=False), st.sampled_from(OBJECTIVES))
def test_a_second_copy_on_a_rank_does_not_matter(placed: Placed, objective: str) -> None:
    """Under optimal and fixed dispatch: every rank holds what it holds twice."""
    layer, slots = placed
    topology = layer.topology
    size, machine = topology.slots_per_rank, Topology(2 * len(slots), topology.num_ranks)
    twice = [slots[i : i + size] * 2 for i in range(0, len(slots), size)]
    doubled = tuple(e for rank in twice for e in rank)
    for dispatch in ("optimal", "fixed"):
        found = value(replace(layer, topology=machine), doubled, objective, dispatch)
        assert overlap(value(layer, slots, objective, dispatch), found)


@settings(max_examples=60, deadline=None)
@given(placed_traces(), st.sampled_from(DISPATCHES))
def test_ends_of_cvar_and_single_steps(placed: Placed, dispatch: str) -> None:
    layer, slots = placed
    shares = (Fraction(1), Fraction(1, len(layer.steps)))
    for share, name in zip(shares, ("mean", "worst"), strict=True):
        tail = value(layer, slots, Objective("cvar", share), dispatch)
        assert overlap(tail, value(layer, slots, name, dispatch))
    step = layer.each_step()[0]
    total = value(step, slots, "sum", dispatch)
    for objective in ("mean", "worst", "cvar:0.3"):
        assert value(step, slots, objective, dispatch) == total


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_steps_without_load_cost_nothing_and_count(objective: str, dispatch: str) -> None:
    trace = [[[0, 0, 0]], [[6, 2, 1]], [[0, 0, 0]], [[0, 5, 1]]]
    layer = Instance(trace, Topology(4, 2)).layer(0)
    slots = (0, 1, 0, 2)
    found = value(layer, slots, objective, dispatch)
    assert found.value == found.bound == exact_value(layer, slots, objective, dispatch)
    idle = Instance(np.zeros((3, 1, 3), np.int64), Topology(4, 2)).layer(0)
    assert value(idle, slots, objective, dispatch).value == 0


def test_shares_of_experts_without_load_are_even() -> None:
    layer = Instance([[[0, 6, 1]], [[0, 2, 3]]], Topology(6, 2)).layer(0)
    found = value(layer, (0, 0, 1, 0, 1, 2), "mean", "fixed")
    assert found.shares is not None
    assert [found.shares[slot] for slot in (0, 1, 3)] == [Fraction(1, 3)] * 3
    assert found.shares[5] == 1
