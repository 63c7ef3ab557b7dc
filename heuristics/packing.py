"""Packing: which replica goes to which rank. One function a rule, all rows at once.

A packing maps items ``[B, P]`` and a number of packs ``G`` that divides P to an order ``[B, P]``
int64: the item in each slot, where slots ``g S .. (g + 1) S - 1`` belong to pack ``g`` and ``S = P
/ G``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from heuristics import loops
from heuristics.arrays import native
from heuristics.replication import replica_loads


def by_load(pack: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A packing of items made one of replicas, by their loads alone: (loads [B, E], the expert of
    each replica [B, P], G) -> the expert in each slot [B, P].
    """
    return lambda loads, replicas, num_ranks: replicas.gather(
        1, pack(replica_loads(loads, replicas), num_ranks)
    )


def lpt(loads: Tensor, num_packs: int) -> Tensor:
    """Longest processing time first with capacity: each item, heaviest first, to the lightest open
    pack.

    Within a pack items stand in the order of their arrival. Ties: equal items in the order of
    their index, equal packs the lowest. With S = 1 item ``g`` goes to pack ``g``. O(B P G) time.

    Reference: Graham, SIAM J. Appl. Math. 17 (1969) 416; with capacity as in DeepSeek EPLB.
    """
    rows, items = loads.shape
    capacity = items // num_packs
    if capacity == 1:
        return torch.arange(items, device=loads.device).repeat(rows, 1)
    heaviest_first = torch.sort(loads, dim=1, descending=True, stable=True)
    slot = _assign_slots(heaviest_first.values, num_packs)
    return torch.empty_like(slot).scatter_(1, slot, heaviest_first.indices)


def _assign_slots(loads: Tensor, num_packs: int) -> Tensor:
    """The slot of each item [B, P], items in the order in which they are placed."""
    if loops.run_on(loads):
        return loops.assign_slots(loads, num_packs)
    rows, items = loads.shape
    capacity, device = items // num_packs, loads.device
    slots = torch.empty(items, rows, dtype=torch.int64, device=device)
    first = torch.arange(0, items, capacity, device=device).repeat(rows)
    closing = torch.zeros(items, dtype=loads.dtype, device=device)
    closing[capacity - 1 :: capacity] = torch.inf  # the last slot of a pack closes it
    pack_loads = native(loads.new_zeros(rows, num_packs))
    row = native(torch.arange(0, rows * num_packs, num_packs, device=device))
    out, free, penalty = native(slots), native(first), native(closing)
    load, flat_loads = native(loads.T.contiguous()), pack_loads.reshape(-1)
    for i in range(items):
        pack = pack_loads.argmin(1) + row
        slot = free[pack]
        out[i] = slot
        free[pack] = slot + 1
        flat_loads[pack] += load[i] + penalty[slot]
    return slots.T.contiguous()


def snake(loads: Tensor, num_packs: int) -> Tensor:
    """Deal the items, heaviest first, to packs 0, 1, .., G - 1, G - 1, .., 0, 0, and so on.

    With S = 2 this folds the sorted row, which minimizes the heaviest pack for the given items.
    Ties: equal items in the order of their index. With S = 1 item ``g`` goes to pack ``g``. O(B P
    log P) time.
    """
    rows, items = loads.shape
    if items == num_packs:
        return torch.arange(items, device=loads.device).repeat(rows, 1)
    by_load = torch.sort(loads, dim=1, descending=True, stable=True).indices
    dealt = by_load.view(rows, items // num_packs, num_packs).clone()
    dealt[:, 1::2] = dealt[:, 1::2].flip(2)
    return dealt.transpose(1, 2).reshape(rows, items)
