"""The kernel of :mod:`heuristics.dispatch.fused`: a program is one step of one layer.

Everything stays on the chip, in tiles of R experts with several slots and G ranks, each filled up
to a power of two. The mathematics and most names are those of ``interior_point`` and ``whole``.
Floating point numbers are float64, tokens int64.
"""

import triton
import triton.language as tl

from heuristics.dispatch import interior_point
from heuristics.dispatch.whole import ROUNDS, SHARE_BITS, SHARE_ERROR

LEAST_LOAD = tl.constexpr(interior_point.LEAST_LOAD)
LEAST_MU = tl.constexpr(interior_point.LEAST_MU)
SHRINK = tl.constexpr(interior_point.SHRINK)
START_ROOM = tl.constexpr(interior_point.START_ROOM)
STAY_INSIDE = tl.constexpr(interior_point.STAY_INSIDE)
PUSHES = tl.constexpr(ROUNDS)
SHARE_UNIT = tl.constexpr(float(2**SHARE_BITS))
REAL = tl.constexpr(1 - SHARE_ERROR)
FAR = tl.constexpr(1 << 20)


@triton.jit
def _prices(d, part, slack, right, ranks, num_ranks: tl.constexpr):
    """Changes of prices [G] that sum to 0, by Gauss and Jordan's elimination of H.

    Of H only what links two ranks is kept, ``a = -H >= 0``, and what is left of the diagonal,
    ``slack >= 0``: sums of positive numbers alone, so that nothing cancels (Grassmann, Taksar and
    Heyman, Operations Research 33 (1985) 1107).
    """
    rank = tl.arange(0, ranks.shape[0])
    ones = tl.where(ranks, 1.0, 0.0).to(tl.float64)
    pivots = tl.full(ranks.shape, 1.0, tl.float64)
    a = tl.dot(tl.trans(part), d, out_dtype=tl.float64)
    for k in range(num_ranks):
        here = rank == k
        row = tl.where(rank > k, tl.sum(tl.where(here[:, None], a, 0.0), 0), 0.0)
        column = tl.sum(tl.where(here[None, :], a, 0.0), 1)
        rest = tl.sum(tl.where(here, slack, 0.0), 0)
        pivot = rest + tl.sum(row, 0)
        factor = tl.where(here, 0.0, column / pivot)
        pivots = tl.where(here, pivot, pivots)
        a += factor[:, None] * row[None, :]
        slack += factor * rest
        right += factor * tl.sum(tl.where(here, right, 0.0), 0)
        ones += factor * tl.sum(tl.where(here, ones, 0.0), 0)
    dy, each = right / pivots, ones / pivots
    return dy - tl.sum(dy, 0) / tl.sum(each, 0) * each


@triton.jit
def _newton_step(x, s, z, y, is_open, rows, ranks, num_pairs, num_ranks: tl.constexpr):
    """``x, s [R, G], z, y [G]`` after a sweep; beyond R and G, x is 0 and z and y are positive."""
    mean = (tl.sum(tl.sum(x * s, 1), 0) + tl.sum(tl.where(ranks, z * y, 0.0), 0)) / num_pairs
    mu = tl.maximum(SHRINK * mean, LEAST_MU)
    d, slack = x / s, z / y
    total = tl.where(rows, tl.sum(d, 1), 1.0)
    part = d / total[:, None]
    q = tl.where(is_open, mu / s, 0.0) - x
    over = tl.sum(q, 1)
    right = mu / y - z + tl.sum(q - part * over[:, None], 0)
    dy = _prices(d, part, slack, tl.where(ranks, right, 0.0), ranks, num_ranks)
    dv = tl.sum(part * dy[None, :], 1) - over / total
    ds = tl.where(is_open, dy[None, :] - dv[:, None], 0.0)
    dx, dz = q - d * ds, tl.where(ranks, mu / y - z - slack * dy, 0.0)
    shrunk = tl.max(tl.max(-dx / tl.where(is_open, x, 1.0), 1), 0)
    primal = STAY_INSIDE / tl.maximum(tl.maximum(shrunk, tl.max(-dz / z, 0)), STAY_INSIDE)
    shrunk = tl.max(tl.max(-ds / s, 1), 0)
    dual = STAY_INSIDE / tl.maximum(tl.maximum(shrunk, tl.max(-dy / y, 0)), STAY_INSIDE)
    return x + primal * dx, s + dual * ds, z + primal * dz, y + dual * dy


@triton.jit
def _best_shares(load, base, copies, rows, ranks, sweeps, num_ranks: tl.constexpr):
    """Shares [R, G] of each expert's ranks, from loads [R], further loads of ranks [G]."""
    is_open = copies > 0
    even = copies / tl.where(rows, tl.sum(copies, 1), 1).to(tl.float64)[:, None]
    x = tl.maximum(load, LEAST_LOAD)[:, None] * even
    of_rank = base + tl.sum(x, 0)
    z = tl.where(ranks, tl.max(of_rank, 0) + START_ROOM - of_rank, 1.0)
    y = tl.where(ranks, 1.0 / num_ranks, 1.0).to(tl.float64)
    s = tl.full(x.shape, 0.5 / num_ranks, tl.float64)
    num_pairs = tl.sum(tl.sum(is_open.to(tl.int32), 1), 0) + num_ranks
    best, least = even, tl.max(base + tl.sum(load[:, None] * even, 0), 0)
    for _ in range(sweeps):
        x, s, z, y = _newton_step(x, s, z, y, is_open, rows, ranks, num_pairs, num_ranks)
        now = x / tl.where(rows, tl.sum(x, 1), 1.0)[:, None]
        makespan = tl.max(base + tl.sum(load[:, None] * now, 0), 0)
        best = tl.where(makespan < least, now, best)
        least = tl.minimum(least, makespan)
    return tl.where(load[:, None] > 0, best, even)


@triton.jit
def _quotas(load, copies, share):
    """Tokens [R, G] where the cumulated shares of the ranks end, from int64 loads and copies."""
    part = copies * (share * SHARE_UNIT + 0.5).to(tl.int64)
    part = tl.where((tl.sum(part, 1) == 0)[:, None], copies, part)
    end = tl.cumsum(part, 1)
    whole = tl.maximum(tl.sum(part, 1), 1)[:, None]
    return load[:, None] * end // whole - load[:, None] * (end - part) // whole


@triton.jit
def _push_tokens(tokens, held, base, target):
    """The tokens [R, G] with the least makespan seen in all rounds, towards the target."""
    expert, rank = tl.arange(0, tokens.shape[0]), tl.arange(0, tokens.shape[1])
    load = base + tl.sum(tokens, 0)
    best, makespan = tokens, tl.max(load, 0)
    distance = tl.zeros(load.shape, tl.int32)
    for _ in range(PUSHES):
        most = tl.minimum(target, makespan - 1)
        nearest = tl.min(tl.where(held, distance[None, :], FAR), 1)
        nearest = tl.min(tl.where(tokens > 0, nearest[:, None], FAR), 0)
        distance = tl.where(load < most, 0, tl.minimum(nearest + 1, FAR))
        nearest, to = tl.min(tl.where(held, distance[None, :], FAR), 1, return_indices=True)
        near = tl.where(tokens > 0, nearest[:, None], FAR)
        near, sent = tl.min(near, 0, return_indices=True)
        half = tl.where(near < distance, tl.maximum(load - most + 1, 0), 0) // 2
        out = tl.where(expert[:, None] == sent[None, :], half[None, :], 0)
        out = tl.minimum(out, tokens)
        into = tl.where(rank[None, :] == to[:, None], tl.sum(out, 1)[:, None], 0)
        tokens = tokens - out + into
        load = base + tl.sum(tokens, 0)
        best = tl.where(tl.max(load, 0) < makespan, tokens, best)
        makespan = tl.minimum(makespan, tl.max(load, 0))
    return best


@triton.jit
def shares_and_tokens_kernel(
    loads,
    phy2log,
    experts,
    copies,
    cell,
    first,
    share_tiles,
    token_tiles,
    shares,
    tokens,
    num_layers,
    sweeps,
    E: tl.constexpr,
    R: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Shares and whole tokens of the slots of one step of one layer.

    Args:
        loads: [T, L, E] tokens of each expert, whole numbers of any type.
        phy2log: [L, P] int32, the expert in each slot, P = G S.
        experts: [L, R] int32, the experts with several slots, filled up with others.
        copies: [L, R, G] int32, their slots on each rank.
        cell: [L, P] int32, the place r G + g of a slot's expert and rank, R G for other experts.
        first: [L, P] int32, 1 for the first slot of its expert on its rank.
        share_tiles: [T, L, R, G] float32, working memory.
        token_tiles: [T, L, R, G] int64, working memory.
        shares: [T, L, P] float32, written.
        tokens: [T, L, P] int64, written.
        num_layers: L.
        sweeps: steps of Newton's method.
        E: experts.
        R: experts in a tile, min(E, P - E).
        G: ranks.
        S: slots of a rank.
        BLOCK_R: R filled up to a power of two, at least 16.
        BLOCK_G: G filled up to a power of two, at least 16.
        BLOCK_S: S filled up to a power of two.
    """
    program = tl.program_id(0).to(tl.int64)
    layer = program % num_layers
    row, rank, place = tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_S)
    rows, ranks = row < R, rank < G
    in_tile = rows[:, None] & ranks[None, :]
    tile = row[:, None] * G + rank[None, :]
    slot = rank[:, None] * S + place[None, :]
    in_slots = ranks[:, None] & (place < S)[None, :]

    slot_expert = tl.load(phy2log + layer * G * S + slot, in_slots, 0)
    slot_cell = tl.load(cell + layer * G * S + slot, in_slots, 0)
    slot_load = tl.load(loads + program * E + slot_expert, in_slots, 0).to(tl.float64)
    alone = in_slots & (slot_cell == R * G)
    expert = tl.load(experts + layer * R + row, rows, 0)
    load = tl.load(loads + program * E + expert, rows, 0).to(tl.float64)
    held = tl.load(copies + layer * R * G + tile, in_tile, 0)
    base = tl.sum(tl.where(alone, slot_load, 0.0), 1)

    total = tl.sum(load, 0) + tl.sum(base, 0)
    scale = G / tl.where(total > 0, total, G)
    share = _best_shares(load * scale, base * scale, held, rows, ranks, sweeps, G)

    makespan = tl.max(base + tl.sum(load[:, None] * share, 0), 0)
    target = tl.ceil(makespan * REAL).to(tl.int64)
    share = (share / tl.maximum(held, 1)).to(tl.float32)
    start = _quotas((load + 0.5).to(tl.int64), held.to(tl.int64), share.to(tl.float64))
    served = _push_tokens(start, held > 0, (base + 0.5).to(tl.int64), target)

    tl.store(share_tiles + program * R * G + tile, share, in_tile)
    tl.store(token_tiles + program * R * G + tile, served, in_tile)
    tl.debug_barrier()  # from here on other threads read what was stored
    several = in_slots & (slot_cell < R * G)
    share = tl.load(share_tiles + program * R * G + slot_cell, several, 1.0)
    served = tl.load(token_tiles + program * R * G + slot_cell, several, 0)
    serves = tl.load(first + layer * G * S + slot, in_slots, 0) > 0
    served = tl.where(alone, (slot_load + 0.5).to(tl.int64), tl.where(serves, served, 0))
    tl.store(shares + program * G * S + slot, share, in_slots)
    tl.store(tokens + program * G * S + slot, served, in_slots)
