from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import Cost
from eplb_opt.problem.topology import Topology
from eplb_opt.problem.validity import layer_violation
from solvers.model_size import TooLargeError
from solvers.options import Budget, SearchOptions
from solvers.tree_search import steps
from tests.oracles.steps import (
    DISPATCHES,
    OBJECTIVES,
    distinct_placements,
    exact_value,
    optimum,
    tiny_traces,
)

WHICH = st.sampled_from(OBJECTIVES)


def solve(layer, objective, dispatch, counts=None, **limits):
    budget = Budget(SearchOptions(**limits))
    return steps.solve_joint(layer, Cost.of(objective, dispatch), budget, counts=counts), budget


def check_placement(layer, found, objective, dispatch):
    assert layer_violation(layer, found.placement) is None
    assert exact_value(layer, found.placement, objective, dispatch) == found.value


@pytest.mark.parametrize("dispatch", DISPATCHES)
@settings(max_examples=40, deadline=None)
@given(tiny_traces(), WHICH)
def test_matches_brute_force(dispatch, layer, objective):
    found, _ = solve(layer, objective, dispatch)
    best = optimum(layer, objective, dispatch)
    assert found.bound <= best <= found.value
    if found.limit is None:
        assert found.bound == found.value
        check_placement(layer, found, objective, dispatch)
    else:  # linear programs with loads of 1e-85 beside 1
        assert (found.limit, dispatch, layer.steps.dtype) == ("precision", "fixed", object)


@settings(max_examples=30, deadline=None)
@given(tiny_traces(), WHICH, st.data())
def test_given_counts_match_brute_force(layer, objective, data):
    placements = distinct_placements(layer)
    counts = Counter(data.draw(st.sampled_from(placements)))
    values = [exact_value(layer, p, objective, "even") for p in placements if Counter(p) == counts]
    found, _ = solve(layer, objective, "even", [counts[e] for e in range(len(layer.loads))])
    assert found.bound == found.value == min(values)
    assert Counter(found.placement) == counts
    check_placement(layer, found, objective, "even")


@settings(max_examples=40, deadline=None)
@given(tiny_traces(), WHICH, st.sampled_from(DISPATCHES), st.integers(0, 30))
def test_bound_is_valid_when_work_runs_out(layer, objective, dispatch, work):
    found, budget = solve(layer, objective, dispatch, work_limit=work)
    assert found.bound <= optimum(layer, objective, dispatch) <= found.value
    assert found.limit in ((None,) if found.bound == found.value else ("work", "precision"))
    assert budget.used <= work + 100
    check_placement(layer, found, objective, dispatch)


def trace(num_experts, num_slots, num_ranks, seed=0, steps=4, **machine):
    random = np.random.default_rng(seed)
    loads = random.multinomial(500, random.dirichlet(np.full(num_experts, 0.5)), size=steps)
    return Instance([[row] for row in loads], Topology(num_slots, num_ranks, **machine)).layer(0)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_tolerance_and_start(dispatch):
    layer = trace(6, 9, 3)
    exact, budget = solve(layer, "mean", dispatch)
    near, _ = solve(layer, "mean", dispatch, tolerance=Fraction(1, 10))
    assert near.value <= near.bound * Fraction(11, 10)
    assert near.bound <= exact.value <= near.value
    again = Budget()
    cost = Cost.of("mean", dispatch)
    assert steps.solve_joint(layer, cost, again, exact.placement).value == exact.value
    assert again.used <= budget.used


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_interrupt_and_time_keep_what_is_known(dispatch, monkeypatch):
    layer = trace(12, 16, 4, steps=8)
    found, _ = solve(layer, "mean", dispatch, time_limit=0)
    assert found.bound < found.value
    assert found.limit == "time"

    def interrupt(*_):
        raise KeyboardInterrupt

    for tree in (steps.CountTree, steps.SetTree):
        monkeypatch.setattr(tree, "advance", interrupt)
    found, budget = solve(layer, "mean", dispatch)
    assert found.bound < found.value
    assert found.limit == "interrupt"
    assert budget.interrupted


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_loads_beyond_64_bits(dispatch):
    """Rounded for the trees, but never in the answer."""
    rows = [[1e300, 1e-3, 7.1, 3.3], [2.5, 1.0, 1e-300, 9.0]]
    layer = Instance([[row] for row in rows], Topology(6, 2)).layer(0)
    found, _ = solve(layer, "mean", dispatch)
    assert found.bound <= optimum(layer, "mean", dispatch) <= found.value
    assert found.limit == ("precision" if dispatch == "fixed" else None)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_experts_that_rounding_makes_equal_are_not_interchangeable(dispatch):
    """Once the second expert, of next to no load, was taken for one without load."""
    layer = Instance([[[0, 1.0, 1e-85, 0, 0]]], Topology(6, 3), spread_replicas=True).layer(0)
    assert solve(layer, "sum", dispatch)[0].value == Fraction(1, 2)


def test_refuses_many_ranks_in_a_node_and_many_partitions():
    with pytest.raises(TooLargeError, match="13 ranks in a node"):
        solve(trace(13, 26, 13), "mean", "optimal")
    with pytest.raises(TooLargeError, match="16 groups have more than 20,000 partitions"):
        solve(trace(16, 32, 16, num_nodes=4, num_groups=16), "mean", "even")


def test_prices_do_not_exclude_what_is_less_than_a_unit_below_the_incumbent() -> None:
    """Costs under fixed dispatch were taken for multiples of 1 / 2: 2 was "proven" where 5/3 is."""
    trace = [[[0, 1, 0]], [[0, 1, 0]], [[1, 0, 1]], [[0, 1, 2]]]
    layer = Instance(trace, Topology(4, 2), spread_replicas=True).layer(0)
    found = steps.solve_joint(layer, Cost.of("worst", "fixed"), Budget())
    assert (found.value, found.bound) == (Fraction(5, 3), Fraction(5, 3))
