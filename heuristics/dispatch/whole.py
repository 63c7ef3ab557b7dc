"""Whole tokens for each slot from shares: the makespan of the shares, rounded up.

Rounding the shares moves each rank load by less than a token a slot, and so may raise the makespan
by some tokens, of which one is 3 % at 32 tokens a rank. Flows with integer bounds have integer
solutions: where shares reach a makespan M, whole tokens reach T = ceil(M). They are found by
pushing tokens off the ranks above T along shortest paths to ranks below T, all ranks at once, as
push-relabel does for a maximum flow (Goldberg and Tarjan, J. ACM 35 (1988) 921). A path passes
through ranks that are just full: a token comes, another one goes.

All numbers but the makespan of the shares are integers; the same input gives the same tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.dispatch.interior_point import CHUNK
from heuristics.dispatch.slots import check, expert_loads, rank_loads
from heuristics.dispatch.tiles import Tiles

ROUNDS = 16
"""Of pushes: none of 12,840 dispatches above ceil(optimum) (docs/results/dispatch.md)."""
SHARE_BITS = 22
"""Shares are rounded to multiples of 2^-22; times loads up to 2^40 they fit 63 bits."""
SHARE_ERROR = 1e-6
"""Relative error of a makespan computed from float32 shares, which must not raise its ceil."""
FAR = 1 << 40
"""A distance that no path has."""


def whole(loads: Tensor, phy2log: Tensor, shares: Tensor, num_ranks: int) -> Tensor:
    """Whole tokens for each slot, from shares whose makespan they are to keep.

    The quotas (:func:`quotas`), then 16 rounds of :func:`push_tokens` towards ceil of the makespan
    of the shares, and each time that is reached towards one token less. The best found is returned:
    its makespan is never above that of the quotas. A heuristic: with shares near the optimum the
    makespan is ceil(optimum) but where a token has to pass many ranks (long rings of full ranks).

    Args:
        loads: [..., L, E] tokens of each expert, whole numbers of any dtype, at most 2^40 each.
            Values are not looked at: fractions are rounded, sums are wrong beyond 2^40.
        phy2log: [L, P] int64, the expert in each slot; slot p is on rank ``p // (P / num_ranks)``.
        shares: [..., L, P] or [L, P], the part of its expert's tokens that each slot serves.
        num_ranks: G.

    Returns:
        int64 [..., L, P] that sums to the loads over the slots of each expert. Of slots of one
        expert on one rank the first serves all.

    Raises:
        ValueError: shapes that do not fit.

    >>> loads, phy2log = torch.tensor([[7, 4, 1]]), torch.tensor([[0, 1, 0, 2]])
    >>> whole(loads, phy2log, torch.tensor([[0.3, 1.0, 0.7, 1.0]]), num_ranks=2)
    tensor([[2, 4, 5, 1]])
    """
    check(loads, phy2log, num_ranks)
    _check_shares(shares, loads, phy2log)
    counted, num_experts = loads.round().long(), loads.shape[-1]
    if phy2log.shape[1] == num_experts:
        return expert_loads(counted, phy2log)
    tiles = Tiles.of(phy2log, num_experts, num_ranks)
    steps = counted.reshape(-1, *loads.shape[-2:])
    parts = shares.expand(*loads.shape[:-1], -1).reshape(len(steps), *phy2log.shape)
    chunk = max(1, CHUNK // tiles.copies.numel())
    pairs = zip(torch.split(steps, chunk), torch.split(parts, chunk), strict=True)
    found = torch.cat([_round(step, part, tiles) for step, part in pairs])
    return found.view(*loads.shape[:-1], phy2log.shape[1])


def _round(loads: Tensor, shares: Tensor, tiles: Tiles) -> Tensor:
    """:func:`whole` of loads [T, L, E] int64 and shares [T, L, P]."""
    alone = tokens_alone(loads, tiles)
    num_ranks = tiles.copies.shape[-1]
    start, base = quotas(loads, shares, tiles), rank_loads(alone, num_ranks)
    target = makespan_of_shares(loads, tiles.phy2log, shares, num_ranks)
    best = push_tokens(start, tiles.copies > 0, base, target, ROUNDS)
    return alone + _to_first_slots(best, tiles)


def tokens_alone(loads: Tensor, tiles: Tiles) -> Tensor:
    """[..., L, P] the tokens of experts that have no row in the tile, in their only slots."""
    outside = tiles.cell == tiles.copies[0].numel()
    return torch.where(outside, expert_loads(loads, tiles.phy2log), 0)


def quotas(loads: Tensor, shares: Tensor, tiles: Tiles) -> Tensor:
    """Whole tokens near the shares, [..., L, R, G].

    The tokens w of an expert are cut where the cumulated shares of its ranks end: rank g serves
    ``floor(w (s_0 + .. + s_g)) - floor(w (s_0 + .. + s_g-1))``, so they sum to w, and none is
    negative. In integers: shares in multiples of 2^-22, none above 1, divided by their sum. An
    expert whose shares are all 0 is shared evenly. Loads [..., L, E] int64.
    """
    fixed_point = (shares.double().nan_to_num().clamp(0, 1) * 2**SHARE_BITS).round().long()
    parts = _to_cells(fixed_point, tiles)
    none = parts.sum(-1, keepdim=True) == 0
    ends = torch.where(none, tiles.copies, parts).cumsum(-1)
    tokens = loads.gather(-1, tiles.experts.expand(*loads.shape[:-1], -1))
    cuts = tokens[..., None] * ends // ends[..., -1:]
    return cuts.diff(prepend=torch.zeros_like(cuts[..., :1]))


def makespan_of_shares(loads: Tensor, phy2log: Tensor, shares: Tensor, num_ranks: int) -> Tensor:
    """Ceil of the makespan of the shares, [..., L] int64."""
    served = rank_loads(expert_loads(loads, phy2log) * shares.double(), num_ranks)
    return (served.amax(-1) * (1 - SHARE_ERROR)).ceil().long()


def push_tokens(tokens: Tensor, held: Tensor, base: Tensor, target: Tensor, rounds: int) -> Tensor:
    """Move tokens between the ranks of their experts until no rank has more than the target.

    A rank *has room* below T = min(target, best makespan so far - 1). Its *distance* is 0; another
    rank's is one more than the least over the ranks that its tokens may go to. In every round the
    distances are corrected once, from lower bounds, then each rank above T sends half of its
    excess, rounded up, of one expert to a rank that is nearer (ties: the first rank, the first
    expert). Pushes do not conflict, as each takes from its own rank.

    Args:
        tokens: [..., L, R, G] int64 of each expert on each rank.
        held: [L, R, G] bool, the ranks that hold the expert.
        base: [..., L, G] tokens on each rank that cannot move.
        target: [..., L] makespan to reach.
        rounds: number of rounds, each of about 30 operations.

    Returns:
        [..., L, R, G] the tokens with the least makespan seen, the first such.
    """
    expert = torch.arange(tokens.shape[-2], device=tokens.device)[:, None]
    rank = torch.arange(tokens.shape[-1], device=tokens.device)
    load = base + tokens.sum(-2)
    best, makespan = tokens, load.amax(-1)
    distance = torch.zeros_like(load)
    for _ in range(rounds):
        most = torch.minimum(target, makespan - 1)[..., None]
        nearest = torch.where(held, distance[..., None, :], FAR).amin(-1)
        nearest = torch.where(tokens > 0, nearest[..., None], FAR).amin(-2)
        distance = torch.where(load < most, 0, nearest + 1).clamp(max=FAR)
        nearest, to = torch.where(held, distance[..., None, :], FAR).min(-1)
        nearest, sent = torch.where(tokens > 0, nearest[..., None], FAR).min(-2)
        half = torch.where(nearest < distance, load - most + 1, 0).clamp(min=0) // 2
        out = torch.where(expert == sent[..., None, :], half[..., None, :], 0).minimum(tokens)
        into = torch.where(rank == to[..., None], out.sum(-1, keepdim=True), 0)
        tokens = tokens - out + into
        load = base + tokens.sum(-2)
        better = load.amax(-1) < makespan
        best = torch.where(better[..., None, None], tokens, best)
        makespan = torch.where(better, load.amax(-1), makespan)
    return best


def _to_cells(values: Tensor, tiles: Tiles) -> Tensor:
    """[..., L, R, G] int64, sums of the values [..., L, P] of the slots of each cell."""
    cells = values.new_zeros(*values.shape[:-1], tiles.copies[0].numel() + 1)
    cells.scatter_add_(-1, tiles.cell.expand_as(values), values)
    return cells[..., :-1].reshape(*values.shape[:-1], *tiles.copies.shape[1:])


def _to_first_slots(tile: Tensor, tiles: Tiles) -> Tensor:
    """[..., L, P] the tokens of each cell [..., L, R, G] in the first of its slots."""
    cells = torch.cat([tile.flatten(-2), tile.new_zeros(*tile.shape[:-2], 1)], -1)
    served = cells.gather(-1, tiles.cell.expand(*cells.shape[:-1], -1))
    return torch.where(tiles.first, served, 0)


def _check_shares(shares: Tensor, loads: Tensor, phy2log: Tensor) -> None:
    expected = [*loads.shape[:-1], phy2log.shape[1]]
    if list(shares.shape) not in (expected, expected[-2:]):
        raise ValueError(
            f"shares {list(shares.shape)}: give those of each slot, {expected}, or one"
            f" for all steps, {expected[-2:]}"
        )
