from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import SolveStatus
from eplb_opt.problem.topology import Topology
from solvers import solve
from solvers.dispatch import value
from solvers.options import Budget, SearchOptions
from solvers.scaling import replica_sizes, scale_for
from solvers.tree_search.joint import solve_joint
from tests.oracles.layers import tiny_layers
from tests.oracles.packings import best_joint

SHAPES = [(1, 1), (1, 4), (3, 1), (4, 1), (2, 2), (3, 2), (2, 3), (2, 4)]


def check(layer, spread, seed):
    topology = layer.topology
    best = best_joint(layer.loads, topology.num_physical_experts, topology.num_ranks, spread)
    layer = replace(layer, spread_replicas=spread)
    assert layer.is_feasible == (best is not None)
    if best is None:
        assert solve(layer).status == SolveStatus.INFEASIBLE
        return
    result = solve_joint(layer, Budget(SearchOptions(seed=seed)))
    assert result.bound == result.value == best * layer.unit
    assert value(layer, result.placement).incumbent == result.value
    assert set(result.placement) == set(range(len(layer.loads)))
    size = topology.slots_per_rank
    if spread:
        ranks = [result.placement[i : i + size] for i in range(0, len(result.placement), size)]
        assert all(len(set(rank)) == size for rank in ranks)


@settings(max_examples=250)
@given(tiny_layers(SHAPES), st.booleans(), st.integers(0, 3))
def test_matches_brute_force(layer, spread, seed):
    check(layer, spread, seed)


@settings(max_examples=40)
@given(tiny_layers(SHAPES, st.sampled_from([0.0, 0.1, 0.25, 1.5, 7.3])))
def test_floats_are_exact_rationals(layer):
    best = best_joint(layer.loads, layer.topology.num_physical_experts, layer.topology.num_ranks)
    result = solve_joint(layer, Budget())
    assert result.bound <= best * layer.unit <= result.value
    assert value(layer, result.placement).incumbent == result.value
    scale = scale_for(layer, range(1, layer.num_redundant_experts + 2))
    assert result.value - result.bound <= layer.topology.slots_per_rank * scale.unit


@settings(max_examples=60)
@given(tiny_layers(SHAPES), st.integers(0, 200))
def test_bound_is_valid_when_nodes_run_out(layer, nodes):
    topology = layer.topology
    best = best_joint(layer.loads, topology.num_physical_experts, topology.num_ranks)
    result = solve_joint(layer, Budget(SearchOptions(work_limit=nodes)))
    assert result.bound <= best <= result.value


def test_published_example():
    """Eight experts on sixteen slots of eight ranks; the proven joint optimum is 590/3."""
    layer = Layer((600, 560, 120, 120, 20, 10, 10, 10), Fraction(1), Topology(16, 8))
    assert solve_joint(layer, Budget()).bound == Fraction(590, 3)


def test_sizes_round_down_where_the_multiple_does_not_fit():
    layer = Layer((2**58, 3, 1), Fraction(1, 8), Topology(50, 2))
    scale = scale_for(layer, range(1, 49))
    size = replica_sizes(layer, scale, 48)
    assert not scale.exact
    for e in range(3):
        assert size[e, 1:].tolist() == [scale.replica(layer, e, k) for k in range(1, 49)]


def test_loads_beyond_64_bits_give_a_valid_bound():
    layer = Layer((2**80, 2**79, 5), Fraction(1, 2**60), Topology(4, 2))
    best = best_joint(layer.loads, 4, 2) * layer.unit
    result = solve_joint(layer, Budget())
    assert result.bound <= best <= result.value


def test_spreading_caps_the_counts():
    layer = Layer((5, 1), Fraction(1), Topology(6, 3))
    assert (layer.most_replicas, replace(layer, spread_replicas=True).most_replicas) == (5, 3)


def test_is_repeatable_under_a_node_limit():
    loads = tuple(int(w) for w in np.random.default_rng(1).lognormal(8, 1, 16))
    layer = Layer(loads, Fraction(1), Topology(24, 8))
    options = SearchOptions(seed=2, work_limit=2_000_000)
    first, second = (solve_joint(layer, Budget(options)) for _ in range(2))
    assert first.placement == second.placement
    assert first.bound == second.bound


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_no_load_is_solved(num_ranks):
    result = solve_joint(Layer((0, 0, 0), Fraction(1), Topology(8, num_ranks)), Budget())
    assert result.value == result.bound == 0


def test_the_first_rank_is_spread_too():
    """The root of the search once gave the largest expert's second replica to the same rank."""
    loads = [155, 65, 301, 0, 298, 679]
    layer = Instance([loads], Topology(8, 2), spread_replicas=True).layer(0)
    for backend in ("search", "portfolio", "brute-force"):
        assert solve(layer, backend=backend).objective == 780
    assert (
        solve(layer, stage="packing").objective
        == solve(layer, stage="packing", backend="brute-force").objective
    )
