"""What stays in place: ranks matched, slots kept, and old placements that are none."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Topology
from eplb_opt.problem import homes
from heuristics.matching import (
    NoStartError,
    check_old,
    find_homes,
    keep_slots,
    match_columns,
    relabel,
)
from heuristics.policies import refined
from tests.heuristics.loads import lognormal


@given(data=st.data(), ranks=st.integers(1, 3), slots=st.integers(1, 5))
@settings(max_examples=80)
def test_as_many_replicas_as_possible_keep_their_slot(data, ranks, slots):
    placement = st.lists(st.integers(0, 3), min_size=ranks * slots, max_size=ranks * slots)
    old, new = data.draw(placement), data.draw(placement)
    got = keep_slots(torch.tensor([new]), torch.tensor([old]), ranks)[0].tolist()
    for rank in range(ranks):
        mine = slice(rank * slots, (rank + 1) * slots)
        assert Counter(got[mine]) == Counter(new[mine])
        kept = sum(a == b for a, b in zip(got[mine], old[mine], strict=True))
        assert kept == (Counter(old[mine]) & Counter(new[mine])).total()


def test_slots_are_kept_of_a_placement_of_the_same_size_alone():
    with pytest.raises(ValueError, match=r"shape \(1, 6\) is not \(1, 8\)"):
        keep_slots(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 6, dtype=torch.int64), 2)


def test_a_permuted_placement_is_recognized() -> None:
    loads = lognormal(6, 64, sigma=0.8, seed=64)
    old = refined(loads, 80, 8, 4, 8)
    order = torch.tensor([5, 4, 0, 1, 7, 6, 2, 3])  # nodes 2, 0, 3, 1; their ranks exchanged
    new = old.view(6, 8, 10)[:, order].flip(2).flatten(1)
    assert torch.equal(relabel(new, old, 8, 4, 64), old)


@given(st.integers(1, 7), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_matched_columns_are_a_permutation_no_exchange_improves(n: int, seed: int) -> None:
    value = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (3, n, n))).float()
    column = match_columns(value)
    assert torch.equal(column.sort(1).values, torch.arange(n).expand(3, n))
    chosen = value.gather(2, column[:, None, :].expand(-1, n, -1))
    own = chosen.diagonal(dim1=1, dim2=2)
    gain = chosen + chosen.transpose(1, 2) - own[:, :, None] - own[:, None, :]
    assert float(gain.max()) <= 0


BAD = {
    "shape": ([[0, 1, 2]], "old of shape (1, 3) is not (1, 4)"),
    "floats": ([[0.0, 1, 2, 3]], "old must hold the experts as integers, not torch.float32"),
    "range": ([[0, 1, 2, 4]], "old holds expert 4, not in 0..3"),
    "negative": ([[0, 1, 2, -1]], "old holds expert -1, not in 0..3"),
    "missing": ([[0, 1, 2, 2]], "old has no slot for expert 3 in layer 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_old(case: str) -> None:
    old, message = BAD[case]
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        refined(torch.ones(1, 4), 4, 1, 1, 2, old=torch.tensor(old))


def test_old_against_the_rule() -> None:
    with pytest.raises(ValueError, match="old has not 1 whole groups on node 0 in layer 0"):
        refined(torch.ones(1, 4), 4, 2, 2, 2, old=torch.tensor([[0, 2, 1, 3]]))


CANNOT_START = {
    "narrow": ([[0, 1, 2]], 1),
    "wide": ([[0, 1, 2, 3, 0, 1]], 1),
    "empty slot": ([[0, 1, 2, -1]], 1),
    "rule": ([[0, 2, 1, 3]], 2),
}


@pytest.mark.parametrize("case", CANNOT_START)
def test_placements_that_can_only_be_replaced(case: str) -> None:
    old, nodes = CANNOT_START[case]
    with pytest.raises(NoStartError):
        check_old(torch.tensor(old), 4, nodes, nodes, torch.ones(1, 4))


@pytest.mark.parametrize("case", ["floats", "range", "missing", "layers"])
def test_mistakes_are_no_reason_to_place_anew(case: str) -> None:
    old = {"layers": [[0, 1, 2, 3]] * 2}.get(case) or BAD[case][0]
    with pytest.raises(ValueError, match="old ") as caught:
        check_old(torch.tensor(old), 4, 1, 1, torch.ones(1, 4))
    assert caught.type is not NoStartError


@given(data=st.data())
@settings(max_examples=60)
def test_homes_are_those_of_the_problem(data):
    nodes, per_node = data.draw(st.sampled_from([(1, 2), (2, 1), (2, 2), (3, 1), (4, 1)]))
    groups = nodes * per_node
    experts, slots = 2 * groups, nodes * data.draw(st.integers(2 * per_node, 2 * per_node + 2))
    loads = data.draw(st.lists(st.integers(0, 9), min_size=experts, max_size=experts))
    more = st.lists(st.integers(0, experts - 1), min_size=slots - experts, max_size=slots - experts)
    phy2log = data.draw(st.permutations([*range(experts), *data.draw(more)]))
    layer = Instance([loads], Topology(slots, nodes, nodes, groups), "home").layer(0)
    for present in (True, False):
        found = find_homes(
            torch.tensor([phy2log]), torch.tensor([loads]), nodes, groups, present=present
        )[0].tolist()
        exact = homes.traffic(layer, phy2log, present=present)
        if exact is None:
            assert set(found) == {-1}
            continue
        assert [found.count(n) for n in range(nodes)] == [per_node] * nodes
        assert sum(loads) * exact == sum(
            Fraction(loads[e], phy2log.count(e))
            for p, e in enumerate(phy2log)
            if found[e // 2] != p // (slots // nodes)
        )


HOMELESS = [[0, 1, 4, 2, 3, 5, 6, 7]]
"""Of four groups of two on two nodes: group 2 is on both."""


def test_an_old_placement_without_homes_is_placed_anew():
    like = torch.ones(1, 8)
    with pytest.raises(NoStartError, match="no homes of the groups in layer 0, 2 on each node"):
        check_old(torch.tensor(HOMELESS), 8, 2, 4, like, home=True)
    anywhere = torch.tensor([[0, 1, 2, 3, 4, 4, 5, 6, 7, 0]])  # a copy of 4 and of 0 off home
    assert torch.equal(check_old(anywhere, 10, 2, 4, like, home=True), anywhere)
    with pytest.raises(NoStartError, match="hierarchical rule"):
        check_old(anywhere, 10, 2, 4, like)
