from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heuristics.count_search import least_makespan, reallocate_replicas
from heuristics.makespan import makespans
from heuristics.policies import deepseek, refined
from heuristics.replication import count_replicas, greedy_replicas
from tests.heuristics.loads import lognormal
from tests.oracles.packings import best_packing


@given(
    items=st.lists(st.integers(0, 12), min_size=6, max_size=6),
    ranks=st.sampled_from([1, 2, 3, 6]),
)
@settings(max_examples=150)
def test_no_packing_is_below_the_least_makespan(items, ranks):
    row = torch.tensor([sorted(items)], dtype=torch.float64)
    bound = least_makespan(row, ranks).item()
    best = best_packing(items, ranks)
    assert bound <= best + 1e-12
    if ranks == 3:
        assert bound == best  # folding is optimal with two slots


def test_the_least_makespan_sees_heavy_replicas_that_must_share():
    # Five of 0.6 on four ranks with three slots: two of them meet, and the lightest joins them.
    row = torch.tensor([[0.01, 0.02] + [0.03] * 5 + [0.6] * 5], dtype=torch.float64)
    assert least_makespan(row, 4).item() == pytest.approx(1.21)


def test_reallocation_moves_replicas_until_the_heavy_ones_fit():
    loads = lognormal(200, 64, sigma=1.5, seed=3)
    greedy = greedy_replicas(loads, 72)
    reallocated = reallocate_replicas(loads, greedy, 8, 8, seed=0)
    counts = count_replicas(reallocated, 64)
    assert counts.sum(1).eq(72).all()
    assert counts.min() == 1

    def bound(replicas):
        items = (loads / count_replicas(replicas, 64)).gather(1, replicas)
        return least_makespan(items.sort(1).values, 8)

    before, after = bound(greedy), bound(reallocated)
    assert bool((after <= before * (1 + 1e-12)).all())
    assert bool((after < 0.9 * before).any())


def test_refined_escapes_counts_that_leave_no_room():
    loads = lognormal(200, 64, sigma=1.5, seed=3)
    mean = loads.sum(1) / 8
    hopeless = makespans(loads, deepseek(loads, 72, 1, 1, 8), 8) > 1.1 * mean
    assert bool(hopeless.any())
    ours = makespans(loads, refined(loads, 72, 1, 1, 8), 8)
    assert (ours[hopeless] / mean[hopeless]).median() < 1.02
