"""Every loop of the checker is on one budget; what exceeds it is too large, not a hang."""

import itertools
import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology, bounds
from eplb_opt.certificate import (
    CertificateError,
    CheckBudget,
    TooLargeToCheckError,
    Trust,
    check_bound,
    verify_document,
)
from eplb_opt.certificate.exhaustive import _count_vectors, nothing_below
from eplb_opt.certificate.groups import _partition
from eplb_opt.certificate.parsing import parse_document
from eplb_opt.problem.evidence import ClosedForm, Exhaustive, Groups, Pattern
from eplb_opt.problem.topology import Rule
from solvers import Stages, solve
from tests.eplb_opt.certificate.documents import (
    CLOSED_FORM,
    EXHAUSTIVE,
    claim,
    document,
    machine,
    of_one,
)
from tests.oracles.layers import make_layer
from tests.solvers.test_against_brute_force import tiny_layers

SMALL = 20_000
"""Units: some milliseconds."""


def trust(document: Any, units: int = SMALL) -> list[Trust | None]:
    return [verdict.trust for verdict in verify_document(document, CheckBudget(units))]


@given(st.integers(1, 4), st.integers(0, 5), st.integers(1, 4), st.data())
def test_count_vectors_are_all_and_none_is_a_dead_end(
    experts: int, spare: int, most: int, data: st.DataObject
) -> None:
    loads = data.draw(st.lists(st.integers(0, 9), min_size=experts, max_size=experts))
    slots, scale, limit = experts + spare, 12, 60
    topology = Topology(slots * most, most)  # with spread, at most one replica on each rank
    layer = Layer(tuple(loads), Fraction(1), topology, spread_replicas=True)
    layer = Layer(layer.loads, layer.unit, Topology(slots, 1)) if most > spare else layer
    cap, total = layer.most_replicas, layer.topology.num_physical_experts
    expected = [
        counts
        for counts in itertools.product(range(1, cap + 1), repeat=experts)
        if sum(counts) == total
        and all(w * scale <= limit * c for w, c in zip(loads, counts, strict=True))
    ]
    assert [tuple(counts) for counts in _count_vectors(layer, limit, scale)] == expected


def test_counts_under_spread_replicas_do_not_hang_the_search() -> None:
    """16 experts on 4 ranks of 15 slots: almost no descent ends in counts, and none was charged."""
    rng = random.Random(1)
    loads = tuple(rng.randrange(50, 1000) for _ in range(16))
    layer = Layer(loads, Fraction(1), Topology(60, 4), spread_replicas=True)
    with pytest.raises(TooLargeToCheckError):
        nothing_below(layer, Fraction(sum(loads), 4) + Fraction(1, 7), CheckBudget(SMALL))


def test_1500_experts_are_no_recursion() -> None:
    even = make_layer([1] * 1500, 3000, 2)
    assert (
        check_bound(even, Fraction(751), Exhaustive(), budget=CheckBudget(SMALL)) is Trust.TOO_LARGE
    )
    pairs = make_layer([2] * 1500, 3000, 1500)
    with pytest.raises(CertificateError, match="there is a placement below"):
        check_bound(pairs, Fraction(3), Exhaustive())


def test_closed_forms_with_many_slots_a_rank_are_on_the_budget() -> None:
    wide = make_layer(list(range(1, 2001)), 4000, 2)
    above = Fraction(sum(wide.loads), 2) + 1
    assert check_bound(wide, above, ClosedForm(), budget=CheckBudget(SMALL)) is Trust.TOO_LARGE
    one_rank = make_layer(list(range(1, 2001)), 4000, 1)
    with pytest.raises(CertificateError, match="closed forms prove less"):
        check_bound(one_rank, 2 * above, ClosedForm(), budget=CheckBudget(SMALL))


def test_loads_with_long_denominators_are_on_the_budget() -> None:
    rng = random.Random(1)
    loads = [f"{rng.getrandbits(6000)}/{rng.getrandbits(6000) | 1}" for _ in range(40)]
    for placed in ({}, {"phy2log": [*range(40), *range(40)], "objective_exact": "5"}):
        assert trust(of_one(loads, 80, 4, **placed)) == [Trust.TOO_LARGE]


def test_divisors_are_charged_by_their_own_length() -> None:
    """They were charged by the numerators': four layers of 1/d took over 100 s."""
    rng = random.Random(1)
    loads = [f"1/{rng.getrandbits(6000) | 1}" for _ in range(60)]
    assert trust(of_one(loads, 80, 4)) == [Trust.TOO_LARGE]


def test_long_tables_of_one_price_are_charged_for_being_made() -> None:
    """A file of 668 bytes took 114 s."""
    layer = make_layer([10, 9], 2000, 2)
    found = Pattern(Fraction(100), 2**20, 0, ((0, 16384),))
    assert check_bound(layer, found.bound, found, budget=CheckBudget()) is Trust.TOO_LARGE


def test_patterns_are_on_the_budget() -> None:
    levels = tuple((i, 2**20 - i) for i in range(2**10))
    many_levels = Pattern(Fraction(22600), 2**20, 0, levels)
    layer = make_layer(list(range(1, 301)), 600, 2)
    many_spare = Pattern(Fraction(10**6), 2**20, 0, ((0, 1),))
    wide = make_layer([1] * 20, 20_000, 2)
    for problem, found in ((layer, many_levels), (wide, many_spare)):
        left = CheckBudget(SMALL)
        assert check_bound(problem, found.bound, found, budget=left) is Trust.TOO_LARGE


def test_partitions_of_groups_are_on_the_budget() -> None:
    """Pairs of two kinds of groups, of odd numbers: a perfect matching is sought in vain."""
    loads = [3 if k < 21 else 1000 for k in range(42)]
    layer = Layer(tuple(loads), Fraction(1), Topology(84, 21, 21, 42), Rule.HIERARCHICAL)
    assert (
        check_bound(layer, Fraction(1003), Groups(()), budget=CheckBudget(100)) is Trust.TOO_LARGE
    )
    kinds = [
        pair for pair in itertools.combinations(range(30), 2) if sum(k < 15 for k in pair) != 1
    ]
    with pytest.raises(TooLargeToCheckError):
        _partition(kinds, 30, CheckBudget(1000))
    assert _partition(list(itertools.combinations(range(600), 1)), 600, CheckBudget()) is not None


def test_a_block_of_groups_costs_no_more_than_its_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cost all groups: 20,000 groups on as many nodes took 92 s."""
    layer = Layer((1,) * 6, Fraction(1), Topology(12, 6, 6, 6), Rule.HIERARCHICAL)
    monkeypatch.setattr(Layer, "groups", None)
    assert layer.node_problem((4,)).loads == (1,)
    assert layer.experts_of((5, 0)) == [5, 0]


def test_a_key_twice_among_many_is_found_at_once() -> None:
    """The keys were counted once for each: 820,000 of them took over two minutes."""
    keys = ",".join(f'"{i}":0' for i in range(150_000))
    with pytest.raises(CertificateError, match="the key '149999' twice"):
        parse_document(f'{{{keys},"149999":1}}'.encode())


@pytest.mark.parametrize("rule", list(Rule))
@settings(max_examples=60)
@given(st.data(), st.fractions(0, 1))
def test_closed_forms_are_verified_up_to_the_best_and_never_above_the_optimum(
    rule: Rule, data: st.DataObject, share: Fraction
) -> None:
    """What :mod:`eplb_opt.bounds` finds is checked by a second implementation without a search."""
    layer = data.draw(tiny_layers(rule, most=6))
    best, optimum = bounds.of(layer).value, solve(layer, backend="brute-force").objective
    assert check_bound(layer, best, ClosedForm()) is Trust.VERIFIED
    assert check_bound(layer, best * share, ClosedForm()) is Trust.VERIFIED
    with pytest.raises(CertificateError):
        check_bound(layer, optimum + layer.unit * (share + Fraction(1, 10**9)), ClosedForm())


@settings(max_examples=80)
@given(st.data())
def test_closed_forms_of_given_counts_are_verified_up_to_the_best(data: st.DataObject) -> None:
    layer = data.draw(tiny_layers(Rule.GLOBAL, most=6))
    vectors = [tuple(c) for c in _count_vectors(layer, sum(layer.loads) + 1, 1)]
    counts = data.draw(st.sampled_from(vectors))
    best, given = bounds.of(layer, counts=counts).value, Stages(counts=counts)
    optimum = solve(layer, stage="packing", backend="brute-force", given=given).objective
    assert check_bound(layer, best, ClosedForm(), counts) is Trust.VERIFIED
    with pytest.raises(CertificateError):
        check_bound(layer, optimum + layer.unit / 10**9, ClosedForm(), counts)


def test_layers_share_the_budget_and_cheap_ones_are_still_checked() -> None:
    rng = random.Random(1)
    loads = [rng.randrange(50, 1000) for _ in range(16)]
    mean, above = str(Fraction(sum(loads), 4)), str(Fraction(sum(loads), 4) + Fraction(1, 7))
    layers = [
        claim(loads, above, EXHAUSTIVE),
        claim(loads, mean, CLOSED_FORM, layer=1),
        claim(loads, above, EXHAUSTIVE, layer=2),
        claim(loads, mean, EXHAUSTIVE, layer=3),
    ]
    found = document(layers, machine(16, 60, 4, spread_replicas=True))
    assert trust(found) == [Trust.TOO_LARGE, Trust.VERIFIED, Trust.TOO_LARGE, Trust.VERIFIED]


def test_a_budget_comes_back_from_its_parts() -> None:
    budget = CheckBudget(100)
    with budget.part(4) as part:
        with pytest.raises(TooLargeToCheckError):
            part.charge(26)
        part.charge(20)
    assert budget.left == 80


def test_units_are_counted_alike_on_every_run() -> None:
    layer = Instance([[12, 4, 10, 2, 6]], Topology(8, 2), spread_replicas=True).layer(0)
    used = []
    for _ in range(2):
        budget = CheckBudget()
        check_bound(layer, Fraction(17), Exhaustive(), budget=budget)
        used.append(budget.left)
    assert used[0] == used[1]
