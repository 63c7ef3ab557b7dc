"""What a placement costs under each objective and dispatch, from the definitions."""

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology, bounds
from eplb_opt.problem.objective import Dispatch, Objective
from solvers import solve
from solvers.dispatch import value
from tests.oracles.layers import HALVES, WHOLE, fill, rows

OBJECTIVES = ["sum", "mean", "worst", "cvar:0.4"]


@st.composite
def traces(draw: st.DrawFn) -> tuple[Layer, tuple[int, ...]]:
    ranks, size = draw(st.sampled_from([(2, 2), (3, 2), (2, 3)]))
    experts, steps = draw(st.integers(1, min(4, ranks * size))), draw(st.integers(1, 4))
    row = draw(st.sampled_from([rows(experts, WHOLE), rows(experts, HALVES)]))
    trace = draw(st.lists(row, min_size=steps, max_size=steps))
    slots = draw(fill(experts, ranks * size))
    layer = Instance([[row] for row in trace], Topology(ranks * size, ranks)).layer(0)
    return layer, slots


@settings(max_examples=100)
@given(traces())
def test_bounds_are_below_every_placement(placed: tuple[Layer, tuple[int, ...]]) -> None:
    layer, slots = placed
    cost = {d: value(layer, slots, "sum", d).incumbent for d in ("even", "fixed", "optimal")}
    assert cost["even"] >= cost["fixed"] == cost["optimal"]
    for objective, dispatch in product(OBJECTIVES, Dispatch):
        bound = bounds.of(layer, objective, dispatch).value
        assert bound <= value(layer, slots, objective, dispatch).incumbent, (objective, dispatch)


def test_what_is_not_known_is_refused() -> None:
    layer = Instance([[[3, 1]], [[1, 1]]], Topology(4, 2)).layer(0)
    with pytest.raises(ValueError, match="with counts: use 'even'"):
        bounds.of(layer, dispatch="optimal", counts=(2, 2))
    for words in (
        {"objective": "mean", "stage": "counts"},
        {"dispatch": "optimal", "stage": "packing"},
    ):
        with pytest.raises(ValueError, match="cannot be solved"):
            solve(layer, **words)
    with pytest.raises(ValueError, match="dispatch='best' is not one of even, fixed, optimal"):
        solve(layer, dispatch="best")
    with pytest.raises(ValueError, match="backend='two-slots' is not one of auto, "):
        solve(layer, dispatch="optimal", backend="two-slots")


def test_a_hierarchical_layer_is_solved_under_optimal_dispatch() -> None:
    layer = Instance([[1, 2, 3, 4]], Topology(8, 4, 2, 2)).layer(0)
    result = solve(layer, dispatch="optimal")
    assert (result.objective, result.status) == (Fraction(7, 2), "optimal")


def test_spread_replicas_hold_under_optimal_dispatch() -> None:
    """Free slots were once filled with a second copy on the same rank."""
    instance = Instance([[0, 4, 0, 0]], Topology(6, 2), spread_replicas=True)
    result = solve(instance.layer(0), dispatch="optimal")
    assert (result.objective, str(result.status)) == (2, "optimal")
    assert all(len(set(result.placement[i : i + 3])) == 3 for i in (0, 3))


def test_the_default_objective_is_the_sum() -> None:
    assert Objective() == Objective.parse("sum")
