"""The kernels of greedy counts and LPT, in Triton's interpreter and compiled, without a GPU."""

from __future__ import annotations

import sys

import pytest
import torch

import heuristics
from heuristics import loops
from heuristics.packing import _assign_slots
from heuristics.replication import greedy_replicas, replica_loads
from tests.heuristics.interpreted import ROWS, row_loads

has_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")


@has_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", ROWS)
def test_a_kernel_gives_what_the_loop_gives(rows, dtype, found):
    loads = row_loads(rows, dtype)
    replicas, slots = found[str((rows, dtype))]
    assert torch.equal(replicas, greedy_replicas(loads, rows[2]))
    items = replica_loads(loads, replicas).sort(stable=True, dim=1, descending=True).values
    assert torch.equal(slots, _assign_slots(items, rows[3]))


@has_triton
def test_compiled_for_a_gpu_the_kernels_round_as_tensor_operations_do():
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from heuristics.loop_kernels import assign_slots_kernel, greedy_replicas_kernel

    for kernel in (greedy_replicas_kernel, assign_slots_kernel):
        signature = dict.fromkeys(kernel.arg_names, "i32") | {"BLOCK": "constexpr"}
        signature |= dict(zip(kernel.arg_names, ("*fp32", "*i64"), strict=False))
        source = ASTSource(kernel, signature, {"BLOCK": 64})
        options = {"num_warps": 1, "enable_fp_fusion": False}
        ptx = compiled(source, GPUTarget("cuda", 90, 32), options).asm["ptx"]
        assert ("div.rn.f32" if kernel is greedy_replicas_kernel else "add.rn.f32") in ptx
        assert not {"ftz", "div.full", "div.approx", "fma"} & set(ptx.replace(".", " ").split())


def test_a_missing_part_of_triton_leaves_the_loops(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "heuristics.loop_kernels", raising=False)
    monkeypatch.delattr(heuristics, "loop_kernels", raising=False)
    assert loops._kernels.__wrapped__() is None
