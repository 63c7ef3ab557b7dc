from __future__ import annotations

import itertools

import pytest
import torch

from heuristics.grouping import groups_by_reach, node_bounds, num_partitions, partitions
from heuristics.replication import greedy_counts
from heuristics.shape import Shape
from tests.heuristics.loads import lognormal


@pytest.mark.parametrize(
    ("groups", "size", "count"), [(8, 2, 105), (8, 4, 35), (6, 3, 10), (4, 1, 1)]
)
def test_all_partitions_are_listed_once(groups, size, count):
    subsets, listed = partitions(groups, size, torch.device("cpu"))
    assert num_partitions(groups, size) == len(listed) == count
    seen = {frozenset(frozenset(subsets[i].tolist()) for i in row) for row in listed}
    assert len(seen) == count
    assert all(set().union(*parts) == set(range(groups)) for parts in seen)


def test_the_bound_of_a_node_is_its_mean_or_its_largest_replica():
    loads = lognormal(5, 6, 4, sigma=1.5, seed=1)
    shape = Shape(num_slots=36, num_groups=6, num_nodes=2, num_ranks=6)
    subsets, _ = partitions(6, 3, loads.device)
    bounds = node_bounds(loads, subsets, shape)
    for layer, (n, subset) in itertools.product(range(5), enumerate(subsets)):
        node = loads[layer, subset].flatten()[None]
        largest = (node / greedy_counts(node, 18)).amax()
        expected = torch.maximum(node.sum() / 3, largest)
        assert bounds[layer, n].item() == pytest.approx(expected.item())


def test_the_partition_with_the_lightest_heaviest_node_is_taken():
    generator = torch.Generator().manual_seed(2)
    loads = torch.rand(20, 8, 4, generator=generator, dtype=torch.float64)
    shape = Shape(num_slots=32, num_groups=8, num_nodes=2, num_ranks=4)
    places = groups_by_reach(loads, shape)
    assert places.sort(1).values.eq(torch.arange(8)).all()
    totals = loads.sum(2)
    ours = totals.gather(1, places).view(20, 2, 4).sum(2).amax(1)
    halves = [totals[:, list(half)].sum(1) for half in itertools.combinations(range(8), 4)]
    best = torch.stack([torch.maximum(h, totals.sum(1) - h) for h in halves]).amin(0)
    assert torch.allclose(ours, best)


def test_too_many_partitions_are_left_to_lpt():
    shape = Shape(num_slots=64, num_groups=32, num_nodes=4, num_ranks=4)
    places = groups_by_reach(torch.rand(2, 32, 2), shape)
    assert places.sort(1).values.eq(torch.arange(32)).all()
