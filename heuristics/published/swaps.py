"""Seed programs 002 and 004: :func:`heuristics.swaps.swap_extremes`, and one moved replica.

Refinements map loads [B, E], a placement [B, P] and the number of ranks to a placement; all rows at
once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.makespan import keep_better
from heuristics.packing import by_load, lpt
from heuristics.replication import count_replicas, replica_loads, replicas_in_order
from heuristics.swaps import RELATIVE_TOLERANCE, swap_extremes


def move_replica(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """Counts [B, E] after one replica moved to the heaviest item of the heaviest rank.

    It comes from the expert on the lightest rank whose replicas would grow least. No move where the
    growth would be more than what the receiver's replicas lose. As seed program 004.
    """
    rows, num_slots = phy2log.shape
    slots_per_rank = num_slots // num_ranks
    row = torch.arange(rows, device=loads.device)
    counts = count_replicas(phy2log, loads.shape[1])
    count = counts.gather(1, phy2log).view(rows, num_ranks, slots_per_rank)
    item = replica_loads(loads, phy2log).view(rows, num_ranks, slots_per_rank)
    expert = phy2log.view(rows, num_ranks, slots_per_rank)
    totals = item.sum(2)
    heavy, light = totals.argmax(1), totals.argmin(1)
    growth = item[row, light] / (count[row, light] - 1)
    growth = torch.where(count[row, light] > 1, growth, torch.inf)
    value, which = item[row, heavy].max(1)
    cost, donor = growth.min(1)
    relief = value / (count[row, heavy, which] + 1)
    move = (relief > cost) & (totals[row, heavy] > totals[row, light] * (1 + RELATIVE_TOLERANCE))
    step = move.long()[:, None]
    counts = counts.scatter_add(1, expert[row, heavy, which][:, None], step)
    return counts.scatter_add(1, expert[row, light, donor][:, None], -step)


def refine_replicas(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """Move one replica, pack anew (LPT and swaps), keep what has the smaller makespan.

    As seed program 004, which keeps the new packing whatever its makespan.
    """
    counts = move_replica(loads, phy2log, num_ranks)
    replicas = replicas_in_order(counts, phy2log.shape[1])
    packed = by_load(lpt)(loads, replicas, num_ranks)
    return keep_better(loads, phy2log, swap_extremes(loads, packed, num_ranks), num_ranks)
