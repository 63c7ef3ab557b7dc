r"""``robust``: a placement for steps whose tokens replicas share evenly, as engines without a
dispatcher have it.

Minimizes over placements, for the steps t that were seen,

.. math:: \frac1T \sum_t \max_g \sum_{p \in g} w_{t, e(p)} / c_{e(p)},

the mean makespan, or the largest one, or the mean of the worst: by annealing
(:mod:`.even_annealing`) from the placement that is best on the steps of those made for their sum.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from heuristics.grouping import by_total, groups_by_steps
from heuristics.matching import check_old, relabel
from heuristics.packing import by_load, lpt
from heuristics.pipeline import Pipeline
from heuristics.refined import refined
from heuristics.replication import greedy_replicas
from heuristics.shape import Shape, check_weight, sum_over_steps
from heuristics.steps.even_annealing import TRIALS, anneal_evenly
from heuristics.steps.even_values import even_makespans, over_steps, worst_share
from heuristics.steps.starts import write_beside
from heuristics.steps.trials import Transfers

EFFORTS = {"fast": 2**10, "default": 2**13, "thorough": 2**16}
"""Rounds of annealing."""
CHUNK = 2**26
"""Loads of ranks that are held at once, 512 MB."""


def robust(
    weight: Tensor,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
    *,
    objective: str = "mean",
    effort: str = "default",
    seed: int = 0,
    old: Tensor | None = None,
    move_budget: int | None = None,
) -> Tensor:
    """The expert in each slot, [L, P] int64.

    On the steps given, in no layer above ``deepseek`` or ``refined`` of their sum. A single step is
    placed as by ``refined``, whatever the objective. Every layer by itself, but for what
    ``refined`` draws; the same on a CPU whatever the number of threads.

    Args:
        weight: [T, L, E] tokens per logical expert at each step, which weigh by their tokens; or
            [L, E], a single one.
        num_replicas: P.
        num_groups: K.
        num_nodes: N.
        num_gpus: G.
        objective: ``mean``, ``worst`` or ``cvar:a``, as of :mod:`heuristics.steps.even_values`.
        effort: ``fast``, ``default`` or ``thorough``.
        seed: of what is drawn.
        old: [L, P] the placement now. What is placed anew is then written so that many experts stay
            where they are.
        move_budget: transfers a layer at most. The result is then in no layer above ``old``, nor
            above any of the others that the budget allows.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    weight = weight.detach()
    check_weight(weight)
    worst_share(objective)
    if effort not in EFFORTS:
        raise ValueError(f"effort={effort!r} is not one of {', '.join(EFFORTS)}")
    if move_budget is not None and (old is None or move_budget < 0):
        raise ValueError(f"move_budget={move_budget} must not be negative, and needs old")
    sizes = num_replicas, num_groups, num_nodes, num_gpus
    total = sum_over_steps(weight) if weight.ndim == 3 else weight
    of_sum = "default" if effort == "fast" else effort  # never above what engines run
    if weight.ndim == 2 or len(weight) == 1:
        return refined(total, *sizes, effort=of_sum, seed=seed, old=old, move_budget=move_budget)
    shape = Shape.resolve(total, *sizes)
    if old is not None:
        old = check_old(old, num_replicas, shape.num_nodes, shape.num_groups, total)
    placed = _starts(weight, total, shape, of_sum, seed)
    if old is not None:
        placed = write_beside(placed, old, shape, weight.shape[2], move_budget)
    search = partial(
        _search,
        shape=shape,
        objective=objective,
        rounds=EFFORTS[effort],
        seed=seed,
        budget=move_budget,
    )
    chunk, found = max(1, CHUNK // (TRIALS * len(weight) * num_gpus)), []
    for i in range(0, len(total), chunk):
        part = slice(i, i + chunk)
        now = None if old is None else old[part]
        found.append(search(weight[:, part], placed[:, part], now))
    return torch.cat(found)


def _starts(steps: Tensor, total: Tensor, shape: Shape, effort: str, seed: int) -> Tensor:
    """Placements [C, L, P] from steps [T, L, E] and their sum [L, E]."""
    sizes = shape.num_slots, shape.num_groups, shape.num_nodes, shape.num_ranks
    found = [
        Pipeline(by_total(lpt), greedy_replicas, by_load(lpt))(total, *sizes),
        refined(total, *sizes, effort=effort, seed=seed),
    ]
    if shape.num_nodes > 1:
        found.append(Pipeline(groups_by_steps(steps), greedy_replicas, by_load(lpt))(total, *sizes))
    return torch.stack(found)


def _search(
    steps: Tensor,
    placed: Tensor,
    old: Tensor | None,
    *,
    shape: Shape,
    objective: str,
    rounds: int,
    seed: int,
    budget: int | None,
) -> Tensor:
    """The best of the starts ``placed`` [C, L, P], annealed, for steps [T, L, E]."""
    ranks, nodes, num_experts = shape.num_ranks, shape.num_nodes, steps.shape[2]

    def value_of(phy2log: Tensor) -> Tensor:
        return over_steps(even_makespans(steps, phy2log, ranks), objective)

    values = torch.stack([value_of(each) for each in placed])
    best = placed[values.argmin(0), torch.arange(len(placed[0]), device=steps.device)]
    transfers = Transfers.of(best, old, budget, ranks, num_experts)
    share = worst_share(objective)
    found = anneal_evenly(steps, best, transfers, share, num_nodes=nodes, rounds=rounds, seed=seed)
    best = torch.where((value_of(found) < values.amin(0))[:, None], found, best)
    if old is not None and budget is None:
        best = relabel(best, old, ranks, nodes, num_experts)
    return best
