from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Topology
from eplb_opt.problem.objective import Cost
from eplb_opt.problem.validity import layer_violation
from solvers.options import Budget, SearchOptions
from solvers.tree_search import steps
from tests.oracles.steps import (
    OBJECTIVES,
    exact_value,
    optimum,
    tiny_traces,
)

WHICH = st.sampled_from(OBJECTIVES)


def solve(layer, objective, dispatch, **limits):
    return steps.solve_joint(layer, Cost.of(objective, dispatch), Budget(SearchOptions(**limits)))


@pytest.mark.parametrize("dispatch", ["even", "optimal", "fixed"])
@settings(max_examples=100, deadline=None)
@given(tiny_traces(), WHICH)
def test_matches_brute_force(dispatch, layer, objective):
    found = solve(layer, objective, dispatch)
    assert found.bound == found.value == optimum(layer, objective, dispatch)
    assert layer_violation(layer, found.placement) is None
    assert exact_value(layer, found.placement, objective, dispatch) == found.value
    assert found.limit is None


@pytest.mark.parametrize("dispatch", ["even", "optimal"])
def test_experts_that_rounding_makes_equal_do_not_change_places(dispatch: str) -> None:
    tiny = 2.2250738585072014e-308  # 0 beside the other load in 64 bits
    topology = Topology(num_physical_experts=6, num_ranks=3)
    layer = Instance([[0, tiny, 0, 0, 1.0]], topology, spread_replicas=True).layer(0)
    found = solve(layer, "sum", dispatch)
    assert found.value == found.bound == Fraction(1, 2)
