"""Tokens off home, and beyond a limit, beside exact arithmetic."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Topology
from eplb_opt.problem.homes import traffic
from heuristics.homes import beyond_limit, off_home
from heuristics.matching import find_homes
from tests.oracles.layers import FLOATS

SIZES = [(4, 6, 2, 2, 2), (8, 12, 4, 2, 4), (6, 6, 3, 3, 3), (4, 8, 4, 2, 4), (3, 5, 1, 1, 5)]
"""(experts, slots, groups, nodes, ranks)"""


def test_costs_of_many_sizes_have_a_least_assignment() -> None:
    """Sums of these as they round make a circle of two groups look cheaper and cheaper."""
    large = 500000 + 1 / 6
    small = [[3.1946712800987864, 6.389342560197573], [1.433032935570074, 1.433032935570074]]
    rows = [*small, [large, large], [4.72282587252141, 0.0]]
    loads = torch.tensor([[x for a, b in rows for x in (a, b)]], dtype=torch.float64)
    phy2log = torch.tensor([[*range(0, 8, 2), *range(1, 8, 2)]])
    homes = find_homes(phy2log, loads, 2, 4, present=False)
    assert homes.tolist() == [[1, 0, 1, 0]] or homes.tolist() == [[1, 1, 0, 0]]


@settings(max_examples=40)
@given(st.data())
def test_traffic_and_its_limit_are_those_of_fractions(data: st.DataObject) -> None:
    experts, slots, groups, nodes, ranks = data.draw(st.sampled_from(SIZES))
    number = data.draw(st.sampled_from([st.integers(0, 4), FLOATS]))
    steps = data.draw(
        st.lists(st.lists(number, min_size=experts, max_size=experts), min_size=1, max_size=3)
    )
    extra = st.lists(
        st.integers(0, experts - 1), min_size=slots - experts, max_size=slots - experts
    )
    placed = [*range(experts), *data.draw(extra)]
    if data.draw(st.booleans()):
        placed = data.draw(st.permutations(placed))
    loads, phy2log = torch.tensor(steps, dtype=torch.float64)[:, None], torch.tensor([placed])
    layer = Instance(loads.numpy(), Topology(slots, ranks, nodes, groups), "home").layer(0)
    exact = traffic(layer, placed)
    if exact is None:
        return
    homes = find_homes(phy2log, loads.sum(0), nodes, groups)
    total = float(loads.sum())
    found = float(off_home(loads.sum(0), phy2log, homes, nodes)) / (total or 1.0)
    assert found == pytest.approx(float(exact), abs=1e-12)
    for limit in {0.0, 0.1, 0.5, 1.0, float(exact)}:
        beyond = beyond_limit(loads, phy2log, groups, nodes, limit)
        assert bool(beyond == 0) == (exact <= Fraction(str(limit)))
