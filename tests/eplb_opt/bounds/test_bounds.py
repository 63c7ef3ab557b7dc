"""Closed-form bounds; their validity against brute force is in tests/solvers."""

from dataclasses import replace
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology, bounds
from eplb_opt.bounds import partitions
from eplb_opt.bounds.closed_form import (
    Window,
    _fewest_heavier,
    exclude,
    groups_bound,
    threshold,
    threshold_counts,
)
from eplb_opt.bounds.partitions import (
    all_blocks,
    bottleneck_partition,
    can_enumerate,
    lazy_bottleneck,
)
from eplb_opt.problem.objective import mean_load
from tests.oracles.packings import count_vectors


def layer_of(loads: list[float], *sizes: int) -> Layer:
    return Instance([loads], Topology(*sizes)).layer(0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(0, 6))
def test_threshold_counts_are_optimal(loads: list[int], redundant: int) -> None:
    slots = len(loads) + redundant
    layer = layer_of(loads, slots, 1)
    counts = threshold_counts(layer)
    assert sum(counts) == slots
    assert min(counts) >= 1
    best = min(max(Fraction(w, c) for w, c in zip(loads, cs, strict=True))
               for cs in count_vectors(len(loads), slots))  # fmt: skip
    assert (
        threshold(layer) == best == max(Fraction(w, c) for w, c in zip(loads, counts, strict=True))
    )


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 2), st.integers(0, 4)), min_size=1,
             max_size=4),
    st.integers(0, 5),
)  # fmt: skip
def test_counts_within_limits_are_lexicographically_optimal(
    experts: list[tuple[int, int, int]], redundant: int
) -> None:
    loads = [w for w, _, _ in experts]
    least, most = [c for _, c, _ in experts], [c + more for _, c, more in experts]
    layer = layer_of(loads, len(loads) + redundant, 1)
    allowed = [
        counts
        for counts in count_vectors(len(loads), len(loads) + redundant)
        if all(map(int.__le__, least, counts)) and all(map(int.__le__, counts, most))
    ]

    def profile(counts: tuple[int, ...]) -> list[Fraction]:
        return sorted((Fraction(w, c) for w, c in zip(loads, counts, strict=True)), reverse=True)

    if not allowed:
        with pytest.raises(ValueError, match="cannot be split into counts"):
            threshold_counts(layer, least, most)
    else:
        found = threshold_counts(layer, least, most)
        assert found in allowed
        assert profile(found) == min(map(profile, allowed))


def test_ties_go_to_fewer_replicas_then_to_the_smallest_index() -> None:
    assert threshold_counts(layer_of([4, 4, 4], 5, 1)) == (2, 2, 1)
    assert threshold_counts(layer_of([20, 10], 4, 1), least=(2, 1)) == (2, 2)


@pytest.mark.parametrize(
    ("loads", "sizes", "value", "source"),
    [
        ([5, 5, 5, 5], (4, 2), 10, "mean"),
        ([90, 1, 1], (4, 4), 45, "threshold"),
        # The 7 has no twin, so it shares its rank with at least a 3.
        ([7, 3, 3, 3], (4, 2), 10, "heaviest-with-lightest"),
        # Three items of 6 on two ranks of two: one rank has two of them.
        ([6, 6, 6, 1], (4, 2), 12, "pigeonhole"),
        ([0, 0, 0, 0], (4, 2), 0, "no-load"),
    ],
)
def test_each_argument_wins_where_it_should(
    loads: list[float], sizes: tuple[int, ...], value: int, source: str
) -> None:
    bound = bounds.of(layer_of(loads, *sizes))
    assert (bound.value, bound.source) == (value, source)


def test_what_excludes_a_makespan_is_named() -> None:
    layer = layer_of([6, 6, 6, 1], 4, 2)
    assert exclude(layer, Fraction(9)) == "mean"
    assert exclude(layer, Fraction(11)) == "pigeonhole"
    assert exclude(layer, Fraction(12)) is None
    assert exclude(layer, Fraction(-1)) == "mean"


def test_given_counts_are_bounded_on_their_own() -> None:
    layer = layer_of([6, 1, 1], 4, 2)
    assert bounds.of(layer, counts=(1, 2, 1)).value == Fraction(13, 2)
    assert bounds.of(layer, counts=(2, 1, 1)).value == 4


def test_hierarchical_bound_enumerates_partitions() -> None:
    loads = [10, 10, 0, 1, 9, 9, 2, 1, 8, 8, 8, 9, 5, 5, 5, 5]
    layer = layer_of([float(w) for w in loads], 32, 8, 4, 8)
    totals = [sum(loads[2 * k : 2 * k + 2]) for k in range(8)]
    best = min(
        max(sum(totals[k] for k in order[i : i + 2]) for i in range(0, 8, 2))
        for order in permutations(range(8))
    )
    assert groups_bound(layer).value >= Fraction(best, 2)
    assert bounds.of(layer).value >= groups_bound(layer).value
    assert bounds.of(layer).value == Fraction(best, 2)
    assert bounds.of(layer).source == "groups:mean"


def test_many_groups_fall_back_to_the_heaviest_group() -> None:
    loads = [1.0] * 64
    loads[0] = 1000
    layer = layer_of(loads, 64, 8, 8, 64)
    assert not can_enumerate(64, 8)
    bound = groups_bound(layer)
    assert (bound.value, bound.source) == (1007, "heaviest-group")
    assert bounds.of(layer).value >= mean_load(layer)


COSTS = st.lists(st.integers(0, 20), min_size=15, max_size=15)


@settings(max_examples=50)
@given(COSTS)
def test_bottleneck_partition_is_optimal(costs: list[int]) -> None:
    cost = {b: Fraction(c) for b, c in zip(all_blocks(6, 3), costs, strict=True)}
    best = min(
        max(cost[tuple(sorted(p[i : i + 2]))] for i in (0, 2, 4)) for p in permutations(range(6))
    )
    bound, found = bottleneck_partition(cost, 6)
    assert sorted(k for block in found for k in block) == list(range(6))
    assert bound == max(cost[block] for block in found) == best
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions._Steps, "left", 0)
        patch.setattr(partitions, "FEWEST_STEPS", -3)
        bound, found = bottleneck_partition(cost, 6)
    assert bound <= best <= max(cost[block] for block in found)


@settings(max_examples=50)
@given(COSTS, COSTS)
def test_lazy_refinement_finds_the_optimum(costs: list[int], discounts: list[int]) -> None:
    exact = {b: Fraction(c) for b, c in zip(all_blocks(6, 3), costs, strict=True)}
    cheap = {b: c - d for (b, c), d in zip(exact.items(), discounts, strict=True)}
    value, blocks = lazy_bottleneck(dict(cheap), exact.__getitem__, 6)
    _, best = bottleneck_partition(exact, 6)
    assert value == max(exact[b] for b in best) == max(exact[b] for b in blocks)


def test_blocks_that_do_not_cover() -> None:
    with pytest.raises(ValueError, match="do not cover 4 groups"):
        bottleneck_partition({(0, 1): Fraction(1)}, 4)


def test_every_replica_with_load_is_heavier_than_nothing() -> None:
    layer = Instance([[5, 3, 0]], Topology(6, 3)).layer(0)
    for least, spare in (((2, 1, 1), 2), ((3, 2, 1), 0)):
        window = Window(least, spare)
        assert _fewest_heavier(layer, window, Fraction(0), 0) == least[0] + least[1]
        assert _fewest_heavier(layer, window, Fraction(-1), 0) == 6


SMALL = st.sampled_from([(4, 2), (6, 2), (6, 3), (8, 2), (9, 3)])


@given(st.lists(st.integers(0, 40), min_size=4, max_size=4), SMALL, st.integers(1, 60))
def test_bounds_scale_with_the_loads(
    loads: list[int], sizes: tuple[int, int], halvings: int
) -> None:
    """Smaller loads are floats with a unit below 1; what is said of them is the same, scaled."""
    scale = Fraction(1, 2**halvings)
    whole = Instance([[2 * w + 1 for w in loads]], Topology(*sizes)).layer(0)
    part = Instance([[float((2 * w + 1) * scale) for w in loads]], Topology(*sizes)).layer(0)
    assert part.unit == scale
    counts = threshold_counts(whole)
    assert threshold_counts(part) == counts
    for bound in (bounds.of, lambda layer: bounds.of(layer, counts=counts)):
        assert bound(part) == replace(bound(whole), value=bound(whole).value * scale)
    assert mean_load(part) == mean_load(whole) * scale
    assert threshold(part) == threshold(whole) * scale


@pytest.mark.parametrize(
    ("loads", "sizes", "value", "source"),
    [
        ([13, 1, 30, 5], (9, 3), "49/3", "mean"),
        ([5, 3, 5, 20, 8, 1], (6, 3), "21", "heaviest-with-lightest"),
        ([8, 1, 5, 3, 30, 3], (6, 2), "34", "heaviest-with-lightest"),
        ([3, 1, 1, 8, 30, 2], (6, 2), "32", "heaviest-with-lightest"),
        ([3, 3, 8, 2, 13], (6, 2), "15", "pigeonhole"),
        ([1, 13, 20], (4, 2), "20", "pigeonhole"),
        ([13, 3, 13, 8], (6, 3), "13", "pigeonhole"),
    ],
)
def test_bounds_are_as_strong_as_they_were(loads, sizes, value, source) -> None:
    bound = bounds.of(Instance([loads], Topology(*sizes)).layer(0))
    assert (bound.value, bound.source) == (Fraction(value), source)


@pytest.mark.parametrize(
    ("loads", "sizes", "counts", "value", "source"),
    [
        ([13, 1, 30, 5], (9, 3), (2, 1, 5, 1), "18", "pigeonhole"),
        ([3, 2], (8, 2), (5, 3), "38/15", "pigeonhole"),
        ([5, 20, 2, 5, 1], (6, 2), (1, 2, 1, 1, 1), "33/2", "mean"),
        ([30, 13], (4, 2), (3, 1), "23", "heaviest-with-lightest"),
        ([9, 1], (2, 2), (1, 1), "9", "heaviest"),
        ([4, 4], (2, 2), (1, 1), "4", "mean"),
    ],
)
def test_bounds_for_given_counts_are_as_strong_as_they_were(
    loads, sizes, counts, value, source
) -> None:
    bound = bounds.of(Instance([loads], Topology(*sizes)).layer(0), counts=counts)
    assert (bound.value, bound.source) == (Fraction(value), source)
