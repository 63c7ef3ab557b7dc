"""Rank patterns where the counts are given: valid, and stronger than with free counts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Topology
from eplb_opt.io.synthetic import generate
from solvers import Stages, solve
from solvers.column_generation.pattern_bound import pattern_bound
from solvers.options import Budget, SearchOptions
from tests.solvers.test_against_brute_force import Rule, tiny_layers


@settings(max_examples=150)
@given(tiny_layers(Rule.GLOBAL), st.data())
def test_never_above_the_optimal_packing(layer, data):
    number = layer.num_redundant_experts
    experts = st.integers(0, layer.num_logical_experts - 1)
    extra = data.draw(st.lists(experts, min_size=number, max_size=number))
    counts = [1 + extra.count(e) for e in range(layer.num_logical_experts)]
    if max(counts) > layer.topology.num_ranks:
        return
    truth = solve(layer, stage="packing", backend="brute-force", given=Stages(counts=counts))
    for upper in (None, truth.objective):
        found = pattern_bound(layer, Budget(SearchOptions(5)), counts=counts, upper=upper)
        assert found.bound <= truth.objective


def test_closes_the_gap_that_the_search_leaves():
    loads = generate("zipf", num_layers=1, num_experts=48, tokens=48 * 4096, seed=0)
    layer = Instance(loads, Topology(72, 24)).layer(0)
    searched = solve(layer, stage="packing", backend="search", work_limit=1_000_000)
    both = solve(layer, stage="packing", work_limit=100_000_000)
    assert both.bound_source == "patterns"
    assert searched.gap > 0.02
    assert both.gap < 0.005
