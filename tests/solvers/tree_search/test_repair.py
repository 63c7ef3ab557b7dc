"""Re-packing a few ranks is exact, and leaves the others alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.options import Budget
from solvers.tree_search.repair import repack, repair
from tests.oracles.packings import best_packing
from tests.solvers.tree_search.test_packing import packings

ENOUGH = 100_000


@settings(max_examples=200)
@given(packings(), st.booleans())
def test_a_repacking_is_found_if_and_only_if_there_is_one(problem, spread) -> None:
    """The tree was not at its root: what it found was left to chance, and it read and wrote beyond
    its arrays."""
    items, experts, num_ranks = problem
    if len(items) == num_ranks:
        return
    size = np.zeros(experts.max() + 1, np.int64)
    size[experts] = items
    best = best_packing(items.tolist(), num_ranks, experts.tolist(), spread)
    if best is None:
        return
    ranks = experts.reshape(num_ranks, -1)
    found, work = repack(ranks, size, best, spread, ENOUGH)
    assert size[found].sum(axis=1).max() == best
    assert sorted(found.ravel()) == sorted(experts)
    assert not spread or all(len(set(rank)) == len(rank) for rank in found.tolist())
    assert repack(ranks, size, best - 1, spread, ENOUGH)[0] is None
    assert work < ENOUGH


@pytest.mark.parametrize("spread", [False, True])
def test_repair_leaves_fewer_ranks_above_the_goal(spread: bool) -> None:
    random = np.random.default_rng(5)
    size = random.integers(1, 1000, 64)
    ranks = random.permutation(64).reshape(16, 4)
    goal = int(1.02 * size.sum() / 16)
    better = repair(ranks, size, goal, spread=spread, tries=300, budget=Budget(), random=random)
    before, after = ((size[x].sum(axis=1) > goal).sum() for x in (ranks, better))
    assert after < before
    assert sorted(better.ravel()) == list(range(64))
