"""The seed programs' packings, which know the expert of a replica and keep its like apart.

Each maps loads [B, E], the expert of each replica [B, P] and the number of packs to the expert in
each slot [B, P]; all rows at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.packing import snake
from heuristics.replication import count_replicas, replica_loads


def deal_interleaved(loads: Tensor, replicas: Tensor, num_packs: int) -> Tensor:
    """Deal replicas as :func:`snake` does, but in the order of what is left of their experts.

    The replica that comes after ``k`` others of its expert counts as ``w_e (c_e - k) / c_e``:
    replicas of an expert stand apart. Ties: the lowest expert. As seed program 001.

    Args:
        loads: [B, E].
        replicas: [B, P] expert of each replica.
        num_packs: G.

    Returns:
        The expert in each slot [B, P].
    """
    labels = torch.sort(replicas, dim=1).values
    counts = count_replicas(labels, loads.shape[1])
    first = (counts.cumsum(1) - counts).gather(1, labels)
    before = torch.arange(labels.shape[1], device=labels.device) - first
    left = replica_loads(loads, labels).double() * (counts.gather(1, labels) - before)
    return labels.gather(1, snake(left, num_packs))


def deal_diverse(loads: Tensor, replicas: Tensor, num_packs: int) -> Tensor:
    """One replica of each expert by LPT, then the further ones, apart from their like where loads
    tie.

    Loads within a millionth of the mean replica tie; then fewest replicas of the expert, fewest
    items, lowest pack. As seed program 000. Arguments and result as :func:`deal_interleaved`.
    """
    labels = torch.sort(replicas, dim=1).values
    if num_packs in (1, labels.shape[1]):
        return labels
    load = replica_loads(loads, labels)
    first = torch.ones_like(labels, dtype=torch.bool)
    first[:, 1:] = labels[:, 1:] != labels[:, :-1]
    heaviest = torch.sort(load, dim=1, descending=True, stable=True).indices
    further = torch.sort((~first).gather(1, heaviest).long(), dim=1, stable=True).indices
    order = heaviest.gather(1, further)
    slots = _assign_slots(load.gather(1, order), labels.gather(1, order), loads.shape[1], num_packs)
    return torch.empty_like(slots).scatter_(1, slots, labels.gather(1, order))


def _assign_slots(load: Tensor, labels: Tensor, num_experts: int, num_packs: int) -> Tensor:
    """The slot of each replica [B, P], replicas in the order in which they are placed."""
    rows, num_slots = labels.shape
    capacity, device = num_slots // num_packs, load.device
    row = torch.arange(rows, device=device)
    loads = torch.zeros(rows, num_packs, dtype=torch.float64, device=device)
    used = torch.zeros(rows, num_packs, dtype=torch.int64, device=device)
    held = torch.zeros(rows, num_packs, num_experts, dtype=torch.int64, device=device)
    slots = torch.empty_like(labels)
    tie = 1e-6 * load.mean(1)
    for i in range(num_slots):
        expert = labels[:, i]
        open_loads = torch.where(used < capacity, loads, torch.inf)
        near = tie if i >= num_experts else 0 * tie
        ties = open_loads <= (open_loads.amin(1) + near)[:, None]
        preference = held[row, :, expert] * num_slots + used
        pack = torch.where(ties, preference, num_slots**2).argmin(1)
        slots[:, i] = pack * capacity + used[row, pack]
        loads[row, pack] += load[:, i]
        used[row, pack] += 1
        held[row, pack, expert] += 1
    return slots
