import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.options import Budget, SearchOptions
from solvers.tree_search.modular_bound import modular_bound
from solvers.tree_search.packing import counting_bound, pack
from tests.oracles.packings import best_packing

SHAPES = [(1, 1), (1, 4), (3, 1), (4, 2), (2, 3), (3, 3), (2, 4), (2, 5), (4, 1)]


@st.composite
def packings(draw):
    """Items with ties, zeros and replicas of one expert; few enough for brute force."""
    num_ranks, slots = draw(st.sampled_from(SHAPES))
    number = num_ranks * slots
    top = draw(st.sampled_from([1, 3, 20, 1000]))
    items, experts = [], []
    while len(items) < number:
        copies = draw(st.integers(1, min(num_ranks, number - len(items))))
        items += [draw(st.integers(0, top)) * draw(st.sampled_from([1, 6]))] * copies
        experts += [len(set(experts))] * copies
    return np.array(items), np.array(experts), num_ranks


def nodes_only(nodes):
    return Budget(SearchOptions(work_limit=nodes))


def ranks_of(outcome, num_ranks):
    return np.array(outcome.placement).reshape(num_ranks, -1)


def value_of(outcome, items, experts, num_ranks):
    size = np.zeros(experts.max() + 1, np.int64)
    size[experts] = items
    return int(size[ranks_of(outcome, num_ranks)].sum(axis=1).max())


@settings(max_examples=300)
@given(packings(), st.booleans(), st.integers(0, 5))
def test_matches_brute_force(problem, spread, seed):
    items, experts, num_ranks = problem
    best = best_packing(items.tolist(), num_ranks, experts.tolist(), spread)
    outcome = pack(items, num_ranks, experts=experts, spread_replicas=spread, seed=seed)
    assert outcome.value == outcome.bound == best
    assert outcome.closed
    assert outcome.limit is None
    assert value_of(outcome, items, experts, num_ranks) == best
    assert sorted(outcome.placement) == sorted(experts)
    if spread:
        assert all(len(set(rank)) == len(rank) for rank in ranks_of(outcome, num_ranks).tolist())


@settings(max_examples=150)
@given(packings())
def test_bounds_hold(problem):
    items, _, num_ranks = problem
    best = best_packing(items.tolist(), num_ranks)
    ordered = np.sort(items)[::-1].copy()
    bound = int(counting_bound(ordered, num_ranks))
    assert bound <= modular_bound(ordered, num_ranks, bound) <= best


@settings(max_examples=60)
@given(packings(), st.integers(0, 40))
def test_bound_is_valid_when_nodes_run_out(problem, nodes):
    items, experts, num_ranks = problem
    best = best_packing(items.tolist(), num_ranks)
    outcome = pack(items, num_ranks, experts=experts, budget=nodes_only(nodes))
    assert outcome.bound <= best <= outcome.value
    assert (outcome.limit == "work") == (not outcome.closed)


@pytest.mark.parametrize("seed", [12, 25, 45, 46])
def test_ascent_proves_what_descent_left_open(seed):
    """Four fifths of the work do not exclude what is just below the optimum; from the bound up, the
    rest does.
    """
    items = np.random.default_rng(seed).integers(1, 10**5, 15)
    outcome = pack(items, 5, budget=nodes_only(8192))
    assert outcome.closed
    assert outcome.value == pack(items, 5).value


def test_the_modular_bound_proves_what_the_mean_cannot():
    """Two odd items cannot make four ranks odd, and the mean 89 is odd."""
    items = np.array([31, 31, *(2 * k for k in (10, 11, 12, 13, 14, 15, 16, 17, 19, 20))])
    ordered = np.sort(items)[::-1].copy()
    assert counting_bound(ordered, 4) == 89
    assert modular_bound(ordered, 4, 89) == 90
    assert pack(items, 4).value == best_packing(items.tolist(), 4) == 90


def test_is_repeatable_under_a_node_limit():
    items = np.random.default_rng(0).integers(1, 10_000, 40)
    budgets = [nodes_only(30_000), nodes_only(30_000)]
    first, second = (pack(items, 8, budget=budget, seed=3) for budget in budgets)
    assert budgets[0].used == budgets[1].used
    assert first == second


def test_refuses_what_could_overflow():
    with pytest.raises(OverflowError, match="64 bits"):
        pack(np.full(9, 2**60), 3)


@pytest.mark.parametrize(
    ("items", "num_ranks", "message"),
    [
        ([1, 2, 3], 2, "multiple of num_ranks=2"),
        ([1, -2], 2, "negative size -2"),
        ([], 1, "multiple"),
    ],
)
def test_refuses_bad_items(items, num_ranks, message):
    with pytest.raises(ValueError, match=message):
        pack(np.array(items, np.int64), num_ranks)


def test_refuses_an_expert_that_cannot_be_spread():
    with pytest.raises(ValueError, match="cannot be spread"):
        pack(np.array([1, 1, 1, 2]), 2, experts=np.array([0, 0, 0, 1]), spread_replicas=True)
