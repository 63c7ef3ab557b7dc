"""Bounds under the rule ``home``, against brute force over all placements and all homes."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology, bounds
from eplb_opt.bounds import homes
from eplb_opt.problem.objective import Objective, rank_loads
from eplb_opt.problem.validity import layer_violation, over_limit
from tests.oracles.homes import even_makespan, even_optimum, optimal_optimum, within_limit

SHAPES = [(4, 6, 2, 2, 2), (4, 6, 2, 2, 4), (4, 4, 2, 2, 2), (3, 6, 3, 3, 3), (4, 8, 4, 2, 2)]
"""(experts, slots, ranks, nodes, groups)"""
LIMITS = [
    Fraction(0),
    Fraction(1, 20),
    Fraction(1, 7),
    Fraction("0.2"),
    Fraction(1, 2),
    Fraction(1),
]
LOADS = st.one_of(
    st.lists(st.integers(0, 9), min_size=4, max_size=4),
    st.lists(st.sampled_from([0, 1, 7, 60]), min_size=4, max_size=4),
    st.integers(1, 5).map(lambda load: [load] * 4),
    st.lists(st.integers(0, 10**18), min_size=4, max_size=4),
    st.lists(st.floats(0, 9, width=16), min_size=4, max_size=4),
)
TRACES = st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=3)


def home_layer(rows: list[list[int]], shape: tuple[int, ...], limit: Fraction) -> Layer:
    experts, *machine = shape
    trace = [[row[:experts]] for row in rows]
    topology = Topology(*machine)
    return Instance(np.array(trace), topology, rule="home", traffic_limit=limit).layer(0)


layers = st.builds(
    lambda row, *rest: home_layer([row], *rest),
    LOADS,
    st.sampled_from(SHAPES),
    st.sampled_from(LIMITS),
)


def check_sum(layer: Layer) -> None:
    best = even_optimum(layer) * layer.unit
    even = bounds.of(layer).value
    free = bounds.of(layer, "sum", "optimal").value
    assert bounds.of(layer.without_nodes()).value <= even <= best
    assert bounds.of(layer.without_nodes(), "sum", "optimal").value <= free <= even


@settings(max_examples=25, deadline=None)
@given(layers)
def test_no_placement_is_below_the_bound(layer: Layer) -> None:
    check_sum(layer)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(layers)
def test_no_placement_of_many_is_below_the_bound(layer: Layer) -> None:
    check_sum(layer)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(layers)
def test_no_shares_are_below_the_bound(layer: Layer) -> None:
    best = optimal_optimum(layer) * float(layer.unit)
    for dispatch in ("optimal", "fixed"):
        assert float(bounds.of(layer, "sum", dispatch).value) <= best * (1 + 1e-9) + 1e-9


@settings(max_examples=15, deadline=None)
@given(
    TRACES,
    st.sampled_from(SHAPES[:4]),
    st.sampled_from(LIMITS),
    st.sampled_from(["mean", "worst", "cvar:0.4"]),
)
def test_no_placement_is_below_the_bound_over_steps(
    rows: list[list[int]], shape: tuple[int, ...], limit: Fraction, name: str
) -> None:
    """The limit is one of all steps together, and a step alone may exceed it."""
    layer, objective = home_layer(rows, shape, limit), Objective.parse(name)
    each = [tuple(map(int, step)) for step in layer.steps]
    best = min(
        objective.over([even_makespan(step, ranks) for step in each])
        for ranks in within_limit(layer)
    )
    assert bounds.wait_and_see(layer, name, "even").value <= bounds.of(layer, name).value <= best
    assert bounds.of(layer, name, "fixed").value <= best


def test_without_traffic_the_bound_is_that_of_the_hierarchical_rule() -> None:
    loads = np.array([[40, 12, 11, 10, 9, 8, 3, 7]])
    machine = Topology(12, 4, 2, 4)
    home = Instance(loads, machine, rule="home", traffic_limit=0).layer(0)
    grouped = Instance(loads, machine, rule="hierarchical").layer(0)
    for dispatch in ("even", "fixed", "optimal"):
        for objective in ("sum", "mean"):
            assert bounds.of(home, objective, dispatch).value == (
                bounds.of(grouped, objective, dispatch).value
            )


def test_an_expert_without_load_may_fill_a_slot_of_another_node() -> None:
    """With limit 0 it is as good as an empty slot, which the hierarchical rule does not have: the
    node is perfectly balanced, and with all slots filled by its own experts it is not.
    """
    loads = [240, 37, 23, 41, 19, 20, 9, 8, 7, 0]
    layer = Instance([loads], Topology(18, 6, 2, 2), rule="home", traffic_limit=0).layer(0)
    slots = (0, 0, 9, 0, 1, 2, 0, 3, 4, 5, 5, 5, 6, 6, 7, 8, 9, 9)
    assert layer_violation(layer, slots) is None
    assert over_limit(layer, slots) is None
    assert max(rank_loads(layer, slots)) == 120 == bounds.of(layer).value


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=12, max_size=12),
    st.sampled_from([(2, 12), (3, 6), (3, 12), (2, 6), (4, 12), (6, 12)]),
    st.sampled_from(LIMITS),
)
def test_the_relaxation_is_no_more_than_all_partitions(
    loads: list[int], nodes_and_groups: tuple[int, int], limit: Fraction
) -> None:
    nodes, groups = nodes_and_groups
    layer = Instance(
        [loads], Topology(24, 12, nodes, groups), rule="home", traffic_limit=limit
    ).layer(0)
    exact = bounds.of(layer, "sum", "optimal").value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(homes, "has_few_partitions", lambda _: False)
        relaxed = bounds.of(layer, "sum", "optimal").value
        mean = Fraction(sum(loads), 12)
        assert mean <= relaxed <= exact
        if limit == 0 and groups == nodes:
            assert relaxed == exact


@given(TRACES, st.sampled_from(LIMITS))
def test_large_loads_and_limits_of_many_digits_are_exact(
    rows: list[list[int]], limit: Fraction
) -> None:
    small = home_layer(rows, (4, 8, 4, 2, 2), limit)
    factor = 10**25 + 7
    large = Layer(
        tuple(factor * load for load in small.loads),
        small.unit,
        small.topology,
        small.rule,
        steps=small.steps.astype(object) * factor,
        traffic_limit=limit,
    )
    for objective in ("sum", "mean"):
        found = [bounds.of(layer, objective, "optimal").value for layer in (small, large)]
        assert found[1] == factor * found[0]
    near = replace(small, traffic_limit=limit * Fraction(10**40 - 1, 10**40))
    assert bounds.of(near, "mean", "optimal").value >= bounds.of(small, "mean", "optimal").value
