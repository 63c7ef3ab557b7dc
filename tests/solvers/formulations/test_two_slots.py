from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt.bounds.closed_form import threshold_counts
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import SolveStatus
from eplb_opt.problem.topology import Topology
from solvers import solve
from solvers.column_generation.pattern_bound import pattern_bound
from solvers.dispatch import value
from solvers.formulations.two_slots import fold_replicas, solve_joint
from solvers.options import Budget, SearchOptions
from tests.oracles.layers import HALVES, WHOLE, all_placements, make_layer, tiny_layers
from tests.oracles.packings import best_packing, joint_optimum

LAYERS = tiny_layers([(ranks, 2) for ranks in range(1, 5)], WHOLE, HALVES, most_experts=5)


@settings(max_examples=200)
@given(LAYERS)
def test_pairs_are_solved_to_the_optimum(layer: Layer) -> None:
    result = solve_joint(layer, Budget())
    assert result.closed
    assert result.value == result.bound == joint_optimum(layer)
    assert result.placement is not None
    assert value(layer, result.placement).incumbent == result.value


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 2)), min_size=1, max_size=5))
def test_folding_is_optimal_for_given_counts(choices: list[tuple[int, int]]) -> None:
    loads, counts = [w for w, _ in choices], [c for _, c in choices]
    if sum(counts) % 2:
        counts[0] += 1
    layer = make_layer(loads, sum(counts), sum(counts) // 2)
    replicas = sorted(
        (Fraction(w, c) for w, c in zip(loads, counts, strict=True) for _ in range(c)),
        reverse=True,
    )
    placement = fold_replicas(layer, counts)
    assert value(layer, placement).incumbent == best_packing(replicas, len(replicas) // 2)


@settings(max_examples=200)
@given(LAYERS)
def test_spread_pairs_are_solved_to_the_optimum(layer: Layer) -> None:
    G = layer.topology.num_ranks
    layer = replace(layer, spread_replicas=True)
    spread = [slots for slots in all_placements(len(layer.loads), G, 2) if is_spread(slots, G)]
    if not spread:
        assert solve(layer).status == SolveStatus.INFEASIBLE
        return
    result = solve_joint(layer, Budget())
    assert result.value == result.bound
    assert result.value == min(value(layer, slots).incumbent for slots in spread)
    assert result.placement is not None
    assert is_spread(result.placement, G)


def is_spread(slots: tuple[int, ...], num_ranks: int) -> bool:
    return all(slots[2 * r] != slots[2 * r + 1] for r in range(num_ranks))


def test_spreading_can_cost() -> None:
    # 9 + 1 and 5 + 5 is best; spread, the halves of 1 join 9 and 10
    layer = make_layer([9, 10, 1], 4, 2)
    assert solve_joint(layer, Budget()).value == 10
    assert solve_joint(replace(layer, spread_replicas=True), Budget()).value == Fraction(21, 2)


def test_a_medium_layer_is_proven() -> None:
    loads = np.random.default_rng(5).integers(1, 5000, 16).tolist()
    layer = make_layer(loads, 24, 12)
    result = solve_joint(layer, Budget())
    greedy = value(layer, fold_replicas(layer, threshold_counts(layer))).incumbent
    assert result.closed
    assert result.value is not None
    assert result.value < greedy


def test_the_bound_is_valid_when_no_time_is_given() -> None:
    layer = make_layer([9, 7, 5, 3, 2], 8, 4)
    result = solve_joint(layer, Budget(SearchOptions(time_limit=0)))
    optimum = joint_optimum(layer)
    assert result.limit == "time"
    assert result.value is not None
    assert result.bound <= optimum <= result.value


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="slots_per_rank=3"):
        solve_joint(make_layer([1, 2], 6, 2), Budget())
    nodes = Instance([[1, 2, 3, 4]], Topology(8, 4, num_nodes=2, num_groups=2)).layer(0)
    with pytest.raises(ValueError, match="hierarchical"):
        solve_joint(nodes, Budget())


@pytest.mark.parametrize("seed", range(4))
def test_pattern_bound_stays_below_the_optimum_of_pairs(seed: int) -> None:
    loads = np.random.default_rng(seed).lognormal(6, 1.2, 20).astype(int).tolist()
    layer = make_layer(loads, 28, 14)
    result = solve_joint(layer, Budget())
    assert result.closed
    assert pattern_bound(layer, precision=1e-6).bound <= result.bound


@settings(max_examples=30)
@given(st.lists(st.integers(1, 60), min_size=3, max_size=6), st.integers(3, 5))
def test_more_sums_than_can_be_listed_are_bisected(loads: list[int], ranks: int) -> None:
    layer = make_layer(loads, 2 * ranks, ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("solvers.formulations.two_slots.LISTED", 2)
        result = solve_joint(layer, Budget())
    assert result.closed
    assert result.value == solve_joint(layer, Budget()).value


def test_loads_of_any_size_do_not_overflow() -> None:
    """As integers over their common unit these loads are far beyond the largest float."""
    loads = [1e300, 7e299, 5e-324, 3e250, 2.0]
    layer = Instance([loads], Topology(8, 4)).layer(0)
    with pytest.raises(OverflowError):
        float(max(layer.loads))
    result = solve_joint(layer, Budget())
    assert result.closed
    assert result.value == solve(layer, backend="brute-force").objective
