"""Relabelling and the fewest transfers, against enumeration in exact arithmetic."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt.certificate import needs_transfers
from eplb_opt.problem.homes import traffic
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import SolveStatus
from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.problem.validity import layer_violation, over_limit
from heuristics.policies import refined
from solvers.dispatch import value
from solvers.migration import fewest_transfers, relabel, sum_transfers
from tests.oracles.layers import fill, make_layer
from tests.oracles.migration import (
    SHAPES,
    Phy2Log,
    enumerate_fewest,
    home_problems,
    problems,
    unbalanced,
)


@given(problems() | home_problems())
@settings(max_examples=50)
def test_the_fewest_are_those_of_enumeration(
    problem: tuple[Layer, Phy2Log, Fraction],
) -> None:
    layer, old, limit = problem
    expected = enumerate_fewest(layer, old, limit)
    result = fewest_transfers(layer, old, limit)
    assert result.transfers == expected
    if expected is None:
        assert result.status == SolveStatus.INFEASIBLE
        return
    assert result.status == SolveStatus.OPTIMAL
    assert result.placement is not None
    assert layer_violation(layer, result.placement) is None
    assert over_limit(layer, result.placement) is None
    assert value(layer, result.placement).incumbent == result.makespan
    assert result.makespan <= limit
    assert sum_transfers(old, result.placement, layer.topology.slots_per_rank) == expected


@pytest.mark.parametrize("seed", range(12))
def test_several_transfers(seed: int) -> None:
    layer, old, limit = unbalanced(seed)
    expected = enumerate_fewest(layer, old, limit)
    result = fewest_transfers(layer, old, limit)
    assert expected is not None
    assert (result.transfers, result.lower_bound) == (expected, expected)


def test_a_limit_that_rounded_loads_cannot_tell_from_a_lower_one() -> None:
    """The best of the rounded placements is above the limit by a 2^24th, and so was the answer."""
    layer = make_layer([2**24, 2**24, 1], 4, 2)
    result = fewest_transfers(layer, (0, 1, 2, 0), Fraction(2**25 + 1, 2))
    assert (result.transfers, result.lower_bound) == (1, 1)


def test_loads_whose_ratio_is_no_float() -> None:
    """Two tokens beside nearly the smallest of floats: their ratio was made a float once."""
    layer = make_layer([0, 5e-308, 0, 0, 2.0], 6, 2)
    old = (0, 1, 4, 3, 2, 0)
    limit = value(layer, (0, 1, 3, 4, 2, 0)).incumbent
    result = fewest_transfers(layer, old, limit)
    assert result.transfers == enumerate_fewest(layer, old, limit)


@pytest.mark.parametrize("tiny", [1e-9, 1e-14])
def test_heavy_ranks_that_differ_by_almost_nothing(tiny: float) -> None:
    """Most placements of the rounded loads are above this limit, by next to nothing.

    The search goes on after each.
    """
    layer = make_layer([5, 5 + tiny, 5 + 2 * tiny, tiny, 2 * tiny, 3 * tiny], 6, 3)
    old = (1, 5, 2, 4, 0, 3)
    limit = value(layer, (0, 5, 1, 4, 2, 3)).incumbent
    result = fewest_transfers(layer, old, limit)
    assert result.transfers == enumerate_fewest(layer, old, limit)
    assert result.status == SolveStatus.OPTIMAL


def test_without_search_bounds_are_still_closed_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a layer that is too large for it."""
    monkeypatch.setattr("solvers.migration.fewest.WORK", 0)
    monkeypatch.setattr("solvers.migration.fewest.FIRST_WORK", 0)
    layer, old = make_layer([4, 3, 2, 1], 4, 2), (0, 1, 2, 3)
    result = fewest_transfers(layer, old, Fraction(5))
    hopeless = fewest_transfers(layer, old, Fraction(4))
    assert (result.transfers, result.lower_bound, str(result.status)) == (None, 1, "unknown")
    assert result.limit == "work"
    assert hopeless.infeasible


@given(problems())
@settings(max_examples=15)
def test_spread_replicas(problem: tuple[Layer, Phy2Log, Fraction]) -> None:
    layer, old, limit = problem
    spread = Layer(layer.loads, layer.unit, layer.topology, spread_replicas=True)
    if layer_violation(spread, old) is None:
        result = fewest_transfers(spread, old, limit)
        assert result.transfers == enumerate_fewest(spread, old, limit)
        if result.transfers is not None:
            assert needs_transfers(spread, old, limit, result.transfers)
            assert not needs_transfers(spread, old, limit, result.transfers + 1)


@given(st.lists(st.integers(0, 12), min_size=4, max_size=4), st.integers(0, 15), st.data())
@settings(max_examples=12)
def test_hierarchical(loads: list[int], more: int, data: st.DataObject) -> None:
    """Exact below 2 E / K transfers; a bound never exceeds the optimum."""
    layer = Instance([loads], Topology(8, 4, 2, 2), rule="hierarchical").layer(0)
    bits = [more >> i & 1 for i in range(4)]
    old = (0, 1, bits[0], bits[1], 3, 2, 2 + bits[2], 2 + bits[3])
    limit = Fraction(data.draw(st.integers(0, 24)))
    expected, result = enumerate_fewest(layer, old, limit), fewest_transfers(layer, old, limit)
    if expected is None:
        assert result.transfers is None
        return
    assert not result.infeasible
    assert result.lower_bound <= expected
    if expected < 4:
        assert result.transfers == expected == result.lower_bound


def test_a_middle_sized_layer_is_solved_and_redone() -> None:
    """The redo shares no code with the search."""
    rng = np.random.default_rng(16)
    before = np.exp(0.6 * rng.standard_normal((2, 16))) * 1000
    now = before * np.exp(0.1 * rng.standard_normal(before.shape))
    old, best = (
        tuple(refined(torch.from_numpy(x), 20, 1, 1, 4)[1].tolist()) for x in (before, now)
    )
    layer = Instance(now, Topology(20, 4)).layer(1)
    limit = value(layer, best).incumbent * Fraction(101, 100)
    result = fewest_transfers(layer, old, limit)
    assert (str(result.status), result.proof, result.limit) == ("optimal", "search", None)
    assert result.transfers is not None
    assert needs_transfers(layer, old, limit, result.transfers)
    assert not needs_transfers(layer, old, limit, result.transfers + 1)


def test_an_interrupt_keeps_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("solvers.migration.transfer_search.advance", interrupted)
    layer = make_layer([4, 3, 2, 1], 4, 2)
    result = fewest_transfers(layer, (0, 1, 2, 3), Fraction(5), initial=[(0, 3, 1, 2)])
    assert (result.transfers, result.lower_bound, result.limit) == (2, 1, "interrupt")


def test_hierarchical_keeps_the_rule() -> None:
    loads = [[9, 4, 3, 2, 8, 5, 2, 1]]
    layer = Instance(loads, Topology(8, 4, 2, 2), rule="hierarchical").layer(0)
    old = (4, 5, 6, 7, 0, 1, 2, 3)
    result = fewest_transfers(layer, old, Fraction(11))
    assert result.placement is not None
    assert (result.transfers, str(result.status)) == (4, "optimal")
    assert layer_violation(layer, result.placement) is None
    assert result.makespan is not None
    assert result.makespan <= 11


def test_what_stays_keeps_its_slot() -> None:
    result = fewest_transfers(make_layer([4, 3, 2, 1], 4, 2), (1, 0, 3, 2), Fraction(5))
    assert result.placement is not None
    assert sum(a != b for a, b in zip(result.placement, (1, 0, 3, 2), strict=True)) == 2


def test_a_local_copy_is_no_transfer() -> None:
    """Rank 0 drops its replica of 0 for a second copy of 1, which rank 2 had alone."""
    layer, old = make_layer([2, 12, 1, 1], 6, 3), (0, 1, 0, 1, 2, 3)
    for limit in (6, 7, 8):
        expected = enumerate_fewest(layer, old, Fraction(limit))
        assert fewest_transfers(layer, old, Fraction(limit)).transfers == expected


def test_a_time_limit_is_a_result() -> None:
    loads = [100 + 37 * i % 91 for i in range(32)]
    old = tuple(range(32)) + tuple(range(8))
    layer = make_layer(loads, 40, 8)
    result = fewest_transfers(
        layer, old, value(layer, old).incumbent * Fraction(9, 10), time_limit=0.0
    )
    assert result.limit == "time"
    assert result.status in (SolveStatus.UNKNOWN, SolveStatus.FEASIBLE)


@pytest.mark.parametrize(("old", "initial"), [((0, 1, 1, 1), []), ((0, 1, 2, 0), [(0, 0, 1, 1)])])
def test_invalid_placements(old: Phy2Log, initial: list[Phy2Log]) -> None:
    with pytest.raises(ValueError, match="is not valid: the slots do not hold every expert"):
        fewest_transfers(make_layer([1, 2, 3], 4, 2), old, Fraction(3), initial=initial)


@st.composite
def two_placements(draw: st.DrawFn) -> tuple[Phy2Log, Phy2Log, int]:
    experts, slots, ranks = draw(st.sampled_from([*SHAPES, (5, 8, 4), (4, 4, 4)]))
    return draw(fill(experts, slots)), draw(fill(experts, slots)), ranks


def split(phy2log: Phy2Log, per_rank: int) -> list[list[int]]:
    """The experts of each rank, sorted."""
    return [sorted(phy2log[i : i + per_rank]) for i in range(0, len(phy2log), per_rank)]


@given(two_placements())
@settings(max_examples=100)
def test_relabel_is_optimal(problem: tuple[Phy2Log, Phy2Log, int]) -> None:
    old, new, ranks = problem
    per_rank = len(old) // ranks
    best = relabel(old, new, Topology(len(old), ranks))
    contents = split(new, per_rank)
    assert sorted(split(best, per_rank)) == sorted(contents)
    orders = ([e for rank in order for e in rank] for order in permutations(contents))
    fewest = min(sum_transfers(old, x, per_rank) for x in orders)
    assert sum_transfers(old, best, per_rank) == fewest


@given(st.permutations(range(8)), st.permutations(range(8)))
@settings(max_examples=30)
def test_relabel_keeps_nodes_together(old: list[int], new: list[int]) -> None:
    best = relabel(old, new, Topology(8, 4, 2, 2), Rule.HIERARCHICAL)
    nodes = [[new[0:2], new[2:4]], [new[4:6], new[6:8]]]
    orders = [
        [*a, *b]
        for first, second in permutations(nodes)
        for a in permutations(first)
        for b in permutations(second)
    ]
    fewest = min(sum_transfers(old, [e for rank in order for e in rank], 2) for order in orders)
    assert sum_transfers(old, best, 2) == fewest
    assert {frozenset(best[:4]), frozenset(best[4:])} == {frozenset(new[:4]), frozenset(new[4:])}


def test_relabel_names_a_wrong_length() -> None:
    with pytest.raises(ValueError, match="new has 3 slots, not num_physical_experts=4"):
        relabel((0, 1, 2, 3), (0, 1, 2), Topology(4, 2))


@given(home_problems(), st.randoms())
@settings(max_examples=12)
def test_relabelled_nodes_keep_homes_and_traffic(problem, chance):
    layer, new, _ = problem
    machine = layer.topology
    old = list(new)
    chance.shuffle(old)
    found = relabel(old, new, machine, layer.rule)
    assert traffic(layer, found) == traffic(layer, new)
    per_rank = machine.slots_per_rank
    assert sum_transfers(old, found, per_rank) <= sum_transfers(old, new, per_rank)
