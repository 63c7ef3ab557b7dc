"""Refinement: re-splitting pairs of ranks, never worse than the placement given.

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

    At first all ranks meet in pairs, then fewer and fewer heavy ranks have more and more of a
    choice.
    """
    return [Round(partners=(1, 1, 3)[i] if i < 3 else 7, shift=i) for i in range(first, last)]


def refine(ranks: Tensor, schedule: list[Round]) -> Tensor:
    """Run the rounds on coded replicas [B, G, S]. No row's makespan (in units) rises."""
    for this in schedule if ranks.shape[1] > 1 else []:
        ranks = _refine_once(ranks, this)
    return ranks


def _refine_once(ranks: Tensor, this: Round) -> Tensor:
    rows, num_ranks, slots = ranks.shape
    partners = min(this.partners, num_ranks - 1)
    num_heavy = num_ranks // (1 + partners)
    totals = _loads(ranks).sum(2)
    by_load = torch.sort(totals, dim=1, descending=True, stable=True).indices
    heavy = by_load[:, :num_heavy]
    light = by_load[:, num_heavy:].flip(1).roll(this.shift, 1)[:, : num_heavy * partners]
    light = light.view(rows, partners, num_heavy).transpose(1, 2)
    pair = torch.cat(
        [
            _take(ranks, heavy)[:, :, None].expand(-1, -1, partners, -1),
            _take(ranks, light.reshape(rows, -1)).view(rows, num_heavy, partners, slots),
        ],
        3,
    )
    after, peak = _split(pair, this.shift % FAMILIES)
    peak, choice = peak.min(2)
    better = peak < totals.gather(1, heavy)
    after = torch.where(better[:, :, None], _choose(after, choice), _choose(pair, choice))
    partner = light.gather(2, choice[:, :, None])[:, :, 0]
    changed = torch.cat([heavy, partner], 1)[:, :, None].expand(-1, -1, slots)
    return ranks.scatter(1, changed, torch.cat(after.chunk(2, dim=2), 1))


def _take(ranks: Tensor, which: Tensor) -> Tensor:
    """Ranks [B, n, S] from [B, G, S] and their numbers [B, n]."""
    return ranks.gather(1, which[:, :, None].expand(-1, -1, ranks.shape[2]))


def _choose(pair: Tensor, choice: Tensor) -> Tensor:
    """The chosen pair of each heavy rank, [B, h, 2S] from [B, h, partners, 2S]."""
    index = choice[:, :, None, None].expand(-1, -1, 1, pair.shape[3])
    return pair.gather(2, index)[:, :, 0]


def _split(pair: Tensor, family: int) -> tuple[Tensor, Tensor]:
    """The best split of each pair [..., 2S], and the load of its heavier half [...]."""
    slots = pair.shape[-1] // 2
    ways = splits(slots, family, pair.device)
    flat = sort_rows(pair.reshape(-1, 2 * slots))
    load = _loads(flat)
    difference = (load @ ways.signs).abs_()
    way = argmin_rows(difference)
    split = flat.gather(1, ways.order[way])
    peak: Tensor = (load.sum(1) + difference.gather(1, way[:, None])[:, 0]) / 2
    return split.view_as(pair), peak.view(pair.shape[:-1])


def _loads(codes: Tensor) -> Tensor:
    return (codes >> EXPERT_BITS).to(torch.float32)


def encode(share: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """Coded replicas [B, G, S] of a placement [B, P]; share [B, E] is the load of one replica."""
    load = share.gather(1, phy2log).view(len(phy2log), num_ranks, -1)
    makespan = load.sum(2).amax(1).clamp(min=torch.finfo(share.dtype).tiny * LOAD_STEPS)
    units = (load * (LOAD_STEPS / makespan)[:, None, None]).round().to(torch.int64)
    codes: Tensor = (units << EXPERT_BITS) + phy2log.view_as(load)
    return codes


def decode(ranks: Tensor) -> Tensor:
    """The placement [B, P] of coded replicas [B, G, S]."""
    placement: Tensor = ranks & (2**EXPERT_BITS - 1)
    return placement.flatten(1)
