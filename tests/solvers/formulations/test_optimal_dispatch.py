from fractions import Fraction
from itertools import combinations, combinations_with_replacement, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import bounds
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import SolveStatus
from eplb_opt.problem.topology import Topology
from solvers import solve
from solvers.backends import JOINT_OVER_STEPS
from solvers.dispatch import best_shares, value
from tests.oracles.layers import WHOLE, fill, make_layer, rows
from tests.oracles.steps import optimum


def split_by_enumeration(layer: Layer, slots: tuple[int, ...]) -> Fraction:
    """max over sets F of w(F) / |ranks of F|, over all sets."""
    size = layer.topology.slots_per_rank
    best = Fraction(0)
    for m in range(1, len(layer.loads) + 1):
        for chosen in combinations(range(len(layer.loads)), m):
            ranks = {slot // size for slot, e in enumerate(slots) if e in chosen}
            best = max(best, Fraction(sum(layer.loads[e] for e in chosen), len(ranks)))
    return best * layer.unit


@st.composite
def placed_layers(draw: st.DrawFn) -> tuple[Layer, tuple[int, ...]]:
    ranks, size = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    experts = draw(st.integers(1, min(6, ranks * size)))
    layer = make_layer(
        draw(rows(experts, WHOLE, st.floats(0, 1e6, allow_subnormal=False))), ranks * size, ranks
    )
    return layer, draw(fill(experts, ranks * size))


@settings(max_examples=300)
@given(placed_layers())
def test_best_shares_is_optimal_and_proves_it(placed: tuple[Layer, tuple[int, ...]]) -> None:
    layer, slots = placed
    split = best_shares(layer, slots)
    size, G = layer.topology.slots_per_rank, layer.topology.num_ranks
    assert split.makespan == split_by_enumeration(layer, slots)
    assert split.makespan <= value(layer, slots).incumbent
    assert split.makespan >= bounds.of(layer, dispatch="optimal").value
    for load, row in zip(layer.loads, split.tokens, strict=True):
        assert sum(row.values()) == load * layer.unit
    for e, row in enumerate(split.tokens):
        assert set(row) <= {slot // size for slot, held in enumerate(slots) if held == e}
    received = [sum(row.get(r, Fraction(0)) for row in split.tokens) for r in range(G)]
    assert max(received) == split.makespan
    touched = {slot // size for slot, e in enumerate(slots) if e in split.critical}
    critical_load = sum(layer.loads[e] for e in split.critical) * layer.unit
    assert critical_load == split.makespan * len(touched)


def best_by_enumeration(layer: Layer) -> Fraction:
    experts, topology = range(len(layer.loads)), layer.topology
    ranks = list(combinations_with_replacement(experts, topology.slots_per_rank))
    placements = (
        tuple(e for rank in choice for e in rank)
        for choice in product(ranks, repeat=topology.num_ranks)
    )
    return min(
        split_by_enumeration(layer, slots) for slots in placements if set(slots) == set(experts)
    )


@pytest.mark.parametrize("backend", [n for n, b in JOINT_OVER_STEPS.items() if not b.in_floats])
@settings(max_examples=60)
@given(st.sampled_from([(2, 1), (2, 2), (3, 1), (3, 2), (2, 3)]), st.data())
def test_best_placement_under_optimal_dispatch(
    backend: str, shape: tuple[int, int], data: st.DataObject
) -> None:
    ranks, size = shape
    experts = data.draw(st.integers(1, min(3, ranks * size)))
    loads = data.draw(st.lists(st.integers(0, 30), min_size=experts, max_size=experts))
    layer = make_layer(loads, ranks * size, ranks)
    result = solve(layer, dispatch="optimal", backend=backend)
    optimum = best_by_enumeration(layer)
    assert result.status == SolveStatus.OPTIMAL
    assert result.objective == result.lower_bound == optimum
    assert bounds.of(layer, dispatch="optimal").value <= optimum
    assert result.placement is not None
    assert set(result.placement) == set(range(experts))


def test_a_published_example_reaches_the_mean() -> None:
    layer = make_layer([600, 560, 120, 120, 20, 10, 10, 10], 16, 8)
    result = solve(layer, dispatch="optimal", time_limit=20)
    assert result.objective == Fraction(1450, 8)
    assert result.status == SolveStatus.OPTIMAL


def test_the_bound_counts_the_slots_that_others_need() -> None:
    # the heaviest expert has at most 2 of 4 slots, as two others need one each
    assert bounds.of(make_layer([90, 1, 1], 4, 4), dispatch="optimal").value == 45


def test_invalid_input_is_refused() -> None:
    layer = make_layer([3, 2, 1], 4, 2)
    with pytest.raises(ValueError, match="3 entries"):
        best_shares(layer, (0, 1, 2))
    with pytest.raises(ValueError, match="expert 2 has load but no slot"):
        best_shares(layer, (0, 1, 1, 0))


def test_a_bound_of_prices_is_not_rounded_up() -> None:
    """The closed-form bound was raised to the model's grid: the bound was 3e-7 above an optimum."""
    steps = [[[4, 5, 2, 3]], [[0, 2, 0, 5]], [[3, 0, 4, 1]]]
    layer = Instance(steps, Topology(4, 2)).layer(0)
    found = solve(layer, objective="mean", dispatch="fixed", backend="cuts")
    assert (found.objective, found.lower_bound) == (Fraction(16, 3), Fraction(16, 3))


@pytest.mark.parametrize("backend", ["cp-sat", "cuts"])
def test_makespans_of_rounded_loads_are_not_rounded_up(backend: str) -> None:
    layer = Instance([[0.0, 5e-324, 1e10, 1.0, 5e-324]], Topology(6, 3)).layer(0)
    result = solve(layer, dispatch="optimal", backend=backend)
    assert result.lower_bound <= optimum(layer, "sum", "optimal") <= result.objective
