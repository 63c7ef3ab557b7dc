"""Homes, traffic and its limit, against every assignment of groups to nodes."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eplb_opt import Instance, Placement, Rule, Topology, find_violations
from eplb_opt.problem.homes import find_homes, traffic
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.validity import NO_HOME, layer_violation, over_limit

MACHINE = Topology(6, 2, num_nodes=2, num_groups=2)
LAYER = Instance([[6, 2, 1, 1]], MACHINE, rule="home", traffic_limit=0.1).layer(0)


@st.composite
def placed(draw: st.DrawFn) -> tuple[Layer, list[int]]:
    """A layer and a placement, which has homes more often than not."""
    nodes = draw(st.integers(1, 3))
    per_node, size = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    experts = nodes * per_node * size
    spare = draw(st.integers(0, 2))
    slots = per_node * size + spare
    loads = draw(st.lists(st.integers(0, 9), min_size=experts, max_size=experts))
    machine = Topology(nodes * slots, nodes, nodes, nodes * per_node)
    order = draw(st.permutations(range(nodes * per_node)))
    phy2log = []
    for n in range(nodes):
        own = order[n * per_node : (n + 1) * per_node]
        phy2log += [e for k in own for e in range(k * size, (k + 1) * size)]
        phy2log += draw(st.lists(st.integers(0, experts - 1), min_size=spare, max_size=spare))
    if draw(st.booleans()):
        phy2log = draw(st.permutations(phy2log))
    return Instance([loads], machine, rule="home").layer(0), phy2log


def by_enumeration(layer: Layer, phy2log: list[int], *, present: bool):
    """The least traffic of all assignments in lexicographic order, and the first that has it."""
    machine, best = layer.topology, None
    size = len(layer.loads) // machine.num_groups
    for homes in product(range(machine.num_nodes), repeat=machine.num_groups):
        if any(homes.count(n) != machine.groups_per_node for n in range(machine.num_nodes)):
            continue
        away, all_there = Fraction(0), True
        for e, load in enumerate(layer.loads):
            nodes = [p // machine.slots_per_node for p, held in enumerate(phy2log) if held == e]
            there = nodes.count(homes[e // size])
            all_there &= there > 0
            away += Fraction(load * (len(nodes) - there), len(nodes))
        if (all_there or not present) and (best is None or away < best[0]):
            best = away, homes
    return best


@given(placed(), st.booleans())
def test_homes_have_the_least_traffic_and_are_the_first_of_equals(case, present) -> None:
    layer, phy2log = case
    best = by_enumeration(layer, phy2log, present=present)
    assert find_homes(layer, phy2log, present=present) == (best and best[1])
    part = best and best[0] / (sum(layer.loads) or 1)
    assert traffic(layer, phy2log, present=present) == part
    if present:
        assert layer_violation(layer, phy2log) == (None if best else NO_HOME)


def test_shares_decide_the_traffic_and_not_the_homes() -> None:
    phy2log = [0, 0, 1, 2, 3, 0]
    assert find_homes(LAYER, phy2log) == (0, 1)
    assert traffic(LAYER, phy2log) == Fraction(2, 10)
    shares = [Fraction(1, 2), Fraction(1, 3), 1, 1, 1, Fraction(1, 6)]
    assert traffic(LAYER, phy2log, shares) == Fraction(1, 10)
    assert over_limit(LAYER, phy2log, shares) is None
    assert "20.0000% of the tokens are served off home" in str(over_limit(LAYER, phy2log))


def test_any_kind_of_row_is_read_and_a_wrong_one_refused() -> None:
    torch = pytest.importorskip("torch")
    row = [0, 0, 1, 2, 3, 0]
    for phy2log in (np.array(row, dtype=np.int32), torch.tensor(row)):
        assert find_homes(LAYER, phy2log) == (0, 1)
        assert traffic(LAYER, phy2log) == Fraction(1, 5)
    for wrong in (row[:5], [*row[:5], 4]):
        with pytest.raises(ValueError, match="is no placement of 4 experts in 6 slots"):
            traffic(LAYER, wrong)


def test_placements_without_homes_are_named() -> None:
    instance = Instance([[6, 2, 1, 1]] * 2, MACHINE, rule=Rule.HOME)
    placement = Placement([[0, 1, 0, 2, 3, 0], [0, 2, 0, 1, 3, 0]], 4)
    (found,) = find_violations(placement, instance)
    assert (found.kind, found.layer) == ("no-home", 1)


def test_limits_are_decimals_and_of_the_rule_home_only() -> None:
    assert Instance([[1] * 4], MACHINE, rule="home", traffic_limit=0.1).traffic_limit == Fraction(
        1, 10
    )
    for limit, rule in ((0.5, "global"), (-1, "home"), (1.5, "home"), ("x", "home")):
        with pytest.raises(ValueError, match="traffic_limit="):
            Instance([[1] * 4], MACHINE, rule=rule, traffic_limit=limit)
    with pytest.raises(ValueError, match="num_groups=3 is not a multiple of num_nodes=2"):
        Instance([[1] * 6], Topology(8, 2, 2, 3), rule="home")
