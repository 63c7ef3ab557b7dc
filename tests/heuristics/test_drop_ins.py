from __future__ import annotations

import pytest
import torch

from heuristics import RefinedEplbPolicy, rebalance_experts, rebalance_experts_sglang
from heuristics.makespan import makespans
from heuristics.matching import count_transfers, keep_slots
from heuristics.policies import refined
from tests.heuristics.loads import drifted


def test_vllm_policy_returns_the_placement_with_slots_kept():
    loads = torch.rand(3, 16, generator=torch.Generator().manual_seed(0))
    fresh = RefinedEplbPolicy.rebalance_experts(loads, 20, 0, 1, 4)
    assert torch.equal(fresh, rebalance_experts(loads, 20, 1, 1, 4)[0])
    shuffled = fresh.view(3, 4, 5).flip(2).reshape(3, 20)
    again = RefinedEplbPolicy.rebalance_experts(loads, 20, 0, 1, 4, shuffled)
    assert torch.equal(again, shuffled)


class AtMostTwenty(RefinedEplbPolicy):
    policy = "refined:20"


def test_vllm_policy_with_a_budget_starts_from_the_old_map():
    before, now = (loads.float() for loads in drifted(4, 64, 0.3, seed=2))
    sizes = (72, 0, 1, 8)
    old = AtMostTwenty.rebalance_experts(before, *sizes)
    assert torch.equal(old, rebalance_experts(before, 72, 1, 1, 8)[0])
    new = AtMostTwenty.rebalance_experts(now, *sizes, old)
    fresh = RefinedEplbPolicy.rebalance_experts(now, *sizes, old)
    assert 0 < int(count_transfers(old, new, 8, 64).max()) <= 20
    assert int(count_transfers(old, fresh, 8, 64).min()) > 20
    expected = refined(now, 72, 1, 1, 8, old=old, move_budget=20)
    assert torch.equal(new, keep_slots(expected, old, 8))
    assert bool((makespans(now, new, 8) < makespans(now, old, 8)).all())


def test_vllm_policy_keeps_to_the_groups_of_the_old_map():
    before, now = (loads.float() for loads in drifted(4, 64, 0.3, seed=2))
    old = AtMostTwenty.rebalance_experts(before, 80, 8, 4, 8)
    new = AtMostTwenty.rebalance_experts(now, 80, 8, 4, 8, old)
    assert int(count_transfers(old, new, 8, 64).max()) <= 20
    against_the_rule = (torch.arange(80) % 64).repeat(4, 1)
    anew = AtMostTwenty.rebalance_experts(now, 80, 8, 4, 8, against_the_rule)
    fresh = rebalance_experts(now, 80, 8, 4, 8)[0]
    assert torch.equal(anew.view(4, 8, 10).sort(2).values, fresh.view(4, 8, 10).sort(2).values)


def test_vllm_map_of_other_ranks():
    before, now = (loads.float() for loads in drifted(4, 64, 0.3, seed=2))
    fresh = rebalance_experts(now, 72, 1, 1, 8)[0]
    wide = rebalance_experts(before, 96, 1, 1, 8)[0]
    new_rank = rebalance_experts(before, 72, 1, 1, 8)[0]
    new_rank[:, -9:] = -1
    lost = torch.tensor([64 - len(set(layer) - {-1}) for layer in new_rank.tolist()])
    for old in (wide, new_rank):
        placed = RefinedEplbPolicy.rebalance_experts(now, 72, 0, 1, 8, old)
        assert torch.equal(placed.view(4, 8, 9).sort(2).values, fresh.view(4, 8, 9).sort(2).values)
    placed = AtMostTwenty.rebalance_experts(now, 72, 0, 1, 8, new_rank)
    takes = count_transfers(new_rank[:, :63], placed[:, :63], 7, 64)
    assert bool((takes <= 20).all())
    assert bool((lost > 0).all())


def test_sglang_algorithm_is_any_name_of_a_policy():
    trace = torch.randint(0, 50, (4, 2, 8), generator=torch.Generator().manual_seed(1))
    for name in ("refined:40", "refined:relabel", "greedy + snake + pair-resplit"):
        got = rebalance_experts_sglang(trace, 12, 3, None, 2, name)
        expected = rebalance_experts(trace.sum(0), 12, 1, 2, 4, policy=name)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    with pytest.raises(ValueError, match="policy='deepseek:4' is not one of deepseek, "):
        rebalance_experts_sglang(trace, 12, 3, None, 2, "deepseek:4")


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
