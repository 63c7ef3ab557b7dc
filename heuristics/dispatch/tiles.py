"""The replicated experts of each layer, as rows of a tile [R, G]: which ranks hold them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.dispatch.slots import expert_loads, rank_loads
from heuristics.replication import count_replicas


def by_replicas(phy2log: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """The experts [L, E], those with most slots first, and the place in that order of the expert in
    each slot [L, P].
    """
    counts = count_replicas(phy2log, num_experts)
    order = counts.sort(dim=1, descending=True, stable=True).indices
    return order, order.argsort(1).gather(1, phy2log)


@dataclass(frozen=True)
class Tiles:
    """R = min(E, P - E) experts of each layer, at least all that have several slots.

    Attributes:
        phy2log: [L, P] the expert in each slot.
        experts: [L, R], those with most slots first.
        copies: [L, R, G] int64, slots of the expert on the rank.
        cell: [L, P] of each slot among the R G of the tile, R G for a slot of another expert.
    """

    phy2log: Tensor
    experts: Tensor
    copies: Tensor
    cell: Tensor

    @classmethod
    def of(cls, phy2log: Tensor, num_experts: int, num_ranks: int) -> Tiles:
        """From the expert in each slot [L, P]. No host synchronization, no float addition."""
        layers, num_slots = phy2log.shape
        rows = min(num_experts, num_slots - num_experts)
        order, row = by_replicas(phy2log, num_experts)
        rank = torch.arange(num_slots, device=phy2log.device) // (num_slots // num_ranks)
        cells = rows * num_ranks
        cell = torch.where(row < rows, row * num_ranks + rank, cells)
        copies = cell.new_zeros(layers, cells + 1).scatter_add_(1, cell, torch.ones_like(cell))
        return cls(phy2log, order[:, :rows], copies[:, :-1].reshape(layers, rows, num_ranks), cell)

    @property
    def even(self) -> Tensor:
        """[L, R, G] float64, the share of each rank where all slots serve alike."""
        return self.copies / self.copies.sum(-1, keepdim=True).double()

    @property
    def first(self) -> Tensor:
        """[L, P] bool, the first slot of its expert on its rank, for slots that have a cell."""
        layers, num_slots = self.cell.shape
        slot = torch.arange(num_slots, device=self.cell.device).repeat(layers, 1)
        cells = slot.new_full((layers, self.copies[0].numel() + 1), num_slots)
        return cells.scatter_reduce(1, self.cell, slot, "amin").gather(1, self.cell) == slot

    def split(self, loads: Tensor) -> tuple[Tensor, Tensor]:
        """Loads of the rows [T, L, R, 1] and, of other experts, of the ranks [T, L, G], both
        float64 in mean rank loads, from loads [T, L, E].
        """
        num_ranks, cells = self.copies.shape[-1], self.copies[0].numel()
        total = loads.double().sum(-1, keepdim=True)
        loads = loads * (num_ranks / torch.where(total > 0, total, num_ranks))
        row = loads.gather(-1, self.experts.expand(len(loads), -1, -1))
        rest = expert_loads(loads, self.phy2log) * (self.cell == cells)
        return row[..., None], rank_loads(rest, num_ranks)

    def slots(self, tile: Tensor) -> Tensor:
        """Shares of slots [T, L, P] float32 from those of ranks [T, L, R, G]."""
        each = (tile / self.copies.clamp(min=1)).flatten(-2)
        with_others = torch.cat([each, torch.ones_like(each[..., :1])], -1)
        return with_others.gather(-1, self.cell.expand(len(tile), -1, -1)).float()
