"""The kernel, in Triton's interpreter on a CPU, against the tensor operations."""

import sys

import pytest
import torch
from torch import Tensor

from heuristics.dispatch import shares, whole
from heuristics.dispatch.fused import Plan, shares_and_tokens
from heuristics.dispatch.slots import expert_loads, rank_loads
from heuristics.engines import sglang_dispatch as sglang
from tests.heuristics import interpreted

has_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")


def makespans(tokens: Tensor, num_ranks: int) -> Tensor:
    return rank_loads(tokens, num_ranks).amax(-1)


def check(found: tuple[Tensor, Tensor], loads: Tensor, place: tuple) -> None:
    """As light as the tensor operations make it, and whole tokens that sum to the loads."""
    phy2log, ranks = place
    share, tokens = found
    best = shares(loads, phy2log, ranks, sweeps=interpreted.SWEEPS)
    assert share.dtype == torch.float32
    assert share.shape == tokens.shape == best.shape
    served = expert_loads(loads.double(), phy2log)
    mean = loads.sum(-1).double() / ranks
    excess = makespans(served * share, ranks) - makespans(served * best, ranks)
    assert (excess.abs() <= 1e-5 * mean).all()
    of_expert = phy2log[:, None] == torch.arange(loads.shape[-1])[:, None]  # [L, E, P]
    torch.testing.assert_close((share[..., None, :] * of_expert).sum(-1), torch.ones(loads.shape))
    assert (tokens >= 0).all()
    assert torch.equal((tokens[..., None, :] * of_expert).sum(-1), loads)
    expected = makespans(whole(loads, phy2log, best, ranks), ranks)
    assert (makespans(tokens, ranks) - expected).abs().le(1).all()


@has_triton
def test_the_kernel_gives_what_tensor_operations_give(found: dict):
    for name in interpreted.CASES:
        loads, *place = interpreted.case(name)
        check(found[name], loads, place)
    loads, *place = interpreted.case("three ranks")
    found_shares, found_tokens = found["one layer"]  # as SGLang's drop-in calls it
    part, tokens = sglang.by_operations(loads[0, 0].float(), place[0][0], place[1])
    torch.testing.assert_close(found_shares, part)
    assert torch.equal(found_tokens, tokens)


PLAN = Plan.of(torch.tensor([[0, 1, 0, 2]]), 3, 2)


@has_triton
def test_tensors_on_a_cpu_are_refused():
    with pytest.raises(ValueError, match=r"on cpu: .* whole run anywhere"):
        shares_and_tokens(torch.tensor([[5, 1, 2]]), PLAN)


def test_without_triton_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "triton.runtime.interpreter", raising=False)
    monkeypatch.delitem(sys.modules, "heuristics.dispatch.kernel", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"eplb-opt\[gpu\]"):
        shares_and_tokens(torch.tensor([[5, 1, 2]]), PLAN)


def test_loads_of_another_placement_are_refused():
    with pytest.raises(ValueError, match="4 slots for 5 experts"):
        shares_and_tokens(torch.ones(1, 5), PLAN)
    with pytest.raises(ValueError, match="loads of 2 experts, the plan is of 3"):
        shares_and_tokens(torch.ones(1, 2), PLAN)


def test_a_plan_for_ranks_that_do_not_divide_the_slots_is_refused():
    with pytest.raises(ValueError, match="num_ranks=3 does not divide 4 slots"):
        Plan.of(torch.tensor([[0, 1, 0, 2]]), 3, 3)
    with pytest.raises(ValueError, match="sweeps=-1 is negative"):
        shares_and_tokens(torch.tensor([[6, 2, 1]]), PLAN, sweeps=-1)
