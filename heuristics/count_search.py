"""Other replica counts where greedy's leave the packing no room.

Greedy counts make the largest replica as light as can be, and yet some rank may have to be heavy:
where more replicas than ranks are heavier than half the mean rank load, two of them must share.
For given counts a lower bound on every packing says so before anything is packed; replicas move
between experts while that bound falls. With two slots a rank the bound is the best packing itself.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from heuristics.arrays import argmin_rows, sort_rows, uniform
from heuristics.makespan import change_where, keep_better, makespans
from heuristics.packing import by_load, lpt
from heuristics.pair_resplit import PackedPlacement, resplit, rounds
from heuristics.replication import count_replicas, greedy_counts, replica_loads, replicas_in_order

RECEIVERS, DONORS = 4, 4
"""A trial weighs each of four heavy replicas' experts against each of four donors."""
NOISE = 0.15
"""Loads are multiplied by random factors of 1 - NOISE .. 1 + NOISE, so that trials differ."""
GAIN = 1e-5
"""A move helps where it lowers the bound by more than this part; sums in float32 are no better."""
VARIANTS = 8
"""Counts tried at once in a trial."""
REALLOCATIONS, FIRST_REALLOCATIONS = 8, 4
"""Replicas moved between experts before a trial, and once, to lower the bound."""
TRIAL_ROUNDS = 8
"""Rounds of re-splitting for each of them."""
TRIAL_SHARE = 8
"""With more than three slots a rank a trial takes at most one row in so many."""

CHANCE, MOVES, RECEIVED, FACTORS = range(4)
"""What the random numbers of a trial are for: with the seed they name a draw. All rows share them,
so that a row's result does not depend on which others are worked on.
"""


def least_makespan(items: Tensor, num_ranks: int) -> Tensor:
    """A lower bound [B] on the makespan of replicas with loads [B, P], in ascending order.

    The largest of: with S = 2, the folded row (attained); for k = 1 .. G, the k heaviest replicas
    on k ranks with the k (S - 1) lightest, ``(sum of both) / k``, which is the mean for k = G;
    for j = 1 .. S - 1, what the rank that holds j + 1 of the ``j G + 1`` heaviest carries at least.
    """
    num_slots = items.shape[1]
    slots_per_rank = num_slots // num_ranks
    if slots_per_rank == 2:
        return (items[:, :num_ranks] + items[:, num_ranks:].flip(1)).amax(1)
    sums = torch.nn.functional.pad(items.cumsum(1), (1, 0))
    ranks = torch.arange(1, num_ranks + 1, device=items.device)
    heaviest = sums[:, -1:] - sums[:, num_slots - ranks]
    alone = (heaviest + sums[:, (slots_per_rank - 1) * ranks]) / ranks
    together = torch.arange(1, slots_per_rank, device=items.device)
    first = num_slots - together * num_ranks - 1
    shared = sums[:, first + together + 1] - sums[:, first] + sums[:, slots_per_rank - 1 - together]
    return torch.cat([alone, shared], 1).amax(1)


def reallocate_replicas(
    loads: Tensor, replicas: Tensor, num_ranks: int, trials: int, seed: int
) -> Tensor:
    """The expert of each replica [B, P] after moves that lower :func:`least_makespan`.

    A trial tries 16 moves of one replica and makes the best one that helps. A row where none helps
    stays as it is. Heuristic; repeatable for a seed.

    Args:
        loads: [B, E] floating point.
        replicas: [B, P] the expert of each replica.
        num_ranks: G.
        trials: how often.
        seed: of the random factors.
    """
    items = (loads / count_replicas(replicas, loads.shape[1])).gather(1, replicas)
    bound = least_makespan(sort_rows(items), num_ranks)
    for trial in range(trials):
        draw = (seed, MOVES, trial)
        replicas, bound = _make_best_move_replica(loads, replicas, bound, num_ranks, draw)
    return replicas


def _make_best_move_replica(
    loads: Tensor, replicas: Tensor, bound: Tensor, num_ranks: int, draw: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    counts = count_replicas(replicas, loads.shape[1])
    receiver, donor = _propose_moves(loads, counts, draw)
    gained, left = counts.gather(1, receiver) + 1, counts.gather(1, donor) - 1
    possible = (left > 0) & (receiver != donor)
    left = left.clamp(min=1)
    items = (loads / counts).gather(1, replicas)[:, None]
    receives = replicas[:, None] == receiver[:, :, None]
    gives = replicas[:, None] == donor[:, :, None]
    lighter = ((gained - 1) / gained).to(loads.dtype)[:, :, None]
    heavier = ((left + 1) / left).to(loads.dtype)[:, :, None]
    items = torch.where(receives, items * lighter, torch.where(gives, items * heavier, items))
    slot = gives.to(torch.uint8).argmax(2)
    items.scatter_(2, slot[:, :, None], (loads.gather(1, receiver) / gained)[:, :, None])
    after = least_makespan(sort_rows(items.flatten(0, 1)), num_ranks).view_as(slot)
    after = torch.where(possible, after, torch.inf)
    choice = argmin_rows(after)[:, None]
    after, slot, receiver = (x.gather(1, choice) for x in (after, slot, receiver))
    helps = after < bound[:, None] * (1 - GAIN)
    moved = torch.where(helps, receiver, replicas.gather(1, slot))
    return replicas.scatter(1, slot, moved), torch.where(helps, after, bound[:, None])[:, 0]


def _propose_moves(loads: Tensor, counts: Tensor, draw: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Receivers and donors [B, 16]: every pair of four experts with heavy replicas and four whose
    replicas would stay light with one less.
    """
    heavy, light = loads / counts, torch.where(counts > 1, loads / (counts - 1), torch.inf)
    factor = 1 - NOISE + 2 * NOISE * uniform((2, loads.shape[1]), draw, loads)
    receiver = (heavy * factor[0]).topk(min(RECEIVERS, loads.shape[1])).indices
    donor = (light * factor[1]).topk(min(DONORS, loads.shape[1]), largest=False).indices
    return receiver.repeat_interleave(donor.shape[1], 1), donor.repeat(1, receiver.shape[1])


def _floor(loads: Tensor, num_slots: int, num_ranks: int) -> Tensor:
    """``max(mean rank load, largest replica under greedy counts)`` [B]: whatever the counts."""
    largest = (loads / greedy_counts(loads, num_slots)).amax(1)
    return torch.maximum(loads.sum(1) / num_ranks, largest)


def try_counts(
    loads: Tensor, best: Tensor, num_ranks: int, trials: range, least_excess: float
) -> Tensor:
    """Place rows anew with other counts, where the makespan exceeds ``max(mean rank load, largest
    replica under greedy counts)`` by more than ``least_excess`` of it.
    """
    slots_per_rank = best.shape[1] // num_ranks
    most = len(best) if slots_per_rank <= 3 else -(-len(best) // TRIAL_SHARE)
    floor = _floor(loads, best.shape[1], num_ranks)
    for seed in trials:
        excess = makespans(loads, best, num_ranks) / floor - 1
        chance = uniform((len(best),), (seed, CHANCE), loads) + 0.5
        score, rows = torch.where(excess > least_excess, excess * chance, 0.0).topk(most)
        chosen, now = loads[rows], best[rows]
        place = partial(_place_with_other_counts, chosen, now, num_ranks, seed)
        best = best.index_copy(0, rows, change_where(score > 0, place, now))
    return best


def place_with_lower_bound(loads: Tensor, best: Tensor, num_ranks: int, seed: int) -> Tensor:
    """Place anew, where moves of replicas lower the bound of :func:`least_makespan`; LPT and eight
    rounds of re-splitting, kept where they are better.
    """
    floor = torch.maximum(
        loads.sum(1) / num_ranks, (loads / greedy_counts(loads, best.shape[1])).amax(1)
    )
    bound = least_makespan(sort_rows(replica_loads(loads, best)), num_ranks)

    def place(rows: Tensor) -> Tensor:
        load, now = loads[rows], best[rows]
        replicas = reallocate_replicas(load.float(), now, num_ranks, FIRST_REALLOCATIONS, seed)
        placed = by_load(lpt)(load, replicas, num_ranks)
        packed = PackedPlacement.of(load, placed, num_ranks)
        placed, _ = resplit(placed, packed, rounds(0, TRIAL_ROUNDS))
        return keep_better(load, now, placed, num_ranks)

    return change_where(bound > floor * (1 + GAIN), place, best)


def _place_with_other_counts(
    loads: Tensor, best: Tensor, num_ranks: int, seed: int, chosen: Tensor
) -> Tensor:
    """Place chosen rows [n] anew, with reallocated replicas and seven variants of these counts; the
    best of each row [n, P], if it is better.
    """
    loads, best = loads[chosen], best[chosen]
    rows, num_slots = best.shape
    many = loads.repeat_interleave(VARIANTS, 0)
    start = reallocate_replicas(loads.float(), best, num_ranks, REALLOCATIONS, seed)
    replicas = replicas_in_order(_vary_counts(loads, start, num_ranks, seed), num_slots)
    placed = by_load(lpt)(many, replicas, num_ranks)
    packed = PackedPlacement.of(many, placed, num_ranks)
    placed, _ = resplit(placed, packed, rounds(0, TRIAL_ROUNDS))
    choice = argmin_rows(makespans(many, placed, num_ranks).view(rows, VARIANTS))
    placed = placed.view(rows, VARIANTS, num_slots)[torch.arange(rows, device=best.device), choice]
    return keep_better(loads, best, placed, num_ranks)


def _vary_counts(loads: Tensor, best: Tensor, num_ranks: int, seed: int) -> Tensor:
    """Counts [8 B, E]: those of ``best``; then an expert of the heaviest rank takes a replica from
    another expert, in the odd variants a heavy expert of any rank takes one more.

    Which of them receive, and which of those that would stay light give, is random.
    """
    rows, device = len(best), loads.device
    counts = count_replicas(best, loads.shape[1])
    ranks = best.view(rows, num_ranks, -1)
    heaviest = (loads / counts).gather(1, best).view_as(ranks).sum(2).argmax(1)
    on_heaviest = ranks[torch.arange(rows, device=device), heaviest]
    which = (uniform((VARIANTS,), (seed, RECEIVED), loads) * on_heaviest.shape[1]).long()
    receiver = on_heaviest[:, which].view(-1, 1)
    loads, counts = (x.repeat_interleave(VARIANTS, 0) for x in (loads, counts))
    noise = uniform((3, VARIANTS, loads.shape[1]), (seed, FACTORS), loads).repeat(1, rows, 1)
    variant = torch.arange(VARIANTS, device=device).repeat(rows)[:, None]
    counts = _move_replica(loads, counts, receiver, noise[0], (variant > 0).long())
    receiver = (loads / counts * noise[1]).argmax(1, keepdim=True)
    return _move_replica(loads, counts, receiver, noise[2], variant % 2)


def _move_replica(
    loads: Tensor, counts: Tensor, receiver: Tensor, noise: Tensor, active: Tensor
) -> Tensor:
    """Give a replica to ``receiver`` [B, 1] where ``active`` [B, 1] is 1 and an expert can spare
    one.
    """
    kept = torch.where(counts > 1, loads / (counts - 1) * noise, torch.inf)
    donor = kept.argmin(1, keepdim=True)
    move = active * (counts.gather(1, donor) > 1)
    return counts.scatter_add(1, donor, -move).scatter_add(1, receiver, move)
