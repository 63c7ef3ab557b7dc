"""How much is searched: rounds of re-splitting and trials of other counts, by slots and by effort.

The baseline's placement is improved step by step, other counts where rows stay far from balance.

With few slots a rank the packing is easy or optimal and the replica counts decide: with S = 1
greedy counts are optimal, with S = 2 folding is optimal for given counts, with S = 3 both matter.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from heuristics.count_search import try_counts
from heuristics.makespan import better
from heuristics.packing import lpt, snake
from heuristics.pair_resplit import encode, resplit, rounds
from heuristics.replication import greedy_replicas, replica_loads


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
    done, coded = Work(0), encode(loads, best, num_ranks)
    for todo in (work_of(name, slots) for name in EFFORTS):
        if (todo.rounds, todo.trials) > (goal.rounds, goal.trials):
            break
        if done.trials:
            coded = encode(loads, best, num_ranks)
        best, coded = resplit(best, coded, rounds(done.rounds, todo.rounds))
        if todo.trials and num_slots > loads.shape[1]:
            trials = range(seed + done.trials, seed + todo.trials)
            best = try_counts(loads, best, num_ranks, trials, todo.far)
        done = todo
    return best
