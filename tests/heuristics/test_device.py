"""Policies on a device: no copy to the host or from it, and what they place on the host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from heuristics import POLICIES, migration, rebalance_experts
from heuristics.migration import migrate
from heuristics.policies import deepseek
from heuristics.refined import refined
from tests.heuristics.loads import lognormal
from tests.heuristics.posing import on_device

SIZES = [(20, 1, 1, 4), (24, 8, 4, 8)]


def check(
    place: Callable[..., object], *tensors: Tensor, copies: int = 0, triton: bool = True
) -> int:
    """How many kernels it takes."""
    found, device = on_device(place, *tensors, triton=triton)
    assert device.copies.total() == copies, device.copies
    torch.testing.assert_close(found, place(*tensors), rtol=0, atol=0)
    return device.kernels.total()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sizes", SIZES)
def test_no_policy_copies_and_the_host_takes_the_same_branches(policy, sizes):
    place = partial(rebalance_experts, policy=policy)
    check(lambda loads: place(loads, *sizes), lognormal(3, 16, sigma=1.2, seed=1))


def test_a_device_without_triton_takes_the_loops_of_tensor_operations():
    place = partial(refined, effort="fast")
    check(lambda x: place(x, 20, 1, 1, 4), lognormal(3, 16, sigma=1.2, seed=1), triton=False)


@pytest.mark.parametrize(("place", "most"), [(deepseek, 100), (refined, 3000)])
def test_few_kernels_and_no_copy_at_full_size(place, most):
    kernels = check(lambda x: place(x, 288, 1, 1, 32), lognormal(9, 256, sigma=1.2, seed=3))
    assert kernels < most


def test_only_the_placement_until_now_and_the_budgets_are_copied(monkeypatch):
    monkeypatch.setattr(migration, "MORE_CHANGES", 3)  # rows end, and rows that go on are stopped
    loads, before = lognormal(2, 12, sigma=1.0, seed=4), lognormal(2, 12, sigma=1.0, seed=5)
    old = deepseek(before, 16, 1, 1, 4)
    check(lambda x, old: refined(x, 16, 1, 1, 4, effort="fast", old=old), loads, old, copies=2)
    check(lambda x, old: migrate(x, old, 4, [1, 2]).phy2log, loads, old, copies=1)


def assign(x: Tensor) -> None:
    x[torch.arange(2, device=x.device)] = 1.0


@pytest.mark.parametrize(
    "copies",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 1).any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: torch.nonzero(x),
        lambda x: x[x > 1],
        lambda x: x[[0, 1]],
        lambda x: x + torch.ones(2).to(x.device),
        lambda x: torch.tensor([1, 2], device=x.device),
        lambda x: x.repeat_interleave(x.long()),
        assign,
    ],
)
def test_every_copy_is_seen(copies):
    _, device = on_device(lambda x: [copies(x), None][1], torch.tensor([1.0, 2.0]))
    assert device.copies.total() == 1


def test_views_and_numbers_are_no_copies_and_views_no_kernels():
    def steps(x: Tensor) -> Tensor:
        x = torch.where(x.view(2, 2).T > 1, 2 * x.view(2, 2), torch.inf)
        x[:, 1:].add_(1)
        return x

    found, device = on_device(steps, torch.tensor([1.0, 2, 3, 4]))
    assert found.tolist() == [[torch.inf, 5], [6, 9]]
    assert not device.copies
    assert device.kernels == dict.fromkeys(["gt", "mul", "scalar_tensor", "where", "add"], 1)
