from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt.certificate.patterns import certified_pattern_bound
from eplb_opt.io.synthetic import generate
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.topology import Topology
from solvers.column_generation.pattern_bound import pattern_bound
from solvers.column_generation.replicas import GRID, bins_of
from solvers.options import Budget, SearchOptions
from tests.oracles.layers import HALVES, WHOLE, make_layer, tiny_layers
from tests.oracles.packings import joint_optimum

SHAPES = [(1, 1), (2, 2), (2, 3), (3, 2), (1, 4), (4, 2), (6, 1), (3, 3)]


LAYERS = tiny_layers(SHAPES, WHOLE, HALVES, most_experts=5)


@settings(max_examples=150)
@given(LAYERS)
def test_bound_never_exceeds_the_optimum_and_its_certificate_holds(layer: Layer) -> None:
    bound = pattern_bound(layer, precision=1e-3)
    assert bound.bound <= joint_optimum(layer)
    assert bound.bound >= Fraction(sum(layer.loads), layer.topology.num_ranks) * layer.unit
    if bound.evidence is not None:
        assert certified_pattern_bound(layer, bound.evidence) == bound.bound


@settings(max_examples=100)
@given(LAYERS)
def test_an_optimal_incumbent_is_never_excluded(layer: Layer) -> None:
    optimum = joint_optimum(layer)
    bound = pattern_bound(layer, upper=optimum, precision=1e-6)
    assert bound.bound <= optimum


def test_bound_above_mean_and_threshold_is_found() -> None:
    layer = make_layer([10, 10, 1, 1, 1, 1], 6, 2)
    assert pattern_bound(layer).bound == Fraction(12)
    heavy = make_layer([8, 8, 8], 4, 2)
    assert joint_optimum(heavy) == 12
    assert Fraction(1199, 100) < pattern_bound(heavy).bound <= 12


def test_a_bound_from_spare_slots_alone_is_certified() -> None:
    layer = make_layer([100, 1, 1], 3, 3)
    bound = pattern_bound(layer)
    assert Fraction(9999, 100) < bound.bound <= 100
    assert bound.evidence is not None
    assert certified_pattern_bound(layer, bound.evidence) == bound.bound


def test_zipf_layer_with_three_slots_is_bounded_above_mean_and_threshold() -> None:
    loads = [4096 * 64 // (i + 1) for i in range(64)]
    layer = make_layer(loads, 72, 24)
    least = max(Fraction(sum(loads), 24), smallest_threshold(loads, 72))
    bound = pattern_bound(layer)
    assert bound.bound > least * Fraction(103, 100)
    assert bound.evidence is not None
    assert certified_pattern_bound(layer, bound.evidence) == bound.bound


def smallest_threshold(loads: list[int], num_slots: int) -> Fraction:
    """The least possible load of the heaviest replica."""
    counts = [1] * len(loads)
    for _ in range(num_slots - len(loads)):
        heaviest = max(range(len(loads)), key=lambda e: Fraction(loads[e], counts[e]))
        counts[heaviest] += 1
    return max(Fraction(w, c) for w, c in zip(loads, counts, strict=True))


def test_an_incumbent_that_meets_the_bound_is_proven_optimal() -> None:
    layer = make_layer([100, 1, 1], 3, 3)
    bound = pattern_bound(layer, upper=Fraction(100))
    assert bound.bound == 100
    assert bound.evidence is not None
    assert certified_pattern_bound(layer, bound.evidence) == 100


def test_too_many_kinds_of_replicas_are_refused() -> None:
    with pytest.raises(ValueError, match="too large for a pattern bound"):
        pattern_bound(make_layer([1] * 5000, 20_000, 100))


def test_a_layer_without_load_has_the_bound_zero() -> None:
    bound = pattern_bound(make_layer([0, 0], 4, 2))
    assert (bound.bound, bound.evidence) == (0, None)


def test_a_time_limit_of_zero_leaves_the_starting_bound() -> None:
    layer = make_layer([8, 8, 8], 4, 2)
    none = SearchOptions(time_limit=0)
    assert pattern_bound(layer, Budget(none)).bound == 12
    assert pattern_bound(layer, Budget(none), lower=Fraction(25, 2)).bound == Fraction(25, 2)


def test_floats_are_bounded_in_tokens() -> None:
    loads = np.array([8.5, 8.25, 8.125])
    layer = make_layer(loads.tolist(), 4, 2)
    bound = pattern_bound(layer)
    assert bound.bound <= joint_optimum(layer)
    assert bound.bound > 12


@pytest.mark.parametrize("seed", range(3))
def test_result_is_repeatable(seed: int) -> None:
    loads = np.random.default_rng(seed).integers(1, 1000, 12).tolist()
    layer = make_layer(loads, 15, 5)
    first, second = pattern_bound(layer), pattern_bound(layer)
    assert first == second


@pytest.mark.parametrize(("family", "least"), [("zipf", 8198.9), ("lognormal", 8196.0)])
def test_bound_is_as_strong_as_it_was(family: str, least: float) -> None:
    """The closed form says 8192 for both."""
    loads = generate(family, num_layers=1, num_experts=16, tokens=4096 * 16, seed=0)
    budget = Budget()
    bound = pattern_bound(Instance(loads, Topology(24, 8)).layer(0), budget, precision=1e-4)
    assert bound.bound >= least
    assert budget.used < 30_000_000


def test_listing_the_replicas_is_work() -> None:
    """At 6,000 experts and 12,000 slots a trial took 17 s where 0.2 s were given."""
    loads = np.random.default_rng(1).lognormal(5, 1.2, 600).astype(int) + 1
    layer = Instance([loads], Topology(1200, 300)).layer(0)
    found = pattern_bound(layer, Budget(SearchOptions(work_limit=1000)))
    assert (found.limit, found.evidence) == ("work", None)
    assert found.bound == Fraction(int(loads.sum()), 300)


@settings(max_examples=50)
@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_bins_hold_what_lies_in_them(num_bins: int, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(0, GRID, (5, 7))
    bins = bins_of(weights, num_bins)
    cells, of = np.unique(weights * num_bins // GRID, return_inverse=True)
    assert (bins.of.ravel() == of.ravel()).all()
    assert [weights[bins.of == b].min() for b in range(len(cells))] == bins.lightest.tolist()
