"""``refined``: the baseline's placement, improved by re-splitting pairs of ranks, and by other
counts where rows stay far from balance.

With few slots a rank the packing is easy or optimal and the replica counts decide: with S = 1
greedy counts are optimal, with S = 2 folding is optimal for given counts, with S = 3 both matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.arrays import argmin_rows, luck
from heuristics.easing import ease
from heuristics.packing import lpt, snake
from heuristics.pair_resplit import Coded, Round, decode, encode, refine, rounds
from heuristics.replication import (
    count_replicas,
    greedy_counts,
    greedy_replicas,
    replica_loads,
    replicas_in_order,
)


@dataclass(frozen=True)
class Work:
    """Work up to an effort, in all.

    Attributes:
        rounds: of re-splitting.
        trials: how often other counts are tried in rows that are far from balance.
        far: makespan over ``max(mean rank load, largest replica)`` less 1 from which a row is far.
    """

    rounds: int
    trials: int = 0
    far: float = 0.0


EFFORTS = ("fast", "default", "thorough")
WORK = {
    2: (Work(0), Work(0, 24, 1e-4), Work(0, 96, 1e-5)),
    3: (Work(1), Work(48, 4, 3e-3), Work(128, 24, 5e-4)),
    4: (Work(1), Work(16, 2, 6e-3), Work(80, 8, 1e-3)),
    5: (Work(1), Work(14, 2, 2e-3), Work(80, 8, 3e-4)),
    6: (Work(1), Work(5, 2, 3e-3), Work(48, 6, 1e-4)),
}
"""By slots a rank, up to 6 and more; an effort does no less than the one before."""
VARIANTS = 8
"""Counts tried at once in a trial."""
EASINGS = 8
"""Moves by which a trial first makes room, where greedy counts leave none."""
TRIAL_ROUNDS = 8
"""Rounds of re-splitting for each of them."""
TRIAL_SHARE = 8
"""With more than three slots a rank a trial takes at most one row in so many."""


def work_of(effort: str, slots: int) -> Work:
    """The work of an effort with S >= 2 slots a rank."""
    if effort not in EFFORTS:
        raise ValueError(f"effort={effort!r} is not one of {', '.join(EFFORTS)}")
    return WORK[min(slots, max(WORK))][EFFORTS.index(effort)]


def place_refined(
    loads: Tensor, num_slots: int, num_ranks: int, *, effort: str = "default", seed: int = 0
) -> Tensor:
    """The expert in each slot, [B, P], from loads [B, E]; never heavier than the baseline's.

    An effort continues where the one before ends, and each step keeps the better placement of each
    row, so that more effort is never worse.
    """
    slots = num_slots // num_ranks
    goal = work_of(effort, max(slots, 2))
    replicas = greedy_replicas(loads.float(), num_slots)
    best = replicas.gather(1, lpt(replica_loads(loads.float(), replicas), num_ranks))
    if slots == 1 or num_ranks == 1:
        return best
    loads = loads.double()
    if slots == 2:
        fold = replicas.gather(1, snake(replica_loads(loads, replicas), num_ranks))
        best = better(loads, best, fold, num_ranks)
    done, coded = Work(0), _encoded(loads, best, num_ranks)
    for todo in (work_of(name, slots) for name in EFFORTS):
        if (todo.rounds, todo.trials) > (goal.rounds, goal.trials):
            break
        if done.trials:
            coded = _encoded(loads, best, num_ranks)
        best, coded = _resplit(best, coded, rounds(done.rounds, todo.rounds))
        if todo.trials and num_slots > loads.shape[1]:
            trials = range(seed + done.trials, seed + todo.trials)
            best = _try_counts(loads, best, num_ranks, trials, todo.far)
        done = todo
    return best


def _encoded(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Coded:
    return encode(loads / count_replicas(phy2log, loads.shape[1]), phy2log, num_ranks)


def _resplit(best: Tensor, coded: Coded, schedule: list[Round]) -> tuple[Tensor, Coded]:
    """Run the rounds; keep what is better whatever was lost in rounding to units."""
    after = refine(coded, schedule)
    wins = after.peak + coded.replicas.shape[1] < coded.peak
    return torch.where(wins[:, None], decode(after), best), after


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


def _try_counts(loads: Tensor, best: Tensor, num_ranks: int, trials: range, far: float) -> Tensor:
    """Place rows that are far from balance anew, with other counts; an accelerator does not wait
    for how many these are and takes as many as may be.
    """
    slots = best.shape[1] // num_ranks
    most = len(best) if slots <= 3 else -(-len(best) // TRIAL_SHARE)
    largest = (loads / greedy_counts(loads, best.shape[1])).amax(1)
    floor = torch.maximum(loads.sum(1) / num_ranks, largest)
    for seed in trials:
        excess = makespans(loads, best, num_ranks) / floor - 1
        chance = luck((len(best),), torch.Generator().manual_seed(seed), loads) + 0.5
        score, rows = torch.where(excess > far, excess * chance, 0.0).topk(most)
        if best.device.type == "cpu":
            rows = rows[score > 0]
            if len(rows) == 0:
                break
        tried = _other_counts(loads[rows], best[rows], num_ranks, seed)
        best = best.index_copy(0, rows, tried)
    return best


def _other_counts(loads: Tensor, best: Tensor, num_ranks: int, seed: int) -> Tensor:
    """Place rows anew, with eased counts and seven changes of these; the best of each row, if it is
    better.
    """
    rows, num_slots = best.shape
    many = loads.repeat_interleave(VARIANTS, 0)
    eased = ease(loads.float(), best, num_ranks, EASINGS, seed)
    replicas = replicas_in_order(_moved_counts(loads, eased, num_ranks, seed), num_slots)
    pack = snake if num_slots == 2 * num_ranks else lpt
    placed = replicas.gather(1, pack(replica_loads(many, replicas), num_ranks))
    if num_slots > 2 * num_ranks:
        placed, _ = _resplit(placed, _encoded(many, placed, num_ranks), rounds(0, TRIAL_ROUNDS))
    choice = argmin_rows(makespans(many, placed, num_ranks).view(rows, VARIANTS))
    placed = placed.view(rows, VARIANTS, num_slots)[torch.arange(rows, device=best.device), choice]
    return better(loads, best, placed, num_ranks)


def _moved_counts(loads: Tensor, best: Tensor, num_ranks: int, seed: int) -> Tensor:
    """Counts [8 B, E]: those of ``best``; then an expert of the heaviest rank takes a replica from
    another expert, in the odd variants a heavy expert of any rank takes one more.

    Which of them receive, and which of those that would stay light give, is random.
    """
    rows, device = len(best), loads.device
    generator = torch.Generator().manual_seed(seed)
    counts = count_replicas(best, loads.shape[1])
    ranks = best.view(rows, num_ranks, -1)
    heaviest = (loads / counts).gather(1, best).view_as(ranks).sum(2).argmax(1)
    crowd = ranks[torch.arange(rows, device=device), heaviest]
    which = (luck((rows, VARIANTS), generator, loads) * crowd.shape[1]).long()
    receiver = crowd.gather(1, which).view(-1, 1)
    loads, counts = (x.repeat_interleave(VARIANTS, 0) for x in (loads, counts))
    noise = luck((3, *loads.shape), generator, loads)
    variant = torch.arange(VARIANTS, device=device).repeat(rows)[:, None]
    counts = _move(loads, counts, receiver, noise[0], (variant > 0).long())
    receiver = (loads / counts * noise[1]).argmax(1, keepdim=True)
    return _move(loads, counts, receiver, noise[2], variant % 2)


def _move(loads: Tensor, counts: Tensor, receiver: Tensor, noise: Tensor, active: Tensor) -> Tensor:
    """Give a replica to ``receiver`` [B, 1] where ``active`` [B, 1] is 1 and an expert can spare
    one.
    """
    kept = torch.where(counts > 1, loads / (counts - 1) * noise, torch.inf)
    donor = kept.argmin(1, keepdim=True)
    move = active * (counts.gather(1, donor) > 1)
    return counts.scatter_add(1, donor, -move).scatter_add(1, receiver, move)
