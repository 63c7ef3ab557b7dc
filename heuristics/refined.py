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
from heuristics.refinement import Round, decode, encode, refine, rounds
from heuristics.replication import (
    count_replicas,
    greedy_replicas,
    replica_loads,
    replicas_in_order,
)


@dataclass(frozen=True)
class Work:
    """Work up to an effort, in all.

    Attributes:
        rounds: of re-splitting.
        count_trials: how often other counts are tried.
    """

    rounds: int
    count_trials: int


EFFORTS = ("fast", "default", "thorough")
FEW_SLOTS, COUNT_SLOTS = 5, 3
"""Up to S = 5 all splits of a pair are tried; up to S = 3 counts matter in every row."""
VARIANTS = 8
"""Counts tried at once in a trial."""
TRIAL_ROUNDS = 6
"""Rounds of re-splitting for each of them."""
TRIAL_ROWS = 4
"""With more than three slots a rank, a trial takes this many rows: those that are far from
balance.
"""


def work_of(effort: str, slots: int) -> Work:
    """The work of an effort with S slots a rank; never less than that of the effort before."""
    if effort not in EFFORTS:
        raise ValueError(f"effort={effort!r} is not one of {', '.join(EFFORTS)}")
    if slots <= COUNT_SLOTS:
        steps = Work(1, 0), Work(14, 24), Work(96, 96)
    elif slots <= FEW_SLOTS:
        steps = Work(1, 0), Work(11, 1), Work(80, 14)
    else:
        steps = Work(1, 0), Work(5, 0), Work(80, 6)
    return steps[EFFORTS.index(effort)]


def place_refined(
    loads: Tensor, num_slots: int, num_ranks: int, *, effort: str = "default", seed: int = 0
) -> Tensor:
    """The expert in each slot, [B, P], from loads [B, E]; never heavier than the baseline's.

    An effort continues where the one before ends, and each step keeps the better placement of each
    row, so that more effort is never worse. Makespans are compared in float64.
    """
    slots = num_slots // num_ranks
    goal = work_of(effort, slots)
    replicas = greedy_replicas(loads.float(), num_slots)
    best = replicas.gather(1, lpt(replica_loads(loads.float(), replicas), num_ranks))
    if slots == 1 or num_ranks == 1:
        return best
    loads = loads.double()
    if slots == 2:
        fold = replicas.gather(1, snake(replica_loads(loads, replicas), num_ranks))
        best = better(loads, best, fold, num_ranks)
    done = Work(0, 0)
    for todo in (work_of(name, slots) for name in EFFORTS):
        if todo.rounds > goal.rounds:
            break
        spare = num_slots > loads.shape[1]
        for trial in range(done.count_trials, todo.count_trials if spare else 0):
            best = _try_counts(loads, best, num_ranks, seed + trial)
        best = _resplit(loads, best, num_ranks, rounds(done.rounds, todo.rounds))
        done = todo
    return best


def _resplit(loads: Tensor, best: Tensor, num_ranks: int, schedule: list[Round]) -> Tensor:
    if best.shape[1] == 2 * num_ranks:
        return best  # folded, which is optimal for given counts
    share = loads / count_replicas(best, loads.shape[1])
    split = decode(refine(encode(share, best, num_ranks), schedule))
    wins = _peaks(share, split, num_ranks) < _peaks(share, best, num_ranks)
    return torch.where(wins[:, None], split, best)


def balance_groups(group_loads: Tensor, num_nodes: int) -> Tensor:
    """The group in each place, [L, K] from [L, K]: the heaviest node as light as re-splitting gets
    it.

    Optimal for two nodes of up to five groups, and for two groups a node.
    """
    return place_refined(group_loads, group_loads.shape[1], num_nodes)


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
    """Place rows anew with eight changes of their counts; keep the best of each, if it is
    better.
    """
    generator = torch.Generator(loads.device).manual_seed(seed)
    if best.shape[1] <= COUNT_SLOTS * num_ranks:
        return _best_variant(loads, best, num_ranks, generator)
    excess = makespans(loads, best, num_ranks) * num_ranks / loads.sum(1).clamp(min=1e-300) - 1
    luck = torch.rand(len(best), generator=generator, device=best.device, dtype=loads.dtype)
    rows = (excess * luck).topk(min(TRIAL_ROWS, len(best))).indices
    return best.index_copy(0, rows, _best_variant(loads[rows], best[rows], num_ranks, generator))


def _best_variant(
    loads: Tensor, best: Tensor, num_ranks: int, generator: torch.Generator
) -> Tensor:
    rows, num_slots = best.shape
    many = loads.repeat_interleave(VARIANTS, 0)
    counts = _moved_counts(loads, best, num_ranks, generator)
    replicas = replicas_in_order(counts, num_slots)
    pack = snake if num_slots == 2 * num_ranks else lpt
    placed = replicas.gather(1, pack(replica_loads(many, replicas), num_ranks))
    placed = _resplit(many, placed, num_ranks, rounds(0, TRIAL_ROUNDS))
    choice = argmin_rows(makespans(many, placed, num_ranks).view(rows, VARIANTS))
    placed = placed.view(rows, VARIANTS, num_slots)[torch.arange(rows, device=best.device), choice]
    return better(loads, best, placed, num_ranks)


def _moved_counts(
    loads: Tensor, best: Tensor, num_ranks: int, generator: torch.Generator
) -> Tensor:
    """Counts [8 B, E]: an expert of the heaviest rank takes a replica from another expert; in the
    odd variants a heavy expert of any rank takes one more.

    Which of them receive, and which of those that would stay light give, is random.
    """
    rows, device = len(best), loads.device
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
