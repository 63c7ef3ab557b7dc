"""A placement with holes, as ranks that died or came leave it, made whole by few transfers."""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.matching import count_on_ranks
from heuristics.replication import count_replicas

NEVER = 1e30
"""Above the load of any slot, in mean loads of a layer's slots."""


def complete(phy2log: Tensor, loads: Tensor, num_ranks: int) -> Tensor:
    """``phy2log`` [L, P] with an expert in every slot and a slot for every expert.

    Experts without a slot come first, the heaviest before others, then further replicas of those
    whose replicas are the heaviest. Each goes to an empty slot (-1) of the lightest rank that has
    one; where none is left, an expert without a slot takes that of a replica whose expert can spare
    it best. All other slots stay: the fewest transfers there are. O(n L P) time for n such slots.

    Args:
        phy2log: int64, -1 in empty slots; at least as many slots as experts.
        loads: [L, E].
        num_ranks: G.
    """
    experts = loads.shape[1]
    loads = loads.double()
    loads = loads / loads.mean(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    phy2log, row = phy2log.clone(), torch.arange(len(phy2log), device=phy2log.device)
    while True:
        empty = phy2log < 0
        filled = torch.where(empty, experts, phy2log)  # a column for those that are empty
        counts = count_replicas(filled, experts + 1)[:, :experts]
        lost = counts == 0
        active = lost.any(1) | empty.any(1)
        if not bool(active.any()):
            return phy2log
        comes = torch.where(lost, NEVER + loads, loads / counts.clamp(min=1)).argmax(1)
        per_replica = torch.nn.functional.pad(loads / counts.clamp(min=1), (0, 1))
        on_ranks = count_on_ranks(filled, num_ranks, experts + 1)
        rank_loads = (on_ranks * per_replica[:, None]).sum(2)
        of_slots = rank_loads.repeat_interleave(phy2log.shape[1] // num_ranks, 1)
        spare = torch.where(counts > 1, loads / (counts - 1).clamp(min=1), 2 * NEVER)
        spare = torch.nn.functional.pad(spare, (0, 1)).gather(1, filled) + NEVER
        slot = torch.where(empty, of_slots, spare).argmin(1)
        phy2log[row, slot] = torch.where(active, comes, phy2log[row, slot])
