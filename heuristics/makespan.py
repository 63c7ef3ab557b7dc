"""The makespan of placements, which of two is better, and changes of some rows only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from heuristics.replication import count_replicas


def makespans(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """The largest rank load [B] of placements [B, P] for loads [B, E]."""
    per_slot = (loads / count_replicas(phy2log, loads.shape[1])).gather(1, phy2log)
    return per_slot.view(len(phy2log), num_ranks, -1).sum(2).amax(1)


def keep_better(loads: Tensor, first: Tensor, second: Tensor, num_ranks: int) -> Tensor:
    """Row by row the placement with the smaller makespan; the first if they are equal."""
    wins = makespans(loads, second, num_ranks) < makespans(loads, first, num_ranks)
    return torch.where(wins[:, None], second, first)


def keep_best(loads: Tensor, placements: Tensor, num_ranks: int) -> Tensor:
    """Row by row the placement with the smallest makespan, [B, P] of [n, B, P]; the first of
    equals.
    """
    best: Tensor = placements[0]
    for other in placements[1:]:
        best = keep_better(loads, best, other, num_ranks)
    return best


def host_may_look(like: Tensor) -> bool:
    """Whether the host reads values of such a tensor without waiting for a device."""
    return like.device.type == "cpu"


def change_where(needed: Tensor, change: Callable[[Tensor], Tensor], best: Tensor) -> Tensor:
    """``best`` [B, P] with ``change(rows)`` [n, P] in the rows where ``needed`` [B].

    On a CPU only these rows are given to ``change``, elsewhere all, which the host need not wait
    for. The result is the same if a row's change depends on no other row.
    """
    rows = torch.arange(len(best), device=best.device)
    if host_may_look(best):
        rows = rows[needed]
        if len(rows) == 0:
            return best
    return torch.where(needed[:, None], best.index_copy(0, rows, change(rows)), best)
