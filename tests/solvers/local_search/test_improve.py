from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import bounds
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.rationals import relative_gap
from eplb_opt.problem.topology import Topology
from solvers.dispatch import value
from solvers.local_search.improve import improve
from solvers.local_search.resplit import best_split, best_swap
from solvers.options import Budget, SearchOptions
from tests.oracles.layers import tiny_layers
from tests.oracles.packings import best_packing

SHAPES = [(1, 1), (1, 3), (4, 1), (2, 2), (3, 3), (4, 4), (2, 6)]


@settings(max_examples=150)
@given(tiny_layers(SHAPES), st.integers(0, 3), st.booleans())
def test_result_is_a_valid_placement_not_below_the_bound(layer, seed, spread):
    topology = layer.topology
    most = topology.num_ranks if spread else topology.num_physical_experts
    if most * len(layer.loads) < topology.num_physical_experts:
        with pytest.raises(ValueError, match="cannot fill"):
            improve(replace(layer, spread_replicas=True), rounds=5, seed=seed)
        return
    slots = improve(replace(layer, spread_replicas=spread), rounds=5, seed=seed)
    assert len(slots) == topology.num_physical_experts
    assert set(slots) == set(range(len(layer.loads)))
    assert value(layer, slots).incumbent >= bounds.of(layer).value
    if spread:
        assert max(Counter(slots).values()) <= topology.num_ranks
        size = topology.slots_per_rank
        assert all(len(set(slots[i : i + size])) == size for i in range(0, len(slots), size))


@settings(max_examples=100)
@given(tiny_layers(SHAPES), st.randoms(use_true_random=False))
def test_never_worse_than_the_start(layer, random):
    experts = len(layer.loads)
    extra = layer.num_redundant_experts
    start = [*range(experts), *(random.randrange(experts) for _ in range(extra))]
    random.shuffle(start)
    better = improve(layer, start=start, rounds=3)
    assert value(layer, better).incumbent <= value(layer, start).incumbent


@settings(max_examples=150)
@given(st.integers(1, 5), st.data())
def test_best_split_is_optimal(slots, data):
    size = st.integers(0, data.draw(st.sampled_from([2, 1000])))
    items = np.array(data.draw(st.lists(size, min_size=2 * slots, max_size=2 * slots)))
    member = best_split(items)
    assert member.sum() == slots
    sums = (items * member).sum(), (items * (1 - member)).sum()
    assert max(sums) == best_packing(items.tolist(), 2)
    swapped = best_swap(items)
    assert swapped.sum() == slots
    before = abs(int(items[:slots].sum() - items[slots:].sum()))
    assert abs(int((items * (2 * swapped - 1)).sum())) <= before


def test_is_within_two_thousandths_of_a_percent_at_full_scale():
    random = np.random.default_rng(0)
    loads = np.rint(random.lognormal(0, 1, 256) * 4096).astype(np.int64)
    layer = Instance([loads], Topology(288, 32)).layer(0)
    slots = improve(layer, rounds=30)
    assert relative_gap(value(layer, slots).incumbent, bounds.of(layer).value) < 2e-5


def test_stops_at_the_target_and_repeats():
    layer = Instance([[4, 4, 4, 4, 2, 2]], Topology(6, 2)).layer(0)
    first = improve(layer, budget=Budget(SearchOptions(600)), target=Fraction(10))
    assert value(layer, first).incumbent == 10
    wide = Instance([list(range(1, 31))], Topology(36, 12)).layer(0)
    assert improve(wide, rounds=20, seed=4) == improve(wide, rounds=20, seed=4)


def test_needs_a_limit():
    layer = Instance([[1, 2]], Topology(2, 1)).layer(0)
    with pytest.raises(ValueError, match="time limit nor rounds"):
        improve(layer)
