from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heuristics import POLICIES
from heuristics.makespan import makespans
from heuristics.policies import TABLE, deepseek, placer, refined
from heuristics.swaps import swap_heaviest
from tests.heuristics.loads import lognormal

RECORDED = np.load(Path(__file__).parent / "data" / "seed_programs.npz")


def search_swaps(items: list[float], num_ranks: int) -> float:
    """The makespan after the best swaps of the heaviest rank, one slot at a time."""
    placed = np.array(items).reshape(num_ranks, -1)
    while True:
        totals = placed.sum(1)
        heavy = int(totals.argmax())
        best, swap = totals[heavy] * (1 - 1e-12), None
        for p in range(placed.shape[1]):
            for g, q in np.ndindex(placed.shape):
                moved = placed[heavy, p] - placed[g, q]
                after = max(totals[heavy] - moved, totals[g] + moved)
                if g != heavy and after < best:
                    best, swap = after, ((heavy, p), (g, q))
        if swap is None:
            return float(totals[heavy])
        placed[swap[0]], placed[swap[1]] = placed[swap[1]], placed[swap[0]]


@given(items=st.lists(st.integers(0, 60), min_size=12, max_size=12), ranks=st.sampled_from([3, 4]))
@settings(max_examples=30)
def test_swaps_go_on_until_none_of_the_heaviest_rank_helps(items, ranks):
    loads = torch.tensor([items], dtype=torch.float64)
    start = torch.arange(12)[None]
    found = swap_heaviest(loads, start, ranks)
    ours = loads[0, found[0]].tolist()
    assert search_swaps(ours, ranks) == makespans(loads, found, ranks).item()
    assert makespans(loads, found, ranks) <= makespans(loads, start, ranks)


def check_behind_none(loads, groups, nodes, ranks):
    experts = loads.shape[1]
    others = [run for name, run in POLICIES.items() if name != "refined"]
    best = torch.stack(
        [makespans(loads, run(loads, experts, groups, nodes, ranks)[0], ranks) for run in others]
    ).amin(0)
    if nodes == 1:
        start = deepseek(loads, experts, 1, 1, ranks)
        best = torch.minimum(best, makespans(loads, swap_heaviest(loads, start, ranks), ranks))
    placed = refined(loads, experts, groups, nodes, ranks)
    assert bool((makespans(loads, placed, ranks) <= best * (1 + 1e-12)).all())


@pytest.mark.parametrize("sizes", [(1, 1, 4), (1, 1, 8), (8, 4, 8), (8, 2, 8)])
def test_without_redundancy_vectorized_swap_was_ahead_in_recorded_layers(sizes):
    check_behind_none(torch.from_numpy(RECORDED["1.loads"]).double(), *sizes)


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_without_redundancy_behind_no_other_policy_nor_a_swap_search(data):
    ranks, groups, nodes = data.draw(
        st.sampled_from([(3, 1, 1), (5, 1, 1), (8, 1, 1), (4, 2, 2), (4, 8, 2), (8, 4, 4)])
    )
    slots_per_rank = data.draw(st.sampled_from([2, 4, 6, 8]))
    loads = lognormal(
        12,
        ranks * slots_per_rank,
        sigma=data.draw(st.sampled_from([0.3, 1.0, 2.0])),
        seed=data.draw(st.integers(0, 10**6)),
    )
    loads[::3, 0] += data.draw(st.sampled_from([0, 0.1, 0.3])) * loads[::3].sum(1)
    loads[1::3] = loads[1::3].round()  # many ties
    check_behind_none(loads, groups, nodes, ranks)


def test_equal_groups_on_two_places_a_node_leave_no_other_policy_ahead() -> None:
    # Four groups of equal totals on two nodes: policies put them on nodes in different ways.
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(1, 50, (200, 4, 4), generator=generator).double()
    loads = (group / group.sum(2, keepdim=True) * 100).flatten(1)
    sizes = (16, 4, 2, 8)
    found = makespans(loads, placer("refined")(loads, *sizes), 8)
    for name in TABLE:
        assert bool((found <= makespans(loads, placer(name)(loads, *sizes), 8) * (1 + 1e-12)).all())
