from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eplb_opt import Instance, Placement, Topology, find_violations
from eplb_opt.problem.objective import rank_loads
from eplb_opt.problem.rationals import relative_gap
from eplb_opt.problem.validity import layer_violation
from solvers.dispatch import value

MAPS = hnp.arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(1, 9)),
                  elements=st.integers(0, 4))  # fmt: skip


@given(MAPS)
def test_the_three_maps_agree(phy2log: np.ndarray) -> None:
    placement = Placement(phy2log, 5)
    for layer, row in enumerate(phy2log.tolist()):
        counts = Counter(row)
        assert placement.logcnt[layer].tolist() == [counts[e] for e in range(5)]
        for e in range(5):
            slots = [p for p, f in enumerate(row) if f == e]
            padding = [-1] * (placement.log2phy.shape[2] - len(slots))
            assert placement.log2phy[layer, e].tolist() == slots + padding


@pytest.mark.parametrize(
    ("phy2log", "message"),
    [
        ([[0, 3]], "layer 0, slot 1 holds expert 3, which is not in 0..2"),
        ([[0, -1]], "layer 0, slot 1 holds expert -1"),
        ([[0.0, 1.0]], "must hold integers, not float64"),
        ([0, 1], "not \\[layers, slots\\]"),
        ([[0, 1], [0]], "ragged"),
    ],
)
def test_refuses(phy2log: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Placement(phy2log, 3)


def test_rank_loads_in_floats_and_exactly() -> None:
    instance = Instance([[6, 3, 1]], Topology(6, 3))
    placement = Placement([[0, 0, 0, 1, 2, 2]], 3)
    assert placement.rank_loads(instance.loads, 3).tolist() == [[4.0, 5.0, 1.0]]
    layer = instance.layer(0)
    assert rank_loads(layer, [0, 0, 0, 1, 2, 2]) == [4, 5, 1]
    assert value(layer, [0, 0, 1, 0, 2, 2]).incumbent == Fraction(5)


@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), st.permutations([0, 0, 0, 1, 2, 2]))
def test_exact_loads_are_the_textbook_sum(loads: list[int], slots: list[int]) -> None:
    layer = Instance([loads], Topology(6, 2)).layer(0)
    share = [Fraction(w, slots.count(e)) for e, w in enumerate(loads)]
    expected = [sum(share[e] for e in slots[:3]), sum(share[e] for e in slots[3:])]
    assert rank_loads(layer, slots) == expected


def test_a_gap_needs_a_positive_bound() -> None:
    assert relative_gap(Fraction(3), Fraction(2)) == 0.5
    with pytest.raises(ValueError, match="no gap over a lower bound of 0"):
        relative_gap(Fraction(0), Fraction(0))


def kinds(phy2log: object, instance: Instance) -> list[str]:
    placement = Placement(phy2log, instance.num_logical_experts)
    return [violation.kind for violation in find_violations(placement, instance)]


def test_valid_placements_have_no_violations() -> None:
    assert kinds([[0, 1, 2, 0]], Instance([[1, 2, 3]], Topology(4, 2))) == []
    hierarchical = Instance([[1, 2, 3, 4]], Topology(6, 2, 2, 2))
    assert kinds([[2, 3, 3, 0, 1, 1]], hierarchical) == []


def test_each_broken_rule_is_named() -> None:
    instance = Instance([[1, 2, 3, 4]], Topology(6, 2, 2, 2))
    assert kinds([[0, 1, 2, 3]], instance) == ["shape"]
    assert kinds([[2, 3, 3, 0, 1, 1]] * 2, instance) == ["shape"]
    assert kinds([[2, 2, 2, 0, 1, 1]], instance) == ["missing-expert"]
    assert kinds([[2, 3, 0, 0, 1, 1]], instance) == ["group-split", "groups-per-node"]
    four = Instance([[1, 2, 3, 4]], Topology(4, 2, 2, 4))
    assert kinds([[0, 1, 2, 3]], four) == []
    uneven = Instance([[1, 2, 3, 4]], Topology(8, 2, 2, 4))
    assert kinds([[0, 1, 2, 2, 3, 3, 3, 3]], uneven) == ["groups-per-node"] * 2
    spread = Instance([[1, 2, 3]], Topology(4, 2), spread_replicas=True)
    assert kinds([[0, 0, 1, 2]], spread) == ["shared-rank"]
    assert kinds([[0, 1, 0, 2]], spread) == []


def test_messages_say_where() -> None:
    instance = Instance([[1, 2], [1, 2]], Topology(2, 1))
    (violation,) = find_violations(Placement([[0, 1], [1, 1]], 2), instance)
    assert violation.layer == 1
    assert violation.message == "layer 1: expert 0 has no replica"


def test_number_of_experts_must_fit() -> None:
    (violation,) = find_violations(Placement([[0, 1]], 2), Instance([[1]], Topology(2, 1)))
    assert violation.kind == "shape"


def test_an_expert_twice_on_a_rank_is_named() -> None:
    instance = Instance([[1, 2, 3]] * 2, Topology(6, 2), spread_replicas=True)
    placement = Placement([[0, 1, 2, 2, 1, 0], [0, 1, 2, 0, 2, 2]], 3)
    (found,) = (v for v in find_violations(placement, instance) if v.kind == "shared-rank")
    assert (found.layer, found.message) == (1, "layer 1: rank 1 holds expert 2 more than once")


@pytest.mark.parametrize(
    ("slots", "spread", "nodes", "message"),
    [
        ([0, 1, 2, 3, 0, 1, 2, 3], False, 1, None),
        ([0, 1, 2, 3, 0, 1, 2], False, 1, "do not hold every expert, and no other"),
        ([0, 1, 2, 2, 0, 1, 2, 2], False, 1, "do not hold every expert, and no other"),
        ([0, 1, 2, 3, 4, 1, 2, 3], False, 1, "do not hold every expert, and no other"),
        ([0, 1, 2, 3, 0, 0, 2, 3], False, 1, None),
        ([0, 1, 2, 3, 0, 0, 2, 3], True, 1, "a rank holds an expert twice"),
        ([0, 1, 2, 3, 0, 1, 0, 1], True, 1, None),
        ([0, 1, 0, 1, 2, 3, 3, 2], False, 2, None),
        ([0, 1, 0, 2, 2, 3, 3, 1], False, 2, "a node does not hold K/N whole groups"),
        ([0, 1, 0, 1, 2, 3, 3, 1], False, 2, "a node does not hold K/N whole groups"),
    ],
)
def test_what_is_wrong_with_slots(slots, spread, nodes, message) -> None:
    topology = Topology(8, 4, num_nodes=nodes, num_groups=2)
    layer = Instance([[4, 3, 2, 1]], topology, spread_replicas=spread).layer(0)
    found = layer_violation(layer, slots)
    assert found is None if message is None else message in str(found)


def test_violations_name_their_layer() -> None:
    instance = Instance([[4, 3, 2, 1]] * 2, Topology(8, 4, num_nodes=2, num_groups=2))
    good = [0, 1, 0, 1, 2, 3, 3, 2]
    placement = Placement([good, [0, 1, 0, 2, 2, 3, 3, 1]], 4)
    found = find_violations(placement, instance)
    assert {v.kind for v in found} == {"group-split", "groups-per-node"}
    assert {v.layer for v in found} == {1}
    missing = Placement([[0, 1, 0, 1, 2, 2, 2, 2], good], 4)
    assert [v.layer for v in find_violations(missing, instance)] == [0]
