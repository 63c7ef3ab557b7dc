"""Greedy counts and LPT in one kernel each, a program a row, for loads on a GPU.

Both take one small step a replica: as tensor operations four or six kernels each, 3,400 of the
3,486 that ``deepseek`` would launch at 288 slots. On a GPU with Triton, which CUDA builds of torch
bring along, they are these two kernels; on a CPU and where Triton is missing, the loops of
``replication`` and ``packing``, which give the same. The reasons are in docs/results/kernels.md.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def run_on(like: Tensor) -> bool:
    """Whether the kernels run where ``like`` is."""
    return like.is_cuda and _kernels() is not None


def greedy_replicas(loads: Tensor, num_slots: int) -> Tensor:
    """As :func:`heuristics.replication.greedy_replicas`; loads [B, E] where the kernels run."""
    rows, experts = loads.shape
    replicas = loads.new_empty(rows, num_slots, dtype=torch.int64)
    kernel = _kernels().greedy_replicas_kernel
    _launch(kernel, (loads.contiguous(), replicas, experts, num_slots), rows, experts)
    return replicas


def assign_slots(loads: Tensor, num_packs: int) -> Tensor:
    """The slot of each item [B, P], as LPT gives it; loads [B, P] in descending order, where the
    kernels run.
    """
    rows, items = loads.shape
    slots = loads.new_empty(rows, items, dtype=torch.int64)
    sizes = items, num_packs, items // num_packs
    _launch(_kernels().assign_slots_kernel, (loads.contiguous(), slots, *sizes), rows, num_packs)
    return slots


def _launch(kernel: Any, arguments: tuple[Any, ...], rows: int, width: int) -> None:
    """A program a row, on the device of the first argument; one warp up to 512 places."""
    block = 1 << (width - 1).bit_length()
    warps = min(max(block // 512, 1), 8)
    if rows:
        with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
            kernel[(rows,)](*arguments, BLOCK=block, num_warps=warps, enable_fp_fusion=False)


@lru_cache(maxsize=1)
def _kernels() -> Any:
    """The module of kernels; None where Triton, or a part of it, is missing."""
    try:
        from heuristics import loop_kernels
    except ModuleNotFoundError as missing:
        if str(missing.name).partition(".")[0] != "triton":
            raise
        return None
    return loop_kernels
