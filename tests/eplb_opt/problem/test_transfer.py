"""What is sent when a placement replaces another."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eplb_opt.problem.transfer import EMPTY, Transfer, count_copies, count_transfers, plan_transfers


def test_unchanged_local_and_received() -> None:
    old, new = [[0, 1, 2, 3]], [[1, 1, 2, 0]]
    assert count_transfers(old, new, 2).tolist() == [[0, 1]]
    assert count_copies(old, new, 2).tolist() == [[1, 0]]
    assert plan_transfers(old[0], new[0], 2) == [
        Transfer(expert=0, sender=0, receiver=1, source=0, target=3)
    ]


def test_an_expert_wanted_twice_is_received_once() -> None:
    old, new = [[0, 1, 2, 3]], [[2, 2, 0, 1]]
    assert count_transfers(old, new, 2).tolist() == [[1, 2]]
    assert count_copies(old, new, 2).tolist() == [[1, 0]]
    assert [t.target for t in plan_transfers(old[0], new[0], 2)] == [2, 3, 0]


def test_holders_on_the_node_send_first_and_holders_share() -> None:
    old = [0, 1, 0, 2, 3, 4, 5, 6]  # expert 0 on ranks 0 and 2; nodes are ranks 0-3 and 4-7
    new = [0, 0, 0, 0, 0, 0, 0, 0]
    senders = Counter(t.sender for t in plan_transfers(old, new, 1))
    assert senders == {0: 3, 2: 3}
    on_node_of_rank_4 = plan_transfers([1, 0, 2, 3, 0, 4, 5, 6], new, 1, [0] * 4 + [1] * 4)
    assert [(t.receiver, t.sender) for t in on_node_of_rank_4] == [
        (0, 1), (2, 1), (3, 1), (5, 4), (6, 4), (7, 4),
    ]  # fmt: skip


def test_ranks_that_come_and_go() -> None:
    old, new = [0, 1, EMPTY, EMPTY], [EMPTY, EMPTY, 1, 0]
    assert count_transfers([old], [new], 2).tolist() == [[0, 2]]
    assert count_copies([old], [new], 2).tolist() == [[0, 0]]
    assert {(t.sender, t.receiver, t.target) for t in plan_transfers(old, new, 2)} == {
        (0, 1, 2),
        (0, 1, 3),
    }


def test_an_expert_nobody_holds() -> None:
    with pytest.raises(ValueError, match="no rank holds expert 2"):
        plan_transfers([0, 1], [0, 2], 1)
    with pytest.raises(ValueError, match="maps of 2 and 4 slots"):
        plan_transfers([0, 1], [0, 1, 0, 1], 1)


@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 6))
def test_executing_the_plan_gives_the_new_placement(data, slots, per_node, nodes, experts) -> None:
    ranks = per_node * nodes
    row = st.lists(st.integers(0, experts - 1), min_size=ranks * slots, max_size=ranks * slots)
    old, new = data.draw(row), data.draw(row)
    new = [e if e in old else old[0] for e in new]
    transfers = plan_transfers(old, new, slots, [rank // per_node for rank in range(ranks)])
    memory = [set(old[r * slots : (r + 1) * slots]) for r in range(ranks)]
    wanted = [set(new[r * slots : (r + 1) * slots]) for r in range(ranks)]
    for transfer in transfers:
        assert old[transfer.source] == transfer.expert == new[transfer.target]
        assert transfer.source // slots == transfer.sender
        assert transfer.target // slots == transfer.receiver
        assert transfer.expert not in memory[transfer.receiver]
        holders = [r for r in range(ranks) if transfer.expert in memory[r]]
        near = [r for r in holders if r // per_node == transfer.receiver // per_node]
        assert transfer.sender in (near or holders)
    got = Counter((t.receiver, t.expert) for t in transfers)
    assert got == {(r, e): 1 for r in range(ranks) for e in wanted[r] - memory[r]}
    assert count_transfers([old], [new], slots)[0].tolist() == [
        len(wanted[r] - memory[r]) for r in range(ranks)
    ]
    changed = int((np.array(old) != np.array(new)).sum())
    assert count_copies([old], [new], slots).sum() == changed - len(transfers)
