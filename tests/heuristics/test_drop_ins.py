from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heuristics import RefinedEplbPolicy, rebalance_experts, rebalance_experts_sglang
from heuristics.drop_ins import keep_slots


@given(data=st.data(), ranks=st.integers(1, 3), slots=st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_as_many_replicas_as_possible_keep_their_slot(data, ranks, slots):
    placement = st.lists(st.integers(0, 3), min_size=ranks * slots, max_size=ranks * slots)
    old, new = data.draw(placement), data.draw(placement)
    got = keep_slots(torch.tensor([new]), torch.tensor([old]), ranks)[0].tolist()
    for rank in range(ranks):
        mine = slice(rank * slots, (rank + 1) * slots)
        assert Counter(got[mine]) == Counter(new[mine])
        kept = sum(a == b for a, b in zip(got[mine], old[mine], strict=True))
        assert kept == (Counter(old[mine]) & Counter(new[mine])).total()


def test_vllm_policy_returns_the_placement_with_slots_kept():
    loads = torch.rand(3, 16, generator=torch.Generator().manual_seed(0))
    fresh = RefinedEplbPolicy.rebalance_experts(loads, 20, 0, 1, 4)
    assert torch.equal(fresh, rebalance_experts(loads, 20, 1, 1, 4)[0])
    shuffled = fresh.view(3, 4, 5).flip(2).reshape(3, 20)
    again = RefinedEplbPolicy.rebalance_experts(loads, 20, 0, 1, 4, shuffled)
    assert torch.equal(again, shuffled)


def test_vllm_policy_names_a_placement_of_another_size():
    with pytest.raises(ValueError, match=r"shape \(1, 6\) is not \(1, 8\)"):
        keep_slots(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 6, dtype=torch.int64), 2)


def test_sglang_function_sums_over_steps():
    trace = torch.randint(0, 50, (4, 2, 8), generator=torch.Generator().manual_seed(1))
    got = rebalance_experts_sglang(trace, 12, 3, None, 2)
    expected = rebalance_experts(trace.sum(0), 12, 1, 2, 4)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    baseline = rebalance_experts_sglang(trace, 12, 3, 4, 2, "deepseek")
    expected = rebalance_experts(trace.sum(0), 12, 4, 2, 4, policy="deepseek")
    assert torch.equal(baseline[0], expected[0])


def test_sglang_function_names_what_does_not_fit():
    with pytest.raises(ValueError, match="num_physical_experts=12 is not a multiple of num_local"):
        rebalance_experts_sglang(torch.ones(1, 1, 4), 12, 5, None, 1)
    with pytest.raises(ValueError, match=r"\(1, 4\) is not \[steps, layers, experts\]"):
        rebalance_experts_sglang(torch.ones(1, 4), 12, 4, None, 1)
