"""Re-splitting pairs of ranks: a refinement, never worse than the placement given.

The replicas of two ranks are split anew so that the heavier one becomes as light as the tried
subsets allow. A round does that for many disjoint pairs of all rows in a few tensor operations,
and does not make the host wait for the device.

Inside the loops a replica is one integer: its load in units of 2^-22 of the first makespan, above
the bits of its expert. Sums of loads are then whole numbers below 2^24, which float32 holds
exactly, so that the result depends neither on the order of summation nor on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor

from heuristics.arrays import argmin_rows, sort_rows
from heuristics.replication import count_replicas

LOAD_STEPS = 2**22
"""Units of load in the makespan of the first placement."""
EXPERT_BITS = 32
"""Low bits of a packed replica, which hold its expert."""
MAX_COMPLETE_SLOTS = 5
"""Up to this many slots a rank all C(2S - 1, S - 1) splits are tried (126 for S = 5)."""
NEIGHBOUR_SPLITS, RANDOM_SPLITS, FAMILIES = 192, 64, 4
"""With more slots: splits of two kinds in a family, and how many families take turns."""


@dataclass(frozen=True)
class Splits:
    """Ways to split 2S replicas, in order of load, into halves.

    Attributes:
        signs: [2S, C] float32, 1 where a replica goes to the first half, -1 elsewhere.
        order: [C, 2S] int64, the first half's positions, then the second's.
    """

    signs: Tensor
    order: Tensor


@lru_cache(maxsize=64)
def splits(slots_per_rank: int, family: int, device: torch.device) -> Splits:
    """All splits if there are few; else a fixed pseudo-random family of 256.

    Of these, 192 send one of each two neighbours in load to either half: the sums are close to each
    other, which wins the last tenth of a percent. The other 64 are random halves, for a rank with
    one replica so heavy that only the lightest ones may join it.
    """
    if slots_per_rank <= MAX_COMPLETE_SLOTS:
        rest = combinations(range(1, 2 * slots_per_rank), slots_per_rank - 1)
        first = torch.tensor([(0, *others) for others in rest]).view(-1, slots_per_rank)
    else:
        generator = torch.Generator().manual_seed(family)
        side = torch.randint(0, 2, (NEIGHBOUR_SPLITS, slots_per_rank), generator=generator)
        shuffled = torch.rand(RANDOM_SPLITS, 2 * slots_per_rank, generator=generator).argsort(dim=1)
        first = torch.cat([2 * torch.arange(slots_per_rank) + side, shuffled[:, :slots_per_rank]])
    signs = torch.full((len(first), 2 * slots_per_rank), -1.0).scatter_(1, first, 1.0)
    order = torch.sort(signs, dim=1, descending=True, stable=True).indices
    return Splits(signs.T.contiguous().to(device), order.to(device))


@dataclass(frozen=True)
class Round:
    """Which ranks are paired in a round.

    Attributes:
        partners: each of the ``G // (1 + partners)`` heaviest ranks tries this many of the others
            and splits with the best of them; no rank is tried twice.
        shift: how far the others, lightest first, are rotated before they are dealt to the
            heaviest.
    """

    partners: int
    shift: int


def rounds(first: int, last: int) -> list[Round]:
    """Rounds ``first .. last - 1`` of the schedule.

    In the first three all ranks are paired; then each of fewer heavy ranks chooses of seven.
    """
    return [Round(partners=1 if i < 3 else 7, shift=i) for i in range(first, last)]


@dataclass(frozen=True)
class PackedPlacement:
    """Placements as the rounds work on them: one integer a replica.

    Attributes:
        replicas: [B G, S] int64, load in units above the bits of the expert; rank g of row b is
            number ``b G + g``.
        totals: [B, G] float32, rank loads in units.
    """

    replicas: Tensor
    totals: Tensor

    @staticmethod
    def of(loads: Tensor, phy2log: Tensor, num_ranks: int) -> PackedPlacement:
        """The placement [B, P], for loads [B, E] in float64.

        A replica is rounded by at most half a unit, so a rank load is within S / 2 units.
        """
        share = loads / count_replicas(phy2log, loads.shape[1])
        load = share.gather(1, phy2log).view(len(phy2log), num_ranks, -1)
        makespan = load.sum(2).amax(1).clamp(min=torch.finfo(share.dtype).tiny * LOAD_STEPS)
        units = (load * (LOAD_STEPS / makespan)[:, None, None]).round().to(torch.int64)
        replicas = (units << EXPERT_BITS) + phy2log.view_as(load)
        return PackedPlacement(replicas.flatten(0, 1), units.sum(2).to(torch.float32))

    @property
    def phy2log(self) -> Tensor:
        """The expert in each slot, [B, P]."""
        expert: Tensor = self.replicas & (2**EXPERT_BITS - 1)
        return expert.view(len(self.totals), -1)

    @property
    def makespan(self) -> Tensor:
        """Of each row [B], in units."""
        return self.totals.amax(1)


def resplit_pairs(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """The placement [B, P] after sixteen rounds, from loads [B, E]; a stage of its own."""
    if num_ranks == 1:
        return phy2log
    packed = PackedPlacement.of(loads.double(), phy2log, num_ranks)
    return run_rounds(packed, rounds(0, 16)).phy2log


def resplit(
    best: Tensor, packed: PackedPlacement, schedule: list[Round]
) -> tuple[Tensor, PackedPlacement]:
    """Run the rounds from ``packed``; in rows that became lighter by more than the rounding to
    units, the result replaces the placement ``best`` [B, P].
    """
    after = run_rounds(packed, schedule)
    wins = after.makespan + packed.replicas.shape[1] < packed.makespan
    return torch.where(wins[:, None], after.phy2log, best), after


def run_rounds(packed: PackedPlacement, schedule: list[Round]) -> PackedPlacement:
    """Run the rounds. No row's makespan (in units) rises."""
    for this in schedule if packed.totals.shape[1] > 1 else []:
        packed = _run_round(packed, this)
    return packed


def _run_round(packed: PackedPlacement, this: Round) -> PackedPlacement:
    replicas, totals = packed.replicas, packed.totals
    slots_per_rank, num_ranks = replicas.shape[1], totals.shape[1]
    partners = min(this.partners, num_ranks - 1)
    positions = pairings(num_ranks, partners, this.shift, replicas.device)
    pair = _sort_ranks(totals).index_select(1, positions).view(-1, 2)
    items = sort_rows(replicas.index_select(0, pair.flatten()).view(-1, 2 * slots_per_rank))
    ways = splits(slots_per_rank, this.shift % FAMILIES, replicas.device)
    load = _loads(items)
    difference = (load @ ways.signs).abs_()
    way = argmin_rows(difference)
    heavier = (load.sum(1) + difference.gather(1, way[:, None])[:, 0]) / 2
    if partners > 1:
        best = argmin_rows(heavier.view(-1, partners))
        best += torch.arange(0, len(heavier), partners, device=best.device)
        pair, items, way, heavier = (x.index_select(0, best) for x in (pair, items, way, heavier))
    split = items.gather(1, ways.order.index_select(0, way)).view(-1, slots_per_rank)
    ranks, flat = pair.flatten(), totals.flatten()
    wins = (heavier < flat.index_select(0, pair[:, 0])).repeat_interleave(2)
    split = torch.where(wins[:, None], split, replicas.index_select(0, ranks))
    totals = flat.index_copy(0, ranks, _loads(split).sum(1)).view_as(totals)
    return PackedPlacement(replicas.index_copy(0, ranks, split), totals)


def _sort_ranks(totals: Tensor) -> Tensor:
    """The ranks of each row by load, lightest first, numbered as in :class:`PackedPlacement`."""
    rows, num_ranks = totals.shape
    rank = torch.arange(num_ranks, device=totals.device)
    first = torch.arange(0, rows * num_ranks, num_ranks, device=totals.device)
    return sort_rows(totals.long() * num_ranks + rank) % num_ranks + first[:, None]


@lru_cache(maxsize=256)
def pairings(num_ranks: int, partners: int, shift: int, device: torch.device) -> Tensor:
    """The pairs of a round, as positions in the order by load: heavy, light, heavy, light, ..

    The pairs of a heavy rank stand together.
    """
    num_heavy = num_ranks // (1 + partners)
    heavy = torch.arange(num_ranks - 1, num_ranks - 1 - num_heavy, -1)
    others = torch.arange(num_ranks - num_heavy).roll(shift)[: num_heavy * partners]
    light = others.view(partners, num_heavy).T
    return torch.stack([heavy[:, None].expand_as(light), light], 2).flatten().to(device)


def _loads(replicas: Tensor) -> Tensor:
    return (replicas >> EXPERT_BITS).to(torch.float32)
