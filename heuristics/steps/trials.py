"""Changes of placements tried one after another, and kept where they lower the mean makespan.

A *move* is (slot p, slot q, expert b): p and q exchange their experts, or, where q is -1, p takes
expert b as a further replica. Not tried is what would put an expert twice on a rank, leave one
without a slot, change a slot a second time in one call, or take more transfers than are left.

A move is given up early where the steps so far speak against it (racing: Maron and Moore, NIPS 6
(1994) 59): after 16, 32, 64 .. steps, if the mean difference is above the threshold by ``DOUBT``
standard errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heuristics.compiled import compiled
from heuristics.matching import count_on_ranks, count_transfers
from heuristics.steps.pushes import (
    Array,
    Arrays,
    index_slots,
    level,
    make_index,
    make_scratch,
)
from heuristics.steps.values import Dispatched, dispatched, use_compiled

FIRST_LOOK = 16
"""Steps, and twice as many until each next look."""
DOUBT = 1.5
NEVER = 2**62
"""Transfers of a move that makes no placement."""


@dataclass
class Transfers:
    """Experts that ranks receive, against a limit.

    Attributes:
        held: [L, G, E] bool, what each rank held before.
        left: [L] int64, transfers that are still allowed; changed in place.
    """

    held: Tensor
    left: Tensor

    @staticmethod
    def of(
        phy2log: Tensor, old: Tensor | None, budget: int | None, num_ranks: int, num_experts: int
    ) -> Transfers:
        """From ``old`` [L, P], of which ``phy2log`` [L, P] is a change that the budget allows; any
        number without a budget.
        """
        layers = len(phy2log)
        left = torch.zeros(layers, dtype=torch.int64, device=phy2log.device)
        if old is None or budget is None:
            held = torch.ones(layers, num_ranks, num_experts, dtype=torch.bool)
            return Transfers(held.to(phy2log.device), left)
        held = count_on_ranks(old, num_ranks, num_experts) > 0
        return Transfers(
            held, left + budget - count_transfers(old, phy2log, num_ranks, num_experts)
        )


def try_moves(
    steps: Dispatched, phy2log: Tensor, moves: Tensor, thresholds: Tensor, transfers: Transfers
) -> Tensor:
    """Try moves in order, all layers at once; ``steps``, ``phy2log`` [L, P] and ``transfers`` are
    changed in place.

    Args:
        steps: under the placement.
        phy2log: the expert in each slot.
        moves: [L, C, 3] int64.
        thresholds: [L, C] a move is kept if the mean makespan changes by less than this.
        transfers: what is left of them.

    Returns:
        [L, C] bool, the moves that were kept.
    """
    kept = torch.zeros(moves.shape[:2], dtype=torch.bool, device=moves.device)
    if not use_compiled(phy2log):
        _try_together(steps, phy2log, moves, thresholds, transfers, kept)
        return kept
    tensors = (
        steps.loads, phy2log, steps.tokens, steps.ranks, steps.critical, steps.makespans, moves,
        thresholds,
        transfers.held, transfers.left, kept,
    )  # fmt: skip
    _try_each(*(tensor.numpy() for tensor in tensors))
    return kept


def _try_together(
    steps: Dispatched,
    phy2log: Tensor,
    moves: Tensor,
    thresholds: Tensor,
    transfers: Transfers,
    kept: Tensor,
) -> None:
    """The torch form: each move of all layers at once."""
    num_ranks = steps.ranks.shape[2]
    changed = torch.zeros_like(phy2log, dtype=torch.bool)
    for c in range(moves.shape[1]):
        move = moves[:, c]
        after, takes = apply(phy2log, move, transfers.held)
        touched = torch.zeros_like(changed).scatter_(1, move[:, :2].clamp(min=0), True)
        touched[:, 0] &= (move[:, :2] == 0).any(1)
        allowed = is_placement(phy2log, after, move, num_ranks)
        allowed &= ~(touched & changed).any(1) & (takes <= transfers.left)
        new = dispatched(steps.loads, torch.where(allowed[:, None], after, phy2log), num_ranks)
        wins = allowed & race(new.makespans - steps.makespans, thresholds[:, c])
        phy2log.copy_(torch.where(wins[:, None], after, phy2log))
        for name in ("tokens", "ranks", "makespans", "critical"):
            now: Tensor = getattr(steps, name)
            rows = wins.view(-1, *[1] * (now.dim() - 1))
            now.copy_(torch.where(rows, getattr(new, name), now))
        changed |= touched & wins[:, None]
        transfers.left -= takes * wins
        kept[:, c] = wins


def apply(phy2log: Tensor, move: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Placements [L, P] after one move [L, 3] of each, and the transfers [L] it takes."""
    slots_per_rank = phy2log.shape[1] // held.shape[1]
    p, q, b = move.unbind(1)
    swaps = q >= 0
    row, q = torch.arange(len(move), device=move.device), torch.where(swaps, q, p)
    before = phy2log[row, p], phy2log[row, q]
    now = torch.where(swaps, before[1], b), torch.where(swaps, before[0], b)
    after = phy2log.clone()
    after[row, p], after[row, q] = now
    on_rank, takes = after.view(len(after), -1, slots_per_rank), torch.zeros_like(p)
    for slot, comes, goes, counts in ((p, now[0], before[0], True), (q, now[1], before[1], swaps)):
        rank = slot // slots_per_rank
        gone = (on_rank[row, rank] != goes[:, None]).all(1)
        takes += (~held[row, rank, comes]).long() * counts
        takes -= (~held[row, rank, goes] & gone).long() * counts
    return after, takes


def is_placement(before: Tensor, after: Tensor, move: Tensor, num_ranks: int) -> Tensor:
    """[L] whether the slots that a move changes hold experts that their ranks hold once, and no
    expert is left without a slot.
    """
    slots_per_rank = after.shape[1] // num_ranks
    row, p = torch.arange(len(move), device=move.device), move[:, 0]
    q = torch.where(move[:, 1] >= 0, move[:, 1], p)
    on_rank = after.view(len(after), num_ranks, slots_per_rank)
    once = [
        (on_rank[row, slot // slots_per_rank] == after[row, slot][:, None]).sum(1) == 1
        for slot in (p, q)
    ]
    held = (after == before[row, p][:, None]).any(1)
    return once[0] & once[1] & held & (after[row, p] != before[row, p])


def race(change: Tensor, threshold: Tensor) -> Tensor:
    """[L] whether the mean of changes [L, T] is below the threshold [L], and was not given up."""
    steps = change.shape[1]
    number = torch.arange(1, steps + 1, device=change.device)
    mean = change.cumsum(1) / number
    spread = (change.square().cumsum(1) / number - mean.square()).clamp(min=0)
    given_up = mean - DOUBT * (spread / number).sqrt() > threshold[:, None]
    looks = [n - 1 for n in iterate_looks(steps)]
    return (mean[:, -1] < threshold) & ~given_up[:, looks].any(1)


def iterate_looks(steps: int) -> list[int]:
    """Numbers of steps after which a race is looked at."""
    looks, n = [], FIRST_LOOK
    while n <= steps:
        looks.append(n)
        n *= 2
    return looks


@compiled
def _try_each(
    loads: Array,
    placements: Array,
    tokens: Array,
    ranks: Array,
    cuts: Array,
    makespans: Array,
    moves: Array,
    thresholds: Array,
    held: Array,
    left: Array,
    kept: Array,
) -> None:
    """The compiled form: layer by layer, move by move, step by step.

    Args:
        loads: [L, T, E] tokens of each expert.
        placements: [L, P] the expert in each slot; changed in place.
        tokens: [L, T, P] of each slot; changed in place.
        ranks: [L, T, G] of each rank; changed in place.
        cuts: [L, T, G] ranks that hold up a step; changed in place.
        makespans: [L, T]; changed in place.
        moves: [L, C, 3].
        thresholds: [L, C].
        held: [L, G, E] whether a rank held an expert before.
        left: [L] transfers; changed in place.
        kept: [L, C] result.
    """
    num_layers, steps, num_experts = loads.shape
    num_slots, num_ranks = placements.shape[1], ranks.shape[2]
    index = make_index(num_experts, num_slots, num_ranks)
    scratch = make_scratch(num_experts, num_ranks)
    new_tokens, new_ranks = np.zeros((steps, num_slots)), np.zeros((steps, num_ranks))
    new_cuts, new_makespans = np.zeros((steps, num_ranks), np.bool_), np.zeros(steps)
    new = new_tokens, new_ranks, new_cuts, new_makespans
    for layer in range(num_layers):
        phy2log = placements[layer]
        now = tokens[layer], ranks[layer], cuts[layer], makespans[layer]
        changed = np.zeros(num_slots, np.bool_)
        for c in range(moves.shape[1]):
            p, q, b = moves[layer, c]
            if changed[p] or (q >= 0 and changed[q]):
                continue
            a = phy2log[p]
            phy2log[p] = b = phy2log[q] if q >= 0 else b
            if q >= 0:
                phy2log[q] = a
            index_slots(phy2log, index)
            takes = added_transfers(phy2log, p, q, a, held[layer], index)
            if takes <= left[layer] and wins_race(
                phy2log, p, q, a, now, new, index, scratch, thresholds[layer, c]
            ):
                tokens[layer], ranks[layer], cuts[layer], makespans[layer] = new
                left[layer] -= takes
                kept[layer, c] = changed[p] = True
                if q >= 0:
                    changed[q] = True
            else:
                phy2log[p] = a
                if q >= 0:
                    phy2log[q] = b


@compiled
def wins_race(
    phy2log: Array,
    p: int,
    q: int,
    a: int,
    now: Arrays,
    new: Arrays,
    index: Arrays,
    scratch: Arrays,
    threshold: float,
) -> bool:
    """Whether the mean makespan changes by less than the threshold, and was not given up.

    Args:
        phy2log: [P] the expert in each slot, after the move.
        p: the first slot of the move.
        q: the second slot, or -1.
        a: the expert that p held.
        now: tokens [T, P], ranks [T, G], cuts [T, G] and makespans [T] before.
        new: the same after the move; result.
        index: as of :func:`heuristics.steps.pushes.index_slots`, after the move.
        scratch: as of :func:`heuristics.steps.pushes.make_scratch`.
        threshold: of the mean change.
    """
    tokens, ranks, cuts, makespans = now
    new_tokens, new_ranks, new_cuts, new_makespans = new
    total, squares, look = 0.0, 0.0, FIRST_LOOK
    for t in range(len(makespans)):
        new_tokens[t], new_ranks[t], new_cuts[t] = tokens[t], ranks[t], cuts[t]
        hand_over(new_tokens[t], new_ranks[t], p, q, a, index)
        level(new_tokens[t], new_ranks[t], phy2log, index, scratch, new_cuts[t])
        new_makespans[t] = new_ranks[t].max()
        change = new_makespans[t] - makespans[t]
        total += change
        squares += change * change
        if t + 1 == look:
            mean = total / look
            spread = max(squares / look - mean * mean, 0.0)
            if mean - DOUBT * np.sqrt(spread / look) > threshold:
                return False
            look *= 2
    return bool(total / len(makespans) < threshold)


@compiled
def added_transfers(phy2log: Array, p: int, q: int, a: int, held: Array, index: Arrays) -> int:
    """Transfers that a move adds; more than any number that may be left if it makes no placement.

    Args:
        phy2log: [P] the expert in each slot, after the move.
        p: the first slot of the move.
        q: the second slot, or -1.
        a: the expert that p held.
        held: [G, E] whether a rank held an expert before.
        index: as of :func:`heuristics.steps.pushes.index_slots`, after the move.
    """
    first, slots_per_rank = index[0], len(phy2log) // len(held)
    b, g, h = phy2log[p], p // slots_per_rank, q // slots_per_rank
    if a == b or first[a + 1] == first[a] or number_on_rank(phy2log, b, g, slots_per_rank) > 1:
        return NEVER
    takes = received(phy2log, held[g], b, a, g, slots_per_rank)
    if q < 0:
        return takes
    if number_on_rank(phy2log, a, h, slots_per_rank) > 1:
        return NEVER
    return takes + received(phy2log, held[h], a, b, h, slots_per_rank)


@compiled
def received(
    phy2log: Array, held: Array, comes: int, goes: int, rank: int, slots_per_rank: int
) -> int:
    """Transfers of a rank that a change in one slot adds.

    Args:
        phy2log: [P] the expert in each slot, after the change.
        held: [E] what the rank held before.
        comes: the expert in the slot now.
        goes: the expert in it until now; its transfer is saved if no other slot of the rank has it.
        rank: g.
        slots_per_rank: S.
    """
    saved = not held[goes] and number_on_rank(phy2log, goes, rank, slots_per_rank) == 0
    return int(not held[comes]) - int(saved)


@compiled
def number_on_rank(phy2log: Array, expert: int, rank: int, slots_per_rank: int) -> int:
    """Slots of an expert on a rank.

    Args:
        phy2log: [P] the expert in each slot.
        expert: e.
        rank: g.
        slots_per_rank: S.
    """
    found = 0
    for p in range(rank * slots_per_rank, (rank + 1) * slots_per_rank):
        found += phy2log[p] == expert
    return found


@compiled
def hand_over(tokens: Array, load: Array, p: int, q: int, a: int, index: Arrays) -> None:
    """Give tokens to the slots that serve them after a move: a dispatch to start from.

    Args:
        tokens: [P] of each slot; changed in place.
        load: [G] of each rank; changed in place.
        p: the first slot of the move.
        q: the second slot, or -1.
        a: the expert that p held.
        index: as of :func:`heuristics.steps.pushes.index_slots`, after the move.
    """
    first, by_expert = index[0], index[1]
    slots_per_rank = len(tokens) // len(load)
    more = tokens[p]
    if q >= 0:
        more -= tokens[q]
    else:
        q = by_expert[first[a]]
        for i in range(first[a], first[a + 1]):
            if load[by_expert[i] // slots_per_rank] < load[q // slots_per_rank]:
                q = by_expert[i]
    tokens[p] -= more
    tokens[q] += more
    load[p // slots_per_rank] -= more
    load[q // slots_per_rank] += more
