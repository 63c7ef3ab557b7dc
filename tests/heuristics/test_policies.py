from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Placement, Topology
from eplb_opt.problem.validity import find_violations
from heuristics import POLICIES, rebalance_experts
from heuristics.matching import count_transfers
from heuristics.policies import TABLE, UnknownPolicyError, placer, refined
from tests.heuristics.loads import lognormal
from tests.oracles.baseline import baseline

README_LOADS = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]
README_PLACEMENT = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]

# (experts, slots, groups, nodes, ranks)
SHAPES = [
    (6, 8, 1, 1, 4),
    (6, 9, 1, 1, 3),
    (8, 8, 4, 2, 4),
    (8, 16, 4, 4, 8),
    (8, 12, 8, 2, 4),
    (12, 16, 4, 2, 8),
    (5, 20, 1, 1, 2),
    (8, 12, 4, 4, 4),
]


def test_published_example():
    phy2log, _, _ = rebalance_experts(torch.tensor(README_LOADS), 16, 4, 2, 8, policy="deepseek")
    assert phy2log.tolist() == README_PLACEMENT


@given(shape=st.sampled_from(SHAPES), data=st.data())
@settings(max_examples=150)
def test_same_slots_as_item_by_item(shape, data):
    experts, slots, groups, nodes, ranks = shape
    row = st.lists(st.integers(0, 12), min_size=experts, max_size=experts)  # few values: many ties
    loads = np.array(data.draw(st.lists(row, min_size=1, max_size=4)), dtype=np.float32)
    phy2log, _, _ = rebalance_experts(
        torch.from_numpy(loads), slots, groups, nodes, ranks, policy="deepseek"
    )
    assert phy2log.tolist() == [baseline(row, slots, groups, nodes, ranks) for row in loads]


def test_groups_that_do_not_divide_fall_back_to_the_global_rule():
    loads = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
    fallback = rebalance_experts(loads, 16, 3, 2, 8, policy="deepseek")
    expected = rebalance_experts(loads, 16, 1, 1, 8, policy="deepseek")
    assert all(torch.equal(a, b) for a, b in zip(fallback, expected, strict=True))


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("shape", SHAPES)
def test_every_policy_returns_a_valid_placement_and_consistent_maps(policy, shape):
    experts, slots, groups, nodes, ranks = shape
    loads = torch.rand(5, experts, generator=torch.Generator().manual_seed(1)).exp().pow(3)
    loads[1] = 0
    loads[2, 1:] = 0
    given_loads = loads.clone()
    phy2log, log2phy, logcnt = rebalance_experts(loads, slots, groups, nodes, ranks, policy=policy)
    placement = Placement(phy2log.numpy(), experts)
    rule = "hierarchical" if groups % nodes == 0 else "global"
    instance = Instance(loads.numpy(), Topology(slots, ranks, nodes, groups), rule)
    assert find_violations(placement, instance) == []
    assert phy2log.dtype == log2phy.dtype == logcnt.dtype == torch.int64
    assert np.array_equal(logcnt.numpy(), placement.logcnt)
    assert log2phy.shape == (5, experts, slots - experts + 1)
    widest = placement.log2phy.shape[2]
    assert np.array_equal(log2phy[:, :, :widest].numpy(), placement.log2phy)
    assert bool((log2phy[:, :, widest:] == -1).all())
    assert torch.equal(loads, given_loads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 1, 1, 4), "num_replicas=10 is not a multiple of num_gpus=4"),
        ((4, 1, 1, 2), "num_replicas=4 is less than 6 experts"),
        ((8, 4, 4, 4), "the number of experts=6 is not a multiple of num_groups=4"),
        ((9, 2, 2, 3), "num_gpus=3 is not a multiple of num_nodes=2"),
        ((8, 0, 1, 4), "num_groups=0 must be positive"),
    ],
)
def test_sizes_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        rebalance_experts(torch.ones(2, 6), *arguments)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("loads", [[3e156, 2.0, 1.0], [3e38, 3e38, 1.0]])
def test_loads_beyond_float32_are_refused(policy, loads):
    """Their placements were read from memory that nobody had written."""
    weight = torch.tensor([loads], dtype=torch.float64)
    with pytest.raises(ValueError, match="more than float32 holds: divide"):
        rebalance_experts(weight, 4, 1, 1, 2, policy=policy)


def test_bad_loads_are_refused():
    with pytest.raises(ValueError, match="negative, NaN or infinite"):
        rebalance_experts(torch.tensor([[1.0, float("nan")]]), 2, 1, 1, 1)
    with pytest.raises(ValueError, match=r"\(2,\) is not \[layers, experts\]"):
        rebalance_experts(torch.ones(2), 2, 1, 1, 1)


@pytest.mark.parametrize("name", ["best", "deepseek:40", "refined ", "refine:4", ""])
def test_unknown_policy_is_named(name):
    with pytest.raises(
        UnknownPolicyError, match=f"policy='{name}' is not one of deepseek, .*"
    ) as e:
        rebalance_experts(torch.ones(1, 2), 2, 1, 1, 1, policy=name)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("refined:", r"'refined:' is not refined\[:N\|:relabel\] with N transfers"),
        ("refined:some", r"'refined:some' is not refined\[:N\|:relabel\]"),
        ("refined:-1", r"'refined:-1' is not refined\[:N\|:relabel\]"),
        ("refined:4 + lpt", "counts rule 'refined:4' is not one of greedy, "),
        ("greedy +", "packing '' is not one of lpt, "),
    ],
)
def test_names_that_only_begin_as_a_policy_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        placer(name)


def test_every_policy_says_its_idea_in_one_line():
    assert list(TABLE) == list(POLICIES)
    for policy in TABLE.values():
        assert 10 < len(policy.idea) < 100
        assert "\n" not in policy.idea


NAMES = [*POLICIES, "refined:40", "refined:relabel", "huntington-hill + snake + pair-resplit"]
SIZES = (72, 1, 1, 8)


@pytest.mark.parametrize("name", NAMES)
def test_without_an_old_placement_a_name_places_as_rebalance_experts(name):
    _, now = lognormal(2, 3, 64, sigma=0.7, seed=9)
    placed = placer(name)(now, *SIZES)
    assert torch.equal(placed, placer(name)(now, *SIZES, None))
    assert torch.equal(placed, rebalance_experts(now, *SIZES, policy=name)[0])
    if name.startswith("refined:"):
        assert torch.equal(placed, rebalance_experts(now, *SIZES)[0])


@pytest.mark.parametrize("name", NAMES)
def test_only_those_that_say_so_start_from_the_old_placement(name):
    before, now = lognormal(2, 3, 64, sigma=0.7, seed=9)
    old = refined(before, *SIZES)
    placed = placer(name)(now, *SIZES, old=old)
    if name.startswith("refined:"):
        budget = None if name == "refined:relabel" else 40
        assert torch.equal(placed, refined(now, *SIZES, old=old, move_budget=budget))
        assert not torch.equal(placed, refined(now, *SIZES))
    else:
        assert torch.equal(placed, placer(name)(now, *SIZES))


@pytest.mark.parametrize("budget", [0, 5, 20])
def test_a_number_is_what_is_received_at_most(budget):
    before, now = lognormal(2, 3, 64, sigma=0.7, seed=9)
    old = refined(before, *SIZES)
    placed = placer(f"refined:{budget}")(now, *SIZES, old)
    assert int(count_transfers(old, placed, 8, 64).max()) <= budget


def test_an_old_placement_that_is_a_mistake_is_refused():
    _, now = lognormal(2, 3, 64, sigma=0.7, seed=9)
    with pytest.raises(ValueError, match="old holds expert 71, not in "):
        placer("refined:4")(now, *SIZES, torch.arange(72).repeat(3, 1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64])
def test_counts_in_any_integers_are_placed(dtype: torch.dtype) -> None:
    counts = torch.arange(48).view(3, 1, 16)
    for name in ("deepseek", "refined"):
        placed = rebalance_experts(counts.to(dtype), 20, 1, 1, 4, policy=name)
        wanted = rebalance_experts(counts.double(), 20, 1, 1, 4, policy=name)
        assert torch.equal(placed[0], wanted[0])
