"""Lower bounds on transfers are redone, and refused where they are too high."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings

from eplb_opt.certificate import CheckBudget, TooLargeToCheckError, needs_transfers
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.topology import Topology
from eplb_opt.problem.validity import layer_violation
from solvers.dispatch import value
from tests.oracles.layers import make_layer
from tests.oracles.migration import Phy2Log, enumerate_fewest, problems, unbalanced

ONE_LOOK = 20
"""Units for one look at 16 slots, before any expert is placed."""


@given(problems())
@settings(max_examples=40)
def test_transfers_are_redone_without_a_solver(problem: tuple[Layer, Phy2Log, Fraction]) -> None:
    layer, old, limit = problem
    expected = enumerate_fewest(layer, old, limit)
    if expected is None:
        assert needs_transfers(layer, old, limit, len(old) + 1)
    else:
        assert needs_transfers(layer, old, limit, expected)
        assert not needs_transfers(layer, old, limit, expected + 1)


@pytest.mark.parametrize("seed", range(12))
def test_several_transfers(seed: int) -> None:
    layer, old, limit = unbalanced(seed)
    expected = enumerate_fewest(layer, old, limit)
    assert expected is not None
    assert needs_transfers(layer, old, limit, expected)
    assert not needs_transfers(layer, old, limit, expected + 1)


@given(problems())
@settings(max_examples=20)
def test_replicas_that_are_spread(problem: tuple[Layer, Phy2Log, Fraction]) -> None:
    layer, old, limit = problem
    layer = replace(layer, spread_replicas=True)
    if layer_violation(layer, old) is None:
        expected = enumerate_fewest(layer, old, limit)
        most = len(old) + 1 if expected is None else expected
        assert needs_transfers(layer, old, limit, most)
        if expected is not None:
            assert not needs_transfers(layer, old, limit, expected + 1)


def test_loads_that_fit_need_slots_as_well() -> None:
    """6 | 3 2 1 keeps the limit, but a rank has two slots."""
    layer = make_layer([6, 3, 2, 1], 4, 2)
    assert needs_transfers(layer, (0, 1, 2, 3), Fraction(6), 5)


def test_the_heaviest_goes_first() -> None:
    """Without it three light ones would have to go."""
    layer = make_layer([1, 1, 1, 9, 0, 0, 0, 0], 8, 2)
    assert needs_transfers(layer, tuple(range(8)), Fraction(9), 2)
    assert not needs_transfers(layer, tuple(range(8)), Fraction(9), 3)


def test_no_transfers_need_no_search() -> None:
    layer = make_layer([4, 3, 2, 1], 4, 2)
    assert needs_transfers(layer, (0, 1, 2, 3), Fraction(5), 0, budget=CheckBudget(0))
    with pytest.raises(TooLargeToCheckError):
        needs_transfers(layer, (0, 1, 2, 3), Fraction(5), 2, budget=CheckBudget(0))


def test_the_hierarchical_rule_of_several_nodes_is_refused() -> None:
    loads, old, limit = [[4, 3, 2, 1]], (0, 1, 2, 3), Fraction(5)
    layer = Instance(loads, Topology(4, 2, 2, 2), rule="hierarchical").layer(0)
    with pytest.raises(ValueError, match="one node at a time"):
        needs_transfers(layer, old, limit, 1)
    for topology, rule in (
        (Topology(4, 2, 2, 2), "global"),
        (Topology(4, 2, 1, 2), "hierarchical"),
    ):
        layer = Instance(loads, topology, rule=rule).layer(0)
        assert needs_transfers(layer, old, limit, 2)


def test_a_search_that_takes_too_long_is_given_up() -> None:
    layer = make_layer([9, 8, 7, 6, 5, 4], 9, 3)
    old = (0, 1, 2, 3, 4, 5, 0, 1, 2)
    limit = value(layer, old).incumbent - Fraction(1, 2)
    assert needs_transfers(layer, old, limit, 1)
    with pytest.raises(TooLargeToCheckError):
        needs_transfers(layer, old, limit, 3, budget=CheckBudget(40))


def test_bounds_keep_the_search_short() -> None:
    """Two ranks hold two heavy experts each, and none may hold two: one transfer is not enough."""
    layer = make_layer([10, 10, 9, 9, *[1] * 12], 16, 4)
    old = (0, 2, 4, 5, 1, 3, 6, 7, *range(8, 16))
    for limit in (13, 18):  # the others receive too little, or have room for anything
        assert needs_transfers(layer, old, Fraction(limit), 2, budget=CheckBudget(ONE_LOOK))


def test_ranks_that_hold_too_little_receive() -> None:
    """Both ranks of expert 0 are relieved without a receive, but the others then lack its load."""
    layer = make_layer([24, *[1] * 12], 16, 4)
    old = (0, 0, 1, 2, 0, 0, 3, 4, *range(5, 13))
    assert needs_transfers(layer, old, Fraction(10), 2, budget=CheckBudget(ONE_LOOK))


@pytest.mark.parametrize("limit", [Fraction(-1), Fraction(-1, 10**9), Fraction(0)])
def test_no_placement_keeps_a_negative_limit(limit: Fraction) -> None:
    assert needs_transfers(make_layer([4, 3, 2, 1], 4, 2), (0, 1, 2, 3), limit, 3)


def test_a_layer_that_is_too_deep_for_the_search_is_too_large() -> None:
    layer = make_layer([1] * 400, 400, 2)
    with pytest.raises(TooLargeToCheckError, match="400 experts on 400 slots"):
        needs_transfers(layer, range(400), Fraction(200), 2)
