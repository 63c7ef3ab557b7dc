"""Counts for two slots a rank, where folding is the best packing and the counts decide.

The fold pairs the heaviest replica with the lightest, the second with the second, and so on. The
heaviest pair (x, y), x >= y, becomes lighter only if fewer replicas are as heavy as x, or more are
as light as y: so a replica goes to an expert with replicas of at least x, or to one whose replicas
would become as light as y. Experts that have one to spare give it, the more often the lighter their
replicas stay. Of sixteen such moves a step
makes the one that leaves least load above a target, if that is less than twice what there is now;
one of them is any move. The best counts on the way are kept.

Loads are whole numbers, in units of 2^-22 of the first makespan: all sums are exact, and the torch
form and the compiled one make the same moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.arrays import argmin_rows, sort_rows, uniform
from heuristics.compiled import HAVE_NUMBA
from heuristics.pair_resplit import LOAD_STEPS
from heuristics.replication import count_replicas, greedy_counts, replicas_in_order

MOVES, AIMED = 16, 15
"""Moves tried in a step, and how many of them aim at the heaviest pair and at light donors."""
STEPS_DRAWN = 16
"""Steps for which random numbers are drawn at once."""
NEVER = 2**62
"""A load that no move leaves."""
TARGET_SHIFT = 7
"""The target is below the least makespan so far by a part of 2^-7."""


@dataclass
class Counts:
    """Where the search stands; changed in place.

    Attributes:
        loads: [B, E] float64, in units.
        floor: [B] int64, a lower bound on the makespan in units.
        now: [B, E] int64, replicas of each expert.
        best: [B, E] int64, those with the least makespan so far.
        least: [B] int64, that makespan in units.
    """

    loads: Tensor
    floor: Tensor
    now: Tensor
    best: Tensor
    least: Tensor


def search_counts(loads: Tensor, phy2log: Tensor, steps: int, seed: int) -> Tensor:
    """The expert of each replica [B, P], in order, under the best counts found; S = 2, P > E.

    More steps are never worse. Heuristic; O(steps B P log P) time.

    Args:
        loads: [B, E] float64.
        phy2log: [B, P] a placement on P / 2 ranks to start from.
        steps: how many.
        seed: of the moves that are tried.
    """
    num_slots = phy2log.shape[1]
    counts = count_replicas(phy2log, loads.shape[1])
    top = _fold(sort_rows((loads / counts).gather(1, phy2log))).amax(1, keepdim=True)
    loads = loads * (LOAD_STEPS / top.clamp(min=torch.finfo(loads.dtype).tiny * LOAD_STEPS))
    largest = (loads / greedy_counts(loads, num_slots)).amax(1)
    floor = torch.maximum(loads.sum(1) / (num_slots // 2), largest).long()
    least = torch.full_like(floor, NEVER)
    search = Counts(loads, floor, counts, counts.clone(), least)
    for first in range(0, steps, STEPS_DRAWN):
        shape = (min(STEPS_DRAWN, steps - first), 2, MOVES)
        run_steps(search, uniform(shape, (seed, first), loads), num_slots)
    return replicas_in_order(search.best, num_slots)


def run_steps(search: Counts, draws: Tensor, num_slots: int) -> None:
    """Steps with random numbers [steps, 2, 16], shared by the rows. What the last move leads to is
    not looked at.
    """
    if not (HAVE_NUMBA and draws.device.type == "cpu"):
        for draw in draws:
            _step(search, draw, num_slots)
        return
    from heuristics.compiled_fold_search import run_steps as run  # loads numba

    tensors = search.loads, search.floor, search.now, search.best, search.least, draws
    loads, floor, now, best, least, drawn = (tensor.numpy() for tensor in tensors)
    run(loads, floor, now, best, least, drawn, num_slots, TARGET_SHIFT, AIMED)


def _step(search: Counts, draw: Tensor, num_slots: int) -> None:
    """One step of all rows: the torch form."""
    counts = search.now
    replicas = replicas_in_order(counts, num_slots)
    units = _units(search.loads, counts)
    items = units.gather(1, replicas)
    light = sort_rows(items)
    pairs = _fold(light)
    top, which = pairs.max(1)  # the first of equals
    better = top < search.least
    search.least.copy_(torch.where(better, top, search.least))
    search.best.copy_(torch.where(better[:, None], counts, search.best))
    target = torch.maximum(search.least - (search.least >> TARGET_SHIFT), search.floor)[:, None]
    y, x = (light.gather(1, i[:, None]) for i in (which, num_slots - 1 - which))
    gained = _units(search.loads, counts + 1)
    aims = (units >= x) | ((units > y) & (gained <= y))
    receiver = torch.cat([_choose(aims, draw[0, :AIMED]), _choose(aims >= 0, draw[0, AIMED:])], 1)
    lost = _units(search.loads, (counts - 1).clamp(min=1))
    by_loss = torch.where(counts > 1, lost, NEVER).sort(dim=1, stable=True).indices
    num_donors = (counts > 1).sum(1, keepdim=True)
    place = torch.cat([draw[1, :AIMED] ** 3, draw[1, AIMED:]])
    donor = by_loss.gather(1, (place * num_donors).long())
    receives = replicas[:, None] == receiver[:, :, None]
    gives = replicas[:, None] == donor[:, :, None]
    after = torch.where(receives, gained.gather(1, receiver)[:, :, None], items[:, None])
    after = torch.where(gives, lost.gather(1, donor)[:, :, None], after)
    slot = gives.to(torch.uint8).argmax(2, keepdim=True)
    after.scatter_(2, slot, gained.gather(1, receiver)[:, :, None])
    folded = _fold(sort_rows(after.flatten(0, 1))).view(len(counts), MOVES, -1)
    excess = (folded - target[:, :, None]).clamp_(min=0).sum(2)
    possible = (receiver != donor) & (counts.gather(1, donor) > 1)
    excess = torch.where(possible, excess, NEVER)
    choice = argmin_rows(excess)[:, None]
    now = (pairs - target).clamp_(min=0).sum(1, keepdim=True)
    one = (excess.gather(1, choice) < 2 * now).long()
    counts.scatter_add_(1, receiver.gather(1, choice), one)
    counts.scatter_add_(1, donor.gather(1, choice), -one)


def _units(loads: Tensor, counts: Tensor) -> Tensor:
    return (loads / counts).round().long()


def _fold(ascending: Tensor) -> Tensor:
    """Loads [B, P / 2] of the ranks, the lightest replica's first."""
    lighter, heavier = ascending.chunk(2, 1)
    return lighter + heavier.flip(1)


def _choose(eligible: Tensor, draw: Tensor) -> Tensor:
    """As many of those eligible [B, E] as there are numbers [n] in [0, 1), [B, n]; the heaviest
    pair always leaves one eligible.
    """
    order = eligible.long().cumsum(1)
    return torch.searchsorted(order, (draw * order[:, -1:]).long() + 1)
