"""Changes of placements tried one after another, and kept where they lower the mean makespan.

A *move* is (slot p, slot q, expert b): p and q exchange their experts, or, where q is -1, p takes
expert b as a further replica. Not tried is what would put an expert twice on a rank, leave one
without a slot, change a slot a second time in one call, or take more transfers than are left; nor,
under the rule ``home``, what leaves an expert without a replica at home, or serves more off home
than the limit and than now, replicas sharing alike.

A move is given up early where the steps so far speak against it (:mod:`heuristics.steps.racing`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.matching import count_on_ranks, count_transfers
from heuristics.steps.home_units import Homes
from heuristics.steps.racing import race
from heuristics.steps.values import Dispatched, dispatched, use_compiled


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
    steps: Dispatched,
    phy2log: Tensor,
    moves: Tensor,
    thresholds: Tensor,
    transfers: Transfers,
    homes: Homes,
) -> Tensor:
    """Try moves in order, all layers at once; ``steps``, ``phy2log`` [L, P] and ``transfers`` are
    changed in place.

    Args:
        steps: under the placement.
        phy2log: the expert in each slot.
        moves: [L, C, 3] int64.
        thresholds: [L, C] a move is kept if the mean makespan changes by less than this.
        transfers: what is left of them.
        homes: the rule ``home``, if it is that.

    Returns:
        [L, C] bool, the moves that were kept.
    """
    kept = torch.zeros(moves.shape[:2], dtype=torch.bool, device=moves.device)
    if not use_compiled(phy2log):
        _try_together(steps, phy2log, moves, thresholds, transfers, homes, kept)
        return kept
    from heuristics.steps.compiled_trials import try_each  # loads numba

    tensors = (
        steps.loads, phy2log, steps.tokens, steps.ranks, steps.critical, steps.makespans, moves,
        thresholds,
        transfers.held, transfers.left,
        homes.node, homes.tokens, homes.most,
        kept,
    )  # fmt: skip
    try_each(homes.num_nodes, *(tensor.numpy() for tensor in tensors))
    return kept


def _try_together(
    steps: Dispatched,
    phy2log: Tensor,
    moves: Tensor,
    thresholds: Tensor,
    transfers: Transfers,
    homes: Homes,
    kept: Tensor,
) -> None:
    """The torch form: each move of all layers at once."""
    num_ranks = steps.ranks.shape[2]
    changed = torch.zeros_like(phy2log, dtype=torch.bool)
    away = homes.away(phy2log)
    for c in range(moves.shape[1]):
        move = moves[:, c]
        after, takes = apply(phy2log, move, transfers.held)
        touched = torch.zeros_like(changed).scatter_(1, move[:, :2].clamp(min=0), True)
        touched[:, 0] &= (move[:, :2] == 0).any(1)
        allowed = is_placement(phy2log, after, move, num_ranks)
        allowed &= ~(touched & changed).any(1) & (takes <= transfers.left)
        leaves = homes.away(after)
        allowed &= leaves <= torch.maximum(homes.most, away)
        new = dispatched(steps.loads, torch.where(allowed[:, None], after, phy2log), num_ranks)
        wins = allowed & race(new.makespans - steps.makespans, thresholds[:, c])
        phy2log.copy_(torch.where(wins[:, None], after, phy2log))
        away = torch.where(wins, leaves, away)
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
