"""``dispatch-aware`` wherever a policy is named: names, shapes of loads, what is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from heuristics import rebalance_experts, rebalance_experts_sglang
from heuristics.policies import NAMED, POLICIES, STEP_POLICIES, UnknownPolicyError, placer
from heuristics.shape import sum_over_steps
from heuristics.steps import dispatch_aware

SIZES = (12, 1, 1, 4)
STEPS = torch.randint(0, 60, (6, 2, 8), generator=torch.Generator().manual_seed(1))


def test_only_those_for_steps_see_them() -> None:
    assert [name for name, policy in NAMED.items() if policy.takes_steps] == list(STEP_POLICIES)
    assert not set(STEP_POLICIES) & set(POLICIES)  # nothing runs a search that nobody asked for
    placed = placer("dispatch-aware")(STEPS, *SIZES)
    assert torch.equal(placed, dispatch_aware(STEPS, *SIZES))
    for name in (*POLICIES, "refined:4", "greedy + snake"):
        policy = placer(name)
        assert torch.equal(policy(STEPS, *SIZES), policy(STEPS.sum(0), *SIZES))


def test_a_single_step_is_no_trace() -> None:
    policy = placer("dispatch-aware:fast")
    drawn = policy(STEPS[0], *SIZES)
    assert torch.equal(drawn, policy(STEPS[:1], *SIZES))
    assert torch.equal(drawn, dispatch_aware(STEPS[0], *SIZES, effort="fast"))


def test_names_say_effort_and_what_is_kept() -> None:
    for effort in ("default", "fast", "thorough"):
        name = "dispatch-aware" if effort == "default" else f"dispatch-aware:{effort}"
        for kept, budget in (("relabel", {}), ("40", {"move_budget": 40})):
            policy = placer(f"{name}:{kept}")
            assert policy.takes_steps
            assert isinstance(policy.change, partial)
            assert policy.change.keywords == {"effort": effort} | budget
        assert placer(name).change is None
    assert placer("dispatch-aware:fast:7").idea == (
        "dispatch-aware:fast, with at most 7 transfers a layer"
    )


@pytest.mark.parametrize("name", ["dispatch-aware:slow", "dispatch-aware:", "dispatch-aware:-1"])
def test_words_that_are_no_effort_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is neither dispatch-aware:fast, dispatch-awar"):
        placer(name)
    with pytest.raises(ValueError, match="is neither dispatch-aware:fast:relabel nor dispatch-awa"):
        placer("dispatch-aware:fast:thorough")
    with pytest.raises(UnknownPolicyError, match=r"refined:N, .* \(N transfers a layer or relabel"):
        placer("dispatch_aware")


@pytest.mark.parametrize("policy", ["deepseek", "refined", "dispatch-aware"])
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
