"""Swaps of one replica of the heaviest rank: a refinement, never worse than the placement given.

Beside a rank with one dominant replica only swaps help: re-splits of pairs of ranks do not try them
where there are too many splits. Placements are [B, P]; all rows at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.arrays import argmin_rows
from heuristics.makespan import host_may_look
from heuristics.replication import replica_loads

MAX_SWAPS = 50
RELATIVE_TOLERANCE = 1e-7
"""An exchange counts where it gains more than this part of the heaviest rank's load."""


def swap_extremes(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """Up to 50 times, the best swap between the heaviest and the lightest rank; as seed program
    002.

    A swap is the better the closer it brings the two ranks together; it never raises the makespan.
    Ties: the lowest rank, then the first replicas. O(50 B (P + S^2)) time.
    """
    rows, num_slots = phy2log.shape
    slots_per_rank = num_slots // num_ranks
    if slots_per_rank == 1 or num_ranks == 1:
        return phy2log
    row = torch.arange(rows, device=loads.device)
    item = replica_loads(loads, phy2log).view(rows, num_ranks, slots_per_rank)
    slots = torch.arange(num_slots, device=loads.device).repeat(rows, 1).view_as(item)
    for _ in range(MAX_SWAPS):
        totals = item.sum(2)
        (top, heavy), (bottom, light) = totals.max(1), totals.min(1)
        spread = (top - bottom)[:, None, None]
        difference = item[row, heavy][:, :, None] - item[row, light][:, None, :]
        gain, which = (spread - (spread - 2 * difference).abs()).flatten(1).max(1)
        swap = (gain > RELATIVE_TOLERANCE * top)[:, None]
        give, take = which // slots_per_rank, which % slots_per_rank
        pair = torch.stack([heavy * slots_per_rank + give, light * slots_per_rank + take], 1)
        if item.device.type == "cpu" and not bool(swap.any()):
            break
        for values in (item.view(rows, -1), slots.view(rows, -1)):
            old = values.gather(1, pair)
            values.scatter_(1, pair, torch.where(swap, old.flip(1), old))
    return phy2log.gather(1, slots.view(rows, -1))


LEAST_GAIN = 1e-12
"""A swap with any rank counts where it gains more than this part; sums in float64 are no better."""
SWAPS_A_RANK = 4
"""A search makes at most so many swaps for each rank; recorded loads need one to two."""


def swap_heaviest(
    loads: Tensor, phy2log: Tensor, num_ranks: int, most: int | None = None
) -> Tensor:
    """The best swap between the heaviest rank and any other, until none helps.

    The best leaves the lower maximum of the two ranks. At most ``most`` swaps a row, or ``4 G``.
    Ties: the first replicas. O(G B S P) time; on a CPU a row costs nothing once no swap helps it.
    """
    rows, num_slots = phy2log.shape
    slots_per_rank = num_slots // num_ranks
    if slots_per_rank == 1 or num_ranks == 1:
        return phy2log
    item = replica_loads(loads.double(), phy2log)
    placed, row = phy2log.clone(), torch.arange(rows, device=loads.device)
    for _ in range(SWAPS_A_RANK * num_ranks if most is None else most):
        pair, helps = _find_swap(item.index_select(0, row), num_ranks)
        if host_may_look(item):
            pair, row = pair[helps], row[helps]
            if len(row) == 0:
                break
        else:
            pair = torch.where(helps[:, None], pair, 0)
        for values in (item, placed):
            values[row[:, None], pair] = values[row[:, None], pair.flip(1)]
    return placed


def _find_swap(item: Tensor, num_ranks: int) -> tuple[Tensor, Tensor]:
    """The slots [B, 2] of the best swap of the heaviest rank, and whether it helps [B], from the
    loads of replicas [B, P].
    """
    rows, num_slots = item.shape
    slots_per_rank = num_slots // num_ranks
    totals = item.view(rows, num_ranks, slots_per_rank).sum(2)
    top, heavy = totals.max(1)
    slot = heavy[:, None] * slots_per_rank + torch.arange(slots_per_rank, device=item.device)
    given = item.gather(1, slot)[:, :, None]
    # The heavier of the two ranks is above their mean by |half the spread - (given - taken)|. Two
    # replicas of the heaviest rank itself leave at least what it has now.
    mean, half = ((top[:, None] + sign * totals) / 2 for sign in (1, -1))
    mean, half = (x.repeat_interleave(slots_per_rank, 1)[:, None] for x in (mean, half))
    after = given - (item[:, None] + half)
    after.abs_().add_(mean)
    which = argmin_rows(after.flatten(1))[:, None]
    best = after.flatten(1).gather(1, which)[:, 0]
    first = slot.gather(1, which // num_slots)
    return torch.cat([first, which % num_slots], 1), best < top * (1 - LEAST_GAIN)
