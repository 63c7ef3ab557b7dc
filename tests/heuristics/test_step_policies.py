"""``dispatch-aware`` and ``robust`` wherever a policy is named: names, shapes of loads, what is
refused.
"""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch

from heuristics import rebalance_experts, rebalance_experts_sglang
from heuristics.policies import NAMED, POLICIES, STEP_POLICIES, UnknownPolicyError, placer
from heuristics.shape import sum_over_steps
from heuristics.steps import dispatch_aware, robust

SIZES = (12, 1, 1, 4)
STEPS = torch.randint(0, 60, (6, 2, 8), generator=torch.Generator().manual_seed(1))


def test_only_those_for_steps_see_them() -> None:
    assert [name for name, policy in NAMED.items() if policy.takes_steps] == list(STEP_POLICIES)
    assert not set(STEP_POLICIES) & set(POLICIES)  # nothing runs a search that nobody asked for
    for name, policy in {"dispatch-aware": dispatch_aware, "robust": robust}.items():
        placed = placer(f"{name}:fast")(STEPS, *SIZES)
        assert torch.equal(placed, policy(STEPS, *SIZES, effort="fast"))
    for name in (*POLICIES, "refined:4", "greedy + snake"):
        policy = placer(name)
        assert torch.equal(policy(STEPS, *SIZES), policy(STEPS.sum(0), *SIZES))


def test_a_single_step_is_no_trace() -> None:
    policy = placer("dispatch-aware:fast")
    drawn = policy(STEPS[0], *SIZES)
    assert torch.equal(drawn, policy(STEPS[:1], *SIZES))
    assert torch.equal(drawn, dispatch_aware(STEPS[0], *SIZES, effort="fast"))
    for name in ("robust", "robust:thorough:worst", "robust:cvar:0.5"):
        for step in (STEPS[0], STEPS[:1]):
            assert torch.equal(placer(name)(step, *SIZES), placer("refined")(STEPS[0], *SIZES))


def test_names_say_effort_objective_and_what_is_kept() -> None:
    efforts = {"": {}, ":fast": {"effort": "fast"}, ":thorough": {"effort": "thorough"}}
    kept = {"": None, ":relabel": {}, ":40": {"move_budget": 40}}
    costs = {
        "dispatch-aware": [("", "mean")],
        "robust": [("", "mean"), (":worst", "worst"), (":cvar:0.25", "cvar:0.25")],
    }
    for base, effort, keep in product(costs, efforts, kept):
        for word, objective in costs[base]:
            policy = placer(f"{base}{effort}{word}{keep}")
            words = efforts[effort] | ({"objective": objective} if word else {})
            assert (policy.takes_steps, policy.objective) == (True, objective)
            assert getattr(policy.place, "keywords", {}) == words
            if kept[keep] is None:
                assert policy.change is None
            else:
                assert getattr(policy.change, "keywords", {}) == words | kept[keep]
    assert placer("dispatch-aware:fast:7").idea == (
        "dispatch-aware:fast, with at most 7 transfers a layer"
    )
    assert placer("robust:fast:worst").idea == "robust:worst with less search"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dispatch-aware:slow", r"is not dispatch-aware\[:fast\|:thorough\]\[:N\|:relabel\] with"),
        ("dispatch-aware:", "with N transfers a layer$"),
        ("dispatch-aware:-1", "with N transfers a layer$"),
        ("dispatch-aware:fast:thorough", "with N transfers a layer$"),
        ("dispatch-aware:worst", "only robust takes an objective"),
        ("refined:worst", r"is not refined\[:N.* only robust takes an objective"),
        ("refined:fast", r"is not refined\[:N"),
        ("robust:mean", "the mean is what robust minimizes"),
        ("robust:cvar", "cvar takes a share, as in robust:cvar:0.1"),
        ("robust:cvar:40:3", "objective='cvar:40' is not mean, worst or cvar"),
        ("robust:cvar:nan", "objective='cvar:nan' is not"),
        ("robust:worst:fast", r"\(did you mean robust:fast:worst\?\)"),
        ("robust:7:worst", r"\(did you mean robust:worst:7\?\)"),
        ("robust:thorugh:worse", r"\(did you mean robust:thorough:worst\?\)"),
    ],
)
def test_words_that_say_nothing_are_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"'{re.escape(name)}'.*{message}"):
        placer(name)


@pytest.mark.parametrize("base", ["refined", "robust:fast", "dispatch-aware:fast"])
def test_a_budget_of_any_size_is_one(base: str) -> None:
    """It was an overflow in a comparison of tensors."""
    old = torch.arange(12).remainder(8).repeat(2, 1)
    placed = placer(f"{base}:{10**20}")(STEPS, *SIZES, old)
    assert torch.equal(placed, placer(f"{base}:12")(STEPS, *SIZES, old))


def test_unknown_policies_are_told_what_there_is() -> None:
    with pytest.raises(UnknownPolicyError, match=r"robust\[:fast.* \(N transfers a layer\)"):
        placer("robust_fast")


@pytest.mark.parametrize("policy", ["deepseek", "refined", "dispatch-aware", "robust"])
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(8), r"weight of shape \(8,\) is not \[layers, experts\]"),
        (torch.ones(1, 3, 2, 8), r"weight of shape \(1, 3, 2, 8\) is not \[layers, experts\]"),
        (torch.ones(0, 2, 8), r"weight of shape \(0, 2, 8\) is not \[layers, experts\]"),
        (torch.ones(2, 2, 8) * torch.tensor([3.0, -1])[:, None, None], "a load that is negative"),
        (torch.full((2, 2, 8), torch.nan), "negative, NaN or infinite"),
        (torch.full((2, 2, 8), 3e37), "loads sum to 4.8e.38, more than float32 holds"),
        (torch.ones(2, 2, 8) > 0, "weight must hold real numbers, not torch.bool"),
        (torch.ones(2, 2, 16), "num_replicas=12 is less than 16 experts"),
    ],
)
def test_bad_steps_are_named(policy: str, weight: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rebalance_experts(weight, *SIZES, policy=policy)


def test_half_precision_may_not_hold_the_sum() -> None:
    steps = torch.full((3, 1, 2), 4e4, dtype=torch.float16)
    assert sum_over_steps(steps).tolist() == [[1.2e5, 1.2e5]]


def test_drop_ins_take_steps() -> None:
    maps = rebalance_experts(STEPS, *SIZES, policy="dispatch-aware:fast")
    assert torch.equal(maps[0], dispatch_aware(STEPS, *SIZES, effort="fast"))
    served = rebalance_experts_sglang(STEPS, 12, 3, None, 1, "dispatch-aware:fast")
    assert all(torch.equal(a, b) for a, b in zip(maps, served, strict=True))
    assert maps[1].shape == (2, 8, 5)
    steps = STEPS.clone()
    rebalance_experts_sglang(steps, 12, 3, None, 1, "dispatch-aware:fast")
    assert torch.equal(steps, STEPS)
