"""Brute force, CP-SAT and the closed-form bounds on tiny instances, in exact arithmetic."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Placement, Rule, Topology, find_violations
from eplb_opt.bounds import lower_bound, packing_bound, refute
from eplb_opt.metrics import exact_makespan
from solvers import Stages, solve

INTEGERS = st.one_of(st.integers(0, 6), st.integers(0, 4096), st.just(0))
FLOATS = st.one_of(
    st.floats(0, 8, allow_subnormal=False), st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 1e6, 2.5])
)


@st.composite
def tiny_layers(draw: st.DrawFn, rule: Rule) -> Layer:
    """E <= 6 and P <= 8; under the hierarchical rule 2 nodes."""
    load = draw(st.sampled_from([INTEGERS, FLOATS]))
    if rule == Rule.GLOBAL:
        ranks, slots = draw(st.sampled_from([(r, p) for p in range(1, 9) for r in range(1, p + 1)
                                             if p % r == 0]))  # fmt: skip
        experts = draw(st.integers(1, min(6, slots)))
        topology = Topology(slots, ranks)
    else:
        groups, size = draw(st.sampled_from([(2, 1), (2, 2), (2, 3), (4, 1)]))
        slots, ranks = draw(st.sampled_from([(8, 2), (8, 4), (6, 2), (8, 8), (6, 6), (4, 2)]))
        experts = groups * size
        if experts > slots:
            slots, ranks = 8, 4
        topology = Topology(slots, ranks, num_nodes=2, num_groups=groups)
    loads = draw(st.lists(load, min_size=experts, max_size=experts))
    return Instance([loads], topology, rule).layer(0)


def assert_consistent(layer: Layer) -> None:
    truth = solve(layer, backend="brute-force")
    exact = solve(layer, backend="cp-sat", time_limit=60)
    instance = Instance([[float(w * layer.unit) for w in layer.loads]], layer.topology, layer.rule)
    for result in (truth, exact):
        placement = Placement([result.placement], layer.num_logical_experts)
        assert not find_violations(placement, instance)
        assert exact_makespan(layer, result.placement) == result.objective
    assert exact.objective == truth.objective
    assert exact.lower_bound <= truth.objective
    if layer.unit == 1:  # floats with 50-bit fractions leave the integers of the solver inexact
        assert exact.status == "optimal"
    assert lower_bound(layer).value <= truth.objective


@settings(max_examples=200, deadline=None)
@given(tiny_layers(Rule.GLOBAL))
def test_joint_global(layer: Layer) -> None:
    assert_consistent(layer)


@settings(max_examples=100, deadline=None)
@given(tiny_layers(Rule.HIERARCHICAL))
def test_joint_hierarchical(layer: Layer) -> None:
    assert_consistent(layer)


@settings(max_examples=150, deadline=None)
@given(tiny_layers(Rule.GLOBAL), st.data())
def test_packing(layer: Layer, data: st.DataObject) -> None:
    extra = data.draw(st.lists(st.integers(0, layer.num_logical_experts - 1),
                               min_size=layer.num_redundant_experts,
                               max_size=layer.num_redundant_experts))  # fmt: skip
    counts = tuple(1 + extra.count(e) for e in range(layer.num_logical_experts))
    truth = solve(layer, stage="packing", backend="brute-force", given=Stages(counts=counts))
    exact = solve(layer, stage="packing", time_limit=60, given=Stages(counts=counts))
    assert exact.objective == truth.objective == exact_makespan(layer, exact.placement)
    assert packing_bound(layer, counts).value <= truth.objective
    assert exact.counts == counts


@settings(max_examples=200, deadline=None)
@given(tiny_layers(Rule.GLOBAL), st.fractions(0, 2))
def test_no_reachable_makespan_is_refuted(layer: Layer, above: Fraction) -> None:
    optimum = solve(layer, backend="brute-force").objective
    assert refute(layer, optimum * (1 + above)) is None


def test_published_example_has_optimum_590_thirds(published_layer: Layer) -> None:
    result = solve(published_layer)
    assert result.objective == result.lower_bound == Fraction(590, 3)


@pytest.mark.parametrize("backend", ["cp-sat", "brute-force"])
def test_layer_without_load(backend: str) -> None:
    for rule in Rule:
        layer = Instance([[0] * 4], Topology(6, 2, 2, 2), rule).layer(0)
        result = solve(layer, backend=backend)
        assert (result.objective, result.status) == (0, "optimal")
