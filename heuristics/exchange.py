"""One or two exchanges of the heaviest rank with the two lightest, as in seed programs 000 and 001.

Each maps loads [B, E], a placement [B, P] and the number of ranks to a placement; all rows at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.replication import replica_loads
from heuristics.swaps import RELATIVE_TOLERANCE

DEEP_IMBALANCE = 0.12
"""Above this ``(max - min) / mean`` of the rank loads, two exchanges are made instead of one."""


@dataclass(frozen=True)
class Exchanges:
    """What the heaviest rank could give to each of the two lightest, [B, n, 5] or [B, n, 4].

    Candidates 0 to 3 swap one of its two heaviest items with one of the other's two lightest;
    number 4 swaps both.

    Attributes:
        peak: makespan afterwards.
        spread: makespan less the lightest rank afterwards.
        repeats: 0 to 2, how many of the two ranks would receive an expert they hold (candidates 0
            to 3).
        tie: [B, n, 4], the order among equals.
    """

    peak: Tensor
    spread: Tensor
    repeats: Tensor
    tie: Tensor


def exchange_for_peak(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """One or two exchanges that lower the makespan; as seed program 000.

    The single swap with the smallest makespan, then spread, then repeats; else both items with the
    lightest rank. Its third pair of ranks (second heaviest, lightest) is left out: what doesn't
    touch the heaviest rank can't lower the makespan.
    """
    return _exchange(loads, phy2log, num_ranks, for_peak=True)


def exchange_for_spread(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """One or two exchanges that lower the spread, even where the makespan rises; as seed program
    001.
    """
    return _exchange(loads, phy2log, num_ranks, for_peak=False)


def _exchange(loads: Tensor, phy2log: Tensor, num_ranks: int, *, for_peak: bool) -> Tensor:
    rows, num_slots = phy2log.shape
    slots_per_rank = num_slots // num_ranks
    if slots_per_rank == 1 or num_ranks == 1:
        return phy2log
    item = replica_loads(loads, phy2log).double().view(rows, num_ranks, slots_per_rank)
    label = phy2log.view_as(item)
    totals = item.sum(2)
    deep = totals.amax(1) - totals.amin(1) > DEEP_IMBALANCE * totals.mean(1)
    active = torch.ones_like(deep)
    for _ in range(2):
        item, label, active = _exchange_once(item, label, active, for_peak)
        active = active & deep
    return label.flatten(1)


def _exchange_once(
    item: Tensor, label: Tensor, active: Tensor, for_peak: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, num_ranks, slots_per_rank = item.shape
    row = torch.arange(rows, device=item.device)
    totals = item.sum(2)
    ascending = torch.sort(totals, dim=1, stable=True).indices
    heavy, light = ascending[:, -1], ascending[:, : min(2, num_ranks - 1)]
    give = item[row, heavy].topk(2, dim=1).indices
    take = item[row[:, None], light].topk(2, dim=2, largest=False).indices
    options = _options(item, label, heavy, light, give, take)
    choose = _choose_for_peak if for_peak else _choose_for_spread
    which, both, wins = choose(options, totals)
    rank, single = which // 4, which % 4
    partner = light[row, rank]
    given = give.gather(1, torch.stack([single // 2, 1 - single // 2], 1))
    taken = take[row, rank].gather(1, torch.stack([single % 2, 1 - single % 2], 1))
    source = torch.cat(
        [heavy[:, None] * slots_per_rank + given, partner[:, None] * slots_per_rank + taken], 1
    )
    first, second = (wins & active)[:, None], (wins & active & both)[:, None]
    swapped = torch.cat([first, second, first, second], 1)
    order = torch.arange(num_ranks * slots_per_rank, device=item.device).repeat(rows, 1)
    order.scatter_(1, source, torch.where(swapped, source.roll(2, 1), source))
    item, label = (x.flatten(1).gather(1, order).view_as(x) for x in (item, label))
    return item, label, wins & active


def _options(
    item: Tensor, label: Tensor, heavy: Tensor, light: Tensor, give: Tensor, take: Tensor
) -> Exchanges:
    row = torch.arange(len(item), device=item.device)
    totals = item.sum(2)
    given = item[row, heavy].gather(1, give)[:, None, :, None]
    taken = item[row[:, None], light].gather(2, take)[:, :, None, :]
    single = (given - taken).flatten(2)
    shift = torch.cat([single, (given.sum(2) - taken.sum(3))], 2)
    ranks = torch.arange(item.shape[1], device=item.device)
    involved = (ranks == heavy[:, None, None]) | (ranks == light[:, :, None])
    others = totals[:, None, :].expand_as(involved)
    high = others.masked_fill(involved, -torch.inf).amax(2, keepdim=True)
    low = others.masked_fill(involved, torch.inf).amin(2, keepdim=True)
    new_heavy = totals.gather(1, heavy[:, None])[:, :, None] - shift
    new_light = totals.gather(1, light)[:, :, None] + shift
    peak = torch.maximum(torch.maximum(new_heavy, new_light), high)
    spread = peak - torch.minimum(torch.minimum(new_heavy, new_light), low)
    mine, theirs = label[row, heavy], label[row[:, None], light]
    out, back = mine.gather(1, give), theirs.gather(2, take)
    gets = (theirs[:, :, None, :] == out[:, None, :, None]).any(3).long()[:, :, :, None]
    got = (mine[:, None, None, :] == back[:, :, :, None]).any(3).long()[:, :, None, :]
    slots = int(item.shape[1] * item.shape[2])
    tie = (light[:, :, None, None] * slots + out[:, None, :, None]) * slots + back[:, :, None, :]
    return Exchanges(peak, spread, (gets + got).flatten(2), tie.flatten(2))


def _argmin_by_keys(keys: list[Tensor], tolerance: Tensor) -> Tensor:
    """The column that is least by the first key, then by the next, .. [B] from keys [B, C]."""
    left = torch.ones_like(keys[0], dtype=torch.bool)
    for key in keys:
        masked = torch.where(left, key.double(), torch.inf)
        left = left & (masked <= masked.amin(1, keepdim=True) + tolerance)
    return left.long().argmax(1)


def _choose_for_peak(options: Exchanges, totals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Candidate [B] among 4 n, whether both items move [B], whether it helps [B]."""
    tolerance = RELATIVE_TOLERANCE * totals.amax(1, keepdim=True)
    limit = (totals.amax(1, keepdim=True) - tolerance)[:, 0]
    peak = options.peak[:, :, :4].flatten(1)
    keys = [peak, options.spread[:, :, :4].flatten(1), options.repeats.flatten(1)]
    which = _argmin_by_keys(keys, tolerance)
    single = peak.gather(1, which[:, None])[:, 0] < limit
    both = ~single & (options.peak[:, 0, 4] < limit)
    return torch.where(both, 0, which), both, single | both


def _choose_for_spread(options: Exchanges, totals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`_choose_for_peak`; both items move where that is better than the best single
    swap.
    """
    tolerance = RELATIVE_TOLERANCE * totals.amax(1, keepdim=True)
    peak, spread = (x[:, :, :4].flatten(1) for x in (options.peak, options.spread))
    which = _argmin_by_keys([peak, spread, options.tie.flatten(1)], tolerance)[:, None]
    wins = spread.gather(1, which) + tolerance < (totals.amax(1) - totals.amin(1))[:, None]
    pair_peak, pair_spread = (
        x[:, :, 4].gather(1, which // 4) for x in (options.peak, options.spread)
    )
    gain = peak.gather(1, which) - pair_peak
    tied = (gain.abs() <= tolerance) & (pair_spread + tolerance < spread.gather(1, which))
    both = (gain > tolerance) | tied
    return which[:, 0], both[:, 0], wins[:, 0]
