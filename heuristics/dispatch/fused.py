"""Shares and whole tokens in one kernel, a program a step and layer, for the GPU of an engine.

:func:`shares_and_tokens` gives what ``shares`` and then ``whole`` give, but for rounding, without
their hundreds of small operations. It needs Triton, which CUDA builds of torch bring along; the
extra ``gpu`` of this package installs it on Linux. Nothing else of this package needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heuristics.dispatch.interior_point import SWEEPS, check_sweeps
from heuristics.dispatch.slots import check, check_placement
from heuristics.dispatch.tiles import Tiles


@dataclass(frozen=True)
class Plan:
    """What the kernel reads of a placement, made once: all int32, contiguous.

    Attributes:
        num_experts: E.
        phy2log: [L, P] the expert in each slot.
        experts: [L, R] those with several slots and others, R = min(E, P - E).
        copies: [L, R, G] their slots on each rank.
        cell: [L, P] the place of a slot among the R G of ``copies``, R G for other experts.
        first: [L, P] 1 for the first slot of its expert on its rank, which serves all its tokens.
    """

    num_experts: int
    phy2log: Tensor
    experts: Tensor
    copies: Tensor
    cell: Tensor
    first: Tensor

    @classmethod
    def of(cls, phy2log: Tensor, num_experts: int, num_ranks: int) -> Plan:
        """From the expert in each slot, [L, P]; no host synchronization.

        Raises:
            ValueError: the slots are not as many on each rank.
        """
        check_placement(phy2log, num_experts, num_ranks)
        tiles = Tiles.of(phy2log, num_experts, num_ranks)
        tensors = (phy2log, tiles.experts, tiles.copies, tiles.cell, tiles.first)
        return cls(num_experts, *(t.int().contiguous() for t in tensors))


def shares_and_tokens(loads: Tensor, plan: Plan, *, sweeps: int = SWEEPS) -> tuple[Tensor, Tensor]:
    """Shares [..., L, P] float32 and whole tokens [..., L, P] int64 of each slot.

    Args:
        loads: [..., L, E] tokens of each expert, whole numbers of any dtype, on a GPU.
        plan: of the placement, on the same GPU.
        sweeps: as in :func:`heuristics.dispatch.shares`.

    Raises:
        ModuleNotFoundError: Triton is not installed.
        ValueError: shapes that do not fit, negative sweeps, or tensors that are not on a GPU.
    """
    num_ranks = plan.copies.shape[-1]
    check(loads, plan.phy2log, num_ranks)
    check_sweeps(sweeps)
    if loads.shape[-1] != plan.num_experts:
        raise ValueError(f"loads of {loads.shape[-1]} experts, the plan is of {plan.num_experts}")
    kernel = _kernel(loads)
    num_layers, num_slots = plan.phy2log.shape
    programs = loads.numel() // plan.num_experts
    shape = (*loads.shape[:-1], num_slots)
    shares = loads.new_empty(shape, dtype=torch.float32)
    tokens = loads.new_empty(shape, dtype=torch.int64)
    if programs:
        tiles = programs, plan.experts.shape[1], num_ranks
        kernel[(programs,)](
            loads.contiguous(), plan.phy2log, plan.experts, plan.copies, plan.cell, plan.first,
            shares.new_empty(tiles), tokens.new_empty(tiles), shares, tokens,
            num_layers, sweeps,
            **sizes(plan.num_experts, num_slots, num_ranks), enable_fp_fusion=True,
        )  # fmt: skip
    return shares, tokens


def sizes(num_experts: int, num_slots: int, num_ranks: int) -> dict[str, int]:
    """What the kernel is compiled for; a warp for each 128 places of the larger of its tables."""
    rows, each = min(num_experts, num_slots - num_experts), num_slots // num_ranks
    block_rows, block_ranks = _filled(rows, 16), _filled(num_ranks, 16)
    return {
        "E": num_experts, "R": rows, "G": num_ranks, "S": each,
        "BLOCK_R": block_rows, "BLOCK_G": block_ranks, "BLOCK_S": _filled(each, 1),
        "num_warps": min(16, max(block_rows, block_ranks) * block_ranks // 128),
    }  # fmt: skip


def _filled(number: int, least: int) -> int:
    """The next power of two, at least ``least``."""
    return max(least, 1 << (number - 1).bit_length())


def _kernel(loads: Tensor) -> Any:
    """The kernel, compiled, or interpreted where TRITON_INTERPRET=1 was set in time."""
    try:
        from triton.runtime.interpreter import InterpretedFunction

        from heuristics.dispatch.kernel import shares_and_tokens_kernel as kernel
    except ModuleNotFoundError as missing:
        if str(missing.name).partition(".")[0] != "triton":
            raise
        raise ModuleNotFoundError(
            "the kernel of the dispatcher needs Triton: pip install 'eplb-opt[gpu]' (Linux); "
            "heuristics.dispatch.shares and whole do without",
            name="triton",
        ) from missing
    if not loads.is_cuda and not isinstance(kernel, InterpretedFunction):
        raise ValueError(
            f"loads are on {loads.device}: the kernel runs on a GPU (in Triton's interpreter if "
            "TRITON_INTERPRET=1 is set before Triton is imported); heuristics.dispatch.shares and "
            "whole run anywhere"
        )
    return kernel
