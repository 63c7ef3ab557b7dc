"""The kernels of :mod:`heuristics.loops`: a program is one row.

A row's loads stay in registers, in a tile of BLOCK places, the numbers filled up to a power of two;
each step is one reduction of the tile. Of equals the first is taken, and sums and quotients are
rounded as everywhere, so that the result is that of the tensor operations, bit for bit.
"""

import triton
import triton.language as tl


@triton.jit
def greedy_replicas_kernel(loads, replicas, num_experts, num_slots, BLOCK: tl.constexpr):
    """The expert of each replica of a row under greedy counts.

    Args:
        loads: [B, E] float32 or float64, at least 0.
        replicas: [B, P] int64, written.
        num_experts: E.
        num_slots: P.
        BLOCK: a power of two, at least E.
    """
    row = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, BLOCK)
    inside = expert < num_experts
    load = tl.load(loads + row * num_experts + expert, inside, -float("inf"))
    tl.store(replicas + row * num_slots + expert, expert.to(tl.int64), inside)
    share, count = load, tl.full(load.shape, 1, load.dtype)
    for slot in range(num_experts, num_slots):
        heaviest = tl.argmax(share, 0)
        tl.store(replicas + row * num_slots + slot, heaviest.to(tl.int64))
        here = expert == heaviest
        count += tl.where(here, 1, 0).to(load.dtype)
        if load.dtype == tl.float32:  # where a plain quotient is rounded carelessly
            share = tl.where(here, tl.div_rn(load, count), share)
        else:
            share = tl.where(here, load / count, share)


@triton.jit
def assign_slots_kernel(loads, slots, num_items, num_packs, capacity, BLOCK: tl.constexpr):
    """The slot of each item of a row: item after item to the lightest open pack.

    Args:
        loads: [B, P] float32 or float64, at least 0, in the order in which items are placed.
        slots: [B, P] int64, written; slots g S .. (g + 1) S - 1 belong to pack g.
        num_items: P.
        num_packs: G.
        capacity: S = P / G.
        BLOCK: a power of two, at least G.
    """
    row = tl.program_id(0).to(tl.int64)
    pack = tl.arange(0, BLOCK)
    total = tl.where(pack < num_packs, 0.0, float("inf")).to(loads.dtype.element_ty)
    free = pack * capacity
    for item in range(num_items):
        load = tl.load(loads + row * num_items + item)
        here = pack == tl.argmin(total, 0)
        slot = tl.sum(tl.where(here, free, 0), 0)
        tl.store(slots + row * num_items + item, slot.to(tl.int64))
        free += tl.where(here, 1, 0)
        total = tl.where(here, total + load, total)
        total = tl.where(here & (free == (pack + 1) * capacity), float("inf"), total)
