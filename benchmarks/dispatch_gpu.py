"""Time of the dispatcher of one layer on a GPU, as an engine runs it: recorded in a CUDA graph.

Run: python benchmarks/dispatch_gpu.py

Each part is called once under ``set_sync_debug_mode("error")``, which fails where the host waits
for the GPU, then recorded, replayed and compared with the CPU. Ends with 2 where there is no GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from heuristics import rebalance_experts
from heuristics.dispatch import physical_ids, shares, whole
from heuristics.dispatch.fused import Plan, shares_and_tokens
from heuristics.dispatch.lplb import lplb
from heuristics.dispatch.slots import expert_loads, rank_loads

SHAPES = [(32, 40, 8), (256, 288, 32), (256, 320, 64), (256, 288, 72)]
TOKENS, TOP_K = 4096, 8
REPEATS = 200
LIMIT = 100  # microseconds a layer, about what LPLB's kernel takes

Call = Callable[[], Tensor]


def parts(loads: Tensor, phy2log: Tensor, num_ranks: int, topk_ids: Tensor) -> dict[str, Call]:
    """Loads [1, E] and phy2log [1, P] of one layer; each part returns one tensor."""
    plan = Plan.of(phy2log, loads.shape[-1], num_ranks)
    part = shares(loads, phy2log, num_ranks)
    tokens = whole(loads, phy2log, part, num_ranks)
    return {
        "kernel": lambda: shares_and_tokens(loads, plan)[1],
        "Plan.of": lambda: Plan.of(phy2log, loads.shape[-1], num_ranks).cell,
        "physical_ids": lambda: physical_ids(topk_ids, phy2log[0], tokens[0]),
        "shares": lambda: shares(loads, phy2log, num_ranks),
        "whole": lambda: whole(loads, phy2log, part, num_ranks),
        "lplb": lambda: lplb(loads, phy2log, num_ranks),
    }


def microseconds(call: Callable[[], object]) -> float:
    """The mean of REPEATS calls, by events of the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPEATS):
        call()
    end.record()
    torch.cuda.synchronize()
    return 1000 * start.elapsed_time(end) / REPEATS


def recorded(call: Call) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A graph of the call after a warm-up on another stream, and what a replay writes to."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


def measure(call: Call) -> str:
    """Without a graph, with one, or why there is none."""
    call()  # compiles
    eager = microseconds(call)
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
        waits = "no"
    except RuntimeError:
        waits = "YES"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    try:
        graph, result = recorded(call)
    except RuntimeError as error:
        return f"{eager:>9.1f} {'-':>9} {waits:>6}  not recorded: {str(error).splitlines()[0]}"
    replayed = microseconds(graph.replay)
    same = "" if torch.equal(result, call()) else "  REPLAY DIFFERS"
    return f"{eager:>9.1f} {replayed:>9.1f} {waits:>6}{same}"


def compare(loads: Tensor, phy2log: Tensor, num_ranks: int) -> str:
    """Makespans of the kernel on the GPU beside tensor operations on the CPU."""
    part, tokens = (
        t.cpu() for t in shares_and_tokens(loads, Plan.of(phy2log, loads.shape[-1], num_ranks))
    )
    loads, phy2log = loads.cpu(), phy2log.cpu()
    best = shares(loads, phy2log, num_ranks)
    served = expert_loads(loads, phy2log)
    values = served * part, served * best, tokens, whole(loads, phy2log, best, num_ranks)
    makespans = [float(rank_loads(v.double(), num_ranks).amax()) for v in values]
    return "makespan of shares {:.3f}, on the CPU {:.3f}; of tokens {:.0f}, {:.0f}".format(
        *makespans
    )


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU here: nothing is measured", file=sys.stderr)
        return 2
    print(torch.cuda.get_device_name(), torch.__version__, f"limit {LIMIT} microseconds a layer")
    rng = torch.Generator().manual_seed(0)
    for num_experts, num_slots, num_ranks in SHAPES:
        popularity = torch.randn(num_experts, generator=rng).exp()
        chosen = popularity.expand(TOKENS, -1).multinomial(TOP_K, generator=rng)
        loads = chosen.flatten().bincount(minlength=num_experts)[None]
        phy2log, _, _ = rebalance_experts(loads.float(), num_slots, 1, 1, num_ranks)
        loads, phy2log, ids = loads.cuda(), phy2log.cuda(), chosen.int().cuda()
        print(f"\n({num_experts}, {num_slots}, {num_ranks}), {TOKENS} tokens of {TOP_K} experts")
        print(compare(loads, phy2log, num_ranks))
        print(f"{'microseconds':<14} {'calls':>9} {'graph':>9} {'waits':>6}")
        for name, call in parts(loads, phy2log, num_ranks, ids).items():
            print(f"{name:<14} {measure(call)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
