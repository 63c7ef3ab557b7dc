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
"""Low bits of a replica's code, which hold its expert."""
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
def splits(slots: int, family: int, device: torch.device) -> Splits:
    """All splits if there are few; else a fixed pseudo-random family of 256.

    Of these, 192 send one of each two neighbours in load to either half: sums close to each other,
    for the last tenth of a percent. The other 64 are any halves: for a rank with one replica so
    heavy that it needs the lightest company.
    """
    if slots <= MAX_COMPLETE_SLOTS:
        first = torch.tensor([(0, *rest) for rest in combinations(range(1, 2 * slots), slots - 1)])
        first = first.view(-1, slots)
    else:
        generator = torch.Generator().manual_seed(family)
        side = torch.randint(0, 2, (NEIGHBOUR_SPLITS, slots), generator=generator)
        shuffled = torch.rand(RANDOM_SPLITS, 2 * slots, generator=generator).argsort(dim=1)
        first = torch.cat([2 * torch.arange(slots) + side, shuffled[:, :slots]])
    signs = torch.full((len(first), 2 * slots), -1.0).scatter_(1, first, 1.0)
    order = torch.sort(signs, dim=1, descending=True, stable=True).indices
    return Splits(signs.T.contiguous().to(device), order.to(device))


@dataclass(frozen=True)
class Round:
    """Which ranks meet in a round.

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

    At first all ranks meet in pairs, then fewer heavy ranks have a choice.
    """
    return [Round(partners=1 if i < 3 else 7, shift=i) for i in range(first, last)]


@dataclass(frozen=True)
class Coded:
    """Placements inside the loops.

    Attributes:
        replicas: [B G, S] codes; rank g of row b is number ``b G + g``.
        totals: [B, G] float32, rank loads in units.
    """

    replicas: Tensor
    totals: Tensor

    @property
    def peak(self) -> Tensor:
        """The makespan of each row [B], in units."""
        return self.totals.amax(1)


def encode(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Coded:
    """The placement [B, P] in code, for loads [B, E] in float64.

    A replica is rounded by at most half a unit, so a rank load is within S / 2 units.
    """
    share = loads / count_replicas(phy2log, loads.shape[1])
    load = share.gather(1, phy2log).view(len(phy2log), num_ranks, -1)
    makespan = load.sum(2).amax(1).clamp(min=torch.finfo(share.dtype).tiny * LOAD_STEPS)
    units = (load * (LOAD_STEPS / makespan)[:, None, None]).round().to(torch.int64)
    codes = (units << EXPERT_BITS) + phy2log.view_as(load)
    return Coded(codes.flatten(0, 1), units.sum(2).to(torch.float32))


def decode(coded: Coded) -> Tensor:
    """The placement [B, P]."""
    placement: Tensor = coded.replicas & (2**EXPERT_BITS - 1)
    return placement.view(len(coded.totals), -1)


def resplit_pairs(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """The placement [B, P] after sixteen rounds, from loads [B, E]; a stage of its own."""
    if num_ranks == 1:
        return phy2log
    return decode(refine(encode(loads.double(), phy2log, num_ranks), rounds(0, 16)))


def resplit(best: Tensor, coded: Coded, schedule: list[Round]) -> tuple[Tensor, Coded]:
    """Run the rounds from ``coded``; in rows that became lighter, whatever was lost in rounding to
    units, their end replaces the placement ``best`` [B, P].
    """
    after = refine(coded, schedule)
    wins = after.peak + coded.replicas.shape[1] < coded.peak
    return torch.where(wins[:, None], decode(after), best), after


def refine(coded: Coded, schedule: list[Round]) -> Coded:
    """Run the rounds. No row's makespan (in units) rises."""
    for this in schedule if coded.totals.shape[1] > 1 else []:
        coded = _refine_once(coded, this)
    return coded


def _refine_once(coded: Coded, this: Round) -> Coded:
    codes, totals = coded.replicas, coded.totals
    slots, num_ranks = codes.shape[1], totals.shape[1]
    partners = min(this.partners, num_ranks - 1)
    positions = meetings(num_ranks, partners, this.shift, codes.device)
    meeting = _by_load(totals).index_select(1, positions).view(-1, 2)
    pair = sort_rows(codes.index_select(0, meeting.flatten()).view(-1, 2 * slots))
    ways = splits(slots, this.shift % FAMILIES, codes.device)
    load = _loads(pair)
    difference = (load @ ways.signs).abs_()
    way = argmin_rows(difference)
    peak = (load.sum(1) + difference.gather(1, way[:, None])[:, 0]) / 2
    if partners > 1:
        best = argmin_rows(peak.view(-1, partners))
        best += torch.arange(0, len(peak), partners, device=best.device)
        meeting, pair, way, peak = (x.index_select(0, best) for x in (meeting, pair, way, peak))
    split = pair.gather(1, ways.order.index_select(0, way)).view(-1, slots)
    which, flat = meeting.flatten(), totals.flatten()
    better = (peak < flat.index_select(0, meeting[:, 0])).repeat_interleave(2)
    split = torch.where(better[:, None], split, codes.index_select(0, which))
    totals = flat.index_copy(0, which, _loads(split).sum(1)).view_as(totals)
    return Coded(codes.index_copy(0, which, split), totals)


def _by_load(totals: Tensor) -> Tensor:
    """The ranks of each row by load, lightest first, numbered as in :class:`Coded`."""
    rows, num_ranks = totals.shape
    rank = torch.arange(num_ranks, device=totals.device)
    first = torch.arange(0, rows * num_ranks, num_ranks, device=totals.device)
    return sort_rows(totals.long() * num_ranks + rank) % num_ranks + first[:, None]


@lru_cache(maxsize=256)
def meetings(num_ranks: int, partners: int, shift: int, device: torch.device) -> Tensor:
    """Who meets in a round, as positions in the order by load: heavy, light, heavy, light, ..

    The pairs of a heavy rank stand together.
    """
    num_heavy = num_ranks // (1 + partners)
    heavy = torch.arange(num_ranks - 1, num_ranks - 1 - num_heavy, -1)
    others = torch.arange(num_ranks - num_heavy).roll(shift)[: num_heavy * partners]
    light = others.view(partners, num_heavy).T
    return torch.stack([heavy[:, None].expand_as(light), light], 2).flatten().to(device)


def _loads(codes: Tensor) -> Tensor:
    return (codes >> EXPERT_BITS).to(torch.float32)
