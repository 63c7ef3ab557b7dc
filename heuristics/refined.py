"""``refined``: the baseline's placement, improved by re-splitting pairs of ranks, and by other
counts.

With few slots a rank the packing is easy or optimal and the replica counts decide: with S = 1
greedy counts are optimal, with S = 2 folding is optimal for given counts, with S = 3 both matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.arrays import argmin_rows
from heuristics.packing import lpt, snake
from heuristics.refinement import decode, encode, refine, rounds
from heuristics.replication import (
    count_replicas,
    greedy_replicas,
    replica_loads,
    replicas_in_order,
)


@dataclass(frozen=True)
class Effort:
    """Work up to a named effort; each contains the work of the one before.

    Attributes:
        rounds_many: rounds of re-splitting with S > 5 slots a rank.
        rounds_few: the same for S <= 5.
        count_trials: how often other counts are tried, for S = 2 and 3.

    """

    rounds_many: int
    rounds_few: int
    count_trials: int


EFFORTS = {
    "fast": Effort(1, 1, 0),
    "default": Effort(5, 14, 24),
    "thorough": Effort(96, 96, 96),
}
VARIANTS = 8
"""Counts tried at once in a trial."""
TRIAL_ROUNDS = 8
"""Rounds of re-splitting for each of them."""
FEW_SLOTS, COUNT_SLOTS = 5, 3
"""Up to S = 5 all splits of a pair are tried; up to S = 3 other counts are."""


def place_refined(
    loads: Tensor, num_slots: int, num_ranks: int, *, effort: str = "default", seed: int = 0
) -> Tensor:
    """The expert in each slot, [B, P], from loads [B, E]; never heavier than the baseline's
    placement.

    After each effort up to the one asked for, the better placement of each row is kept, so that
    more effort is never worse. Makespans are compared in float64.
    """
    replicas = greedy_replicas(loads.float(), num_slots)
    best = replicas.gather(1, lpt(replica_loads(loads.float(), replicas), num_ranks))
    slots = num_slots // num_ranks
    tries_counts = slots <= COUNT_SLOTS and num_slots > loads.shape[1]
    if slots == 1 or num_ranks == 1:
        return best
    loads = loads.double()
    share = loads / count_replicas(best, loads.shape[1])
    if slots == 2:
        fold = replicas.gather(1, snake(share.gather(1, replicas), num_ranks))
        best = better(loads, best, fold, num_ranks)
    ranks, done = encode(share, best, num_ranks), Effort(0, 0, 0)
    for todo in _efforts_up_to(effort):
        many = slots > FEW_SLOTS
        first, last = (getattr(e, "rounds_many" if many else "rounds_few") for e in (done, todo))
        if slots > 2:
            ranks = refine(ranks, rounds(first, last))
            best = better(loads, best, decode(ranks), num_ranks)
        for trial in range(done.count_trials, todo.count_trials if tries_counts else 0):
            best = _try_counts(loads, best, num_ranks, seed + trial)
        done = todo
    return best


def balance_groups(group_loads: Tensor, num_nodes: int) -> Tensor:
    """The group in each place, [L, K] from [L, K]: the heaviest node as light as re-splitting gets
    it.

    Optimal for two nodes of up to five groups, and for two groups a node.
    """
    return place_refined(group_loads, group_loads.shape[1], num_nodes)


def _efforts_up_to(effort: str) -> list[Effort]:
    names = list(EFFORTS)
    if effort not in names:
        raise ValueError(f"effort={effort!r} is not one of {', '.join(names)}")
    return [EFFORTS[name] for name in names[: names.index(effort) + 1]]


def makespans(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """The largest rank load [B] of placements [B, P] for loads [B, E]."""
    return _peaks(loads / count_replicas(phy2log, loads.shape[1]), phy2log, num_ranks)


def better(loads: Tensor, first: Tensor, second: Tensor, num_ranks: int) -> Tensor:
    """Row by row the placement with the smaller makespan; the first if they are equal."""
    wins = makespans(loads, second, num_ranks) < makespans(loads, first, num_ranks)
    return torch.where(wins[:, None], second, first)


def _peaks(share: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """The largest rank load [B], where share [B, E] is the load of one replica."""
    per_slot = share.gather(1, phy2log)
    return per_slot.view(len(phy2log), num_ranks, -1).sum(2).amax(1)


def _try_counts(loads: Tensor, best: Tensor, num_ranks: int, seed: int) -> Tensor:
    """Place anew with eight changes of the counts; keep the best row by row, if it is better."""
    rows, num_slots = best.shape
    many = loads.repeat_interleave(VARIANTS, 0)
    counts = _moved_counts(loads, best, num_ranks, seed)
    replicas = replicas_in_order(counts, num_slots)
    share = many / counts
    pack = snake if num_slots == 2 * num_ranks else lpt
    placed = replicas.gather(1, pack(share.gather(1, replicas), num_ranks))
    if num_slots > 2 * num_ranks:
        placed = decode(refine(encode(share, placed, num_ranks), rounds(0, TRIAL_ROUNDS)))
    choice = argmin_rows(makespans(many, placed, num_ranks).view(rows, VARIANTS))
    placed = placed.view(rows, VARIANTS, num_slots)[torch.arange(rows, device=best.device), choice]
    return better(loads, best, placed, num_ranks)


def _moved_counts(loads: Tensor, best: Tensor, num_ranks: int, seed: int) -> Tensor:
    """Counts [8 B, E]: an expert of the heaviest rank takes a replica from another expert; in the
    odd variants a heavy expert of any rank takes one more.

    Which of them receive, and which of those that would stay light give, is random.
    """
    rows, device = len(best), loads.device
    generator = torch.Generator(device).manual_seed(seed)
    counts = count_replicas(best, loads.shape[1])
    ranks = best.view(rows, num_ranks, -1)
    heaviest = (loads / counts).gather(1, best).view_as(ranks).sum(2).argmax(1)
    crowd = ranks[torch.arange(rows, device=device), heaviest]
    which = torch.randint(0, crowd.shape[1], (rows, VARIANTS), generator=generator, device=device)
    receiver = crowd.gather(1, which).view(-1, 1)
    loads, counts = (x.repeat_interleave(VARIANTS, 0) for x in (loads, counts))
    noise = torch.rand((3, *loads.shape), generator=generator, device=device, dtype=loads.dtype)
    counts = _move(loads, counts, receiver, noise[0], torch.ones_like(receiver))
    receiver = (loads / counts * noise[1]).argmax(1, keepdim=True)
    odd = torch.arange(VARIANTS, device=device).repeat(rows)[:, None] % 2
    return _move(loads, counts, receiver, noise[2], odd)


def _move(loads: Tensor, counts: Tensor, receiver: Tensor, noise: Tensor, active: Tensor) -> Tensor:
    """Give a replica to ``receiver`` [B, 1] where ``active`` [B, 1] is 1 and an expert can spare
    one.
    """
    kept = torch.where(counts > 1, loads / (counts - 1) * noise, torch.inf)
    donor = kept.argmin(1, keepdim=True)
    move = active * (counts.gather(1, donor) > 1)
    return counts.scatter_add(1, donor, -move).scatter_add(1, receiver, move)
