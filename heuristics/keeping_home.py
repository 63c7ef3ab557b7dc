"""Which changes of a placement keep every expert at home, and the traffic within a limit.

Homes are fixed: those of the placement from which the changes start. The least traffic of a changed
placement, over all homes that it might have, is at most what is counted here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.matching import find_homes

WEIGHT = 4.0
"""How much more a token beyond the limit counts than one beyond the target of a rank: so much that
it pays to take it home."""
ROUNDING = 1e-12
"""Relative to the limit: a sum of tokens is exact to 1e-14 or so."""


@dataclass(frozen=True)
class Homes:
    """Of each row the tokens [B, E] float64, whether an expert is off home on a rank [B, G, E]
    bool, and how many tokens may be served off home [B] float64.
    """

    loads: Tensor
    off_home: Tensor
    limit: Tensor

    @classmethod
    def of(
        cls,
        old: Tensor,
        loads: Tensor,
        num_ranks: int,
        num_nodes: int,
        num_groups: int,
        traffic: float,
    ) -> Homes:
        """The homes of ``old`` [B, P] for ``loads`` [B, E]; ``traffic`` is a part of the tokens."""
        homes = find_homes(old, loads, num_nodes, num_groups)
        of_expert = homes.repeat_interleave(loads.shape[1] // num_groups, 1)
        node = torch.arange(num_ranks, device=old.device) // (num_ranks // num_nodes)
        return cls(loads, of_expert[:, None] != node[:, None], traffic * loads.sum(1))

    def __getitem__(self, which: Tensor) -> Homes:
        """Some rows of it."""
        return Homes(self.loads[which], self.off_home[which], self.limit[which])


@dataclass(frozen=True)
class Leaving:
    """What placements serve off home.

    Attributes:
        homes: of their rows.
        counts: [B, E] replicas.
        away: [B, E] replicas off home.
        tokens: [B] float64 served off home, replicas sharing alike.
    """

    homes: Homes
    counts: Tensor
    away: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, homes: Homes, number: Tensor) -> Leaving:
        """Of placements that hold each expert so often on each rank, [B, G, E]."""
        counts, away = number.sum(1), (number * homes.off_home).sum(1)
        return cls(homes, counts, away, (homes.loads * away / counts).sum(1))

    @property
    def beyond(self) -> Tensor:
        """[B] tokens beyond the limit."""
        return (self.tokens - self.homes.limit * (1 + 1000 * ROUNDING)).clamp(min=0)

    def by_swap(self, x: Tensor, a: Tensor, y: Tensor, rank: Tensor) -> Tensor:
        """How many tokens more leave if a slot of rank a [B] with x [B, S] and a slot of another
        rank [P] with y [B, P] exchange their experts: [B, S, P]; inf if an expert is at home no
        more.
        """
        ranks, every = self.homes.off_home.shape[1], torch.arange(len(a), device=a.device)
        of_x = self.homes.off_home.gather(2, x[:, None].expand(-1, ranks, -1))
        x_there = of_x[:, rank].transpose(1, 2).to(torch.int8)
        x_here = of_x[every, a][:, :, None].to(torch.int8)
        y_here = self.homes.off_home[every, a].gather(1, y)[:, None].to(torch.int8)
        y_there = self.homes.off_home[every[:, None], rank, y][:, None].to(torch.int8)
        share, alone = self.homes.loads / self.counts, self.counts - self.away == 1
        more_x, more_y = x_there - x_here, y_here - y_there
        change = share.gather(1, x)[:, :, None] * more_x + share.gather(1, y)[:, None] * more_y
        homeless = alone.gather(1, x)[:, :, None] & (more_x > 0)
        homeless |= alone.gather(1, y)[:, None] & (more_y > 0)
        return change.masked_fill(homeless, torch.inf)

    def by_replica(self, x: Tensor, r: Tensor) -> Tensor:
        """The same if a slot of rank r [B, Q] takes another expert in place of x [B, Q], which has
        other replicas: for each expert [B, Q, E].
        """
        there = self.homes.off_home.gather(
            1, r[:, :, None].expand(-1, -1, self.homes.off_home.shape[2])
        )
        before = self.homes.loads * self.away / self.counts
        enters = (self.away[:, None] + there) / (self.counts[:, None] + 1)
        enters = self.homes.loads[:, None] * enters - before[:, None]
        x_off = there.gather(2, x[:, :, None])[:, :, 0]
        left = (self.counts.gather(1, x) - 1).clamp(min=1)
        leaves = self.homes.loads.gather(1, x) * (self.away.gather(1, x) - x_off.long()) / left
        leaves = leaves - before.gather(1, x)
        homeless = (self.counts - self.away == 1).gather(1, x) & ~x_off
        return (enters + leaves[:, :, None]).masked_fill(homeless[:, :, None], torch.inf)

    def judge(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """Of changes [B, ..]: whether they keep the limit, or come nearer to it; and how many
        tokens fewer are beyond it, weighted.
        """
        now, limit = (x[:, None, None] for x in (self.tokens, self.homes.limit))
        keeps = (change <= 0) | (now + change <= limit * (1 - ROUNDING))
        fewer = (now - limit).clamp(min=0) - (now + change - limit).clamp(min=0)
        return keeps, WEIGHT * fewer
