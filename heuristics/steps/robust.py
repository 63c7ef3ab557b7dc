r"""``robust``: a placement for steps whose tokens replicas share evenly, as engines without a
dispatcher have it.

Minimizes over placements, for the steps t that were seen,

.. math:: \frac1T \sum_t \max_g \sum_{p \in g} w_{t, e(p)} / c_{e(p)},

the mean makespan, or the largest one, or the mean of the worst: by annealing
(:mod:`.even_annealing`) from the most promising of several placements.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.grouping import groups_by_steps
from heuristics.homes import beyond_limit
from heuristics.matching import check_old, find_homes, relabel
from heuristics.packing import by_load, lpt
from heuristics.pipeline import Pipeline
from heuristics.refined import refined
from heuristics.replication import greedy_replicas
from heuristics.shape import ArgumentError, Shape, check_weight, sum_over_steps
from heuristics.steps.even_annealing import TRIALS, anneal_evenly
from heuristics.steps.even_values import even_makespans, over_steps, worst_share
from heuristics.steps.starts import BUILT, write_beside
from heuristics.steps.trials import Transfers

EFFORTS = {"fast": 2**10, "default": 2**13, "thorough": 2**16}
"""Rounds of annealing."""
HEATS = 0.01, 0.1
"""Temperatures to begin with, as parts of what a start loses: small instances want the second."""
BRIEFLY = 16
"""Every start is annealed at every temperature for one in so many of the rounds; the start and the
temperature that did best are then annealed for all of them.
"""
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
    traffic: float | None = None,
) -> Tensor:
    """The expert in each slot, [L, P] int64.

    On the steps given, in no layer above ``deepseek`` or ``refined`` of their sum, under the rule
    ``home`` nor above what is placed under the hierarchical one before it is annealed. A single
    step is placed as by ``refined``, whatever the objective. Every layer by itself, but for what
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
            above ``refined`` with that budget.
        traffic: None: all replicas of a group stay on one node (with one node, anywhere). Else the
            rule ``home``: every expert has a replica at the home of its group, further ones may be
            on any node, and at most this part of a layer's tokens, of all steps together, is served
            off home, replicas sharing alike. Where a budget does not allow that, as little as was
            found beyond it.

    Raises:
        ArgumentError: an argument does not fit; the message names it.
    """
    weight = weight.detach()
    check_weight(weight)
    worst_share(objective)
    if effort not in EFFORTS:
        raise ArgumentError(f"effort={effort!r} is not one of {', '.join(EFFORTS)}")
    if move_budget is not None and (old is None or move_budget < 0):
        raise ArgumentError(f"move_budget={move_budget} must not be negative, and needs old")
    sizes = num_replicas, num_groups, num_nodes, num_gpus
    total = sum_over_steps(weight) if weight.ndim == 3 else weight
    if weight.ndim == 2 or len(weight) == 1:
        return refined(total, *sizes, seed=seed, old=old, move_budget=move_budget, traffic=traffic)
    shape = Shape.resolve(total, *sizes)
    limit = traffic if shape.num_nodes > 1 else None
    if old is not None:
        nodes, groups = shape.num_nodes, shape.num_groups
        old = check_old(old, num_replicas, nodes, groups, total, home=limit is not None)
    placed = _starts(weight, total, shape, seed, limit)
    if old is not None:
        placed = write_beside(placed, old, shape, weight.shape[2], move_budget)
    if move_budget is not None:
        changed = refined(
            total, *sizes, seed=seed, old=old, move_budget=move_budget, traffic=traffic
        )
        placed = torch.cat([placed, changed[None]])
    chunk, found = max(1, CHUNK // (TRIALS * len(weight) * num_gpus)), []
    for i in range(0, len(total), chunk):
        part = slice(i, i + chunk)
        now = None if old is None else old[part]
        task = _Task(weight[:, part], now, shape, objective, move_budget, limit)
        found.append(_search(task, placed[:, part], EFFORTS[effort], seed))
    best = torch.cat(found)
    if old is None or move_budget is not None:
        return best
    return relabel(best, old, num_gpus, shape.num_nodes, weight.shape[2])


def _starts(steps: Tensor, total: Tensor, shape: Shape, seed: int, limit: float | None) -> Tensor:
    """Placements [C, L, P] from steps [T, L, E] and their sum [L, E]: two for the sum, one with
    replicas for the largest loads of the experts and groups on nodes by steps; with a limit of
    tokens off home one more for the sum, under that rule.
    """
    sizes = shape.num_slots, shape.num_groups, shape.num_nodes, shape.num_ranks
    by_steps = Pipeline(groups_by_steps(steps), greedy_replicas, by_load(lpt))
    of_sum = BUILT["deepseek"](total, *sizes), refined(total, *sizes, seed=seed)
    found = [*of_sum, by_steps(steps.amax(0), *sizes)]
    if limit is not None:
        found.append(refined(total, *sizes, seed=seed, traffic=limit))
    return torch.stack(found)


@dataclass(frozen=True)
class _Task:
    """What placements are for.

    Attributes:
        steps: [T, L, E].
        old: [L, P] the placement now, if there is one.
        shape: sizes.
        objective: over steps.
        budget: transfers a layer from ``old``, None for any number.
        limit: under the rule ``home`` the part of a layer's tokens that may be served off home,
            else None.
    """

    steps: Tensor
    old: Tensor | None
    shape: Shape
    objective: str
    budget: int | None
    limit: float | None

    def least(self, placed: Tensor) -> Tensor:
        """[L] which of placements [C, L, P] is the best of each layer, the first of equals: of
        those with the fewest tokens beyond the limit.
        """
        shape, limit = self.shape, self.limit
        values = torch.stack(
            [
                over_steps(even_makespans(self.steps, each, shape.num_ranks), self.objective)
                for each in placed
            ]
        )
        if limit is not None:
            groups, nodes = shape.num_groups, shape.num_nodes
            beyond = torch.stack(
                [beyond_limit(self.steps, each, groups, nodes, limit) for each in placed]
            )
            values = values.where(beyond == beyond.amin(0), torch.inf)
        return values.argmin(0)

    def anneal(self, start: Tensor, heat: Tensor, rounds: int, seed: int) -> Tensor:
        """Placements [L, P] annealed from some, at first temperatures [L]."""
        ranks, nodes, groups = self.shape.num_ranks, self.shape.num_nodes, self.shape.num_groups
        homes, limit = None, 1.0
        if self.limit is not None:
            total = self.steps.sum(0, dtype=torch.float64)
            homes, limit = find_homes(start, total, nodes, groups), self.limit
        transfers = Transfers.of(start, self.old, self.budget, ranks, self.steps.shape[2])
        share = worst_share(self.objective)
        return anneal_evenly(
            self.steps, start, transfers, share, heat,
            num_nodes=nodes, rounds=rounds, seed=seed, homes=homes, limit=limit,
        )  # fmt: skip


def _search(task: _Task, placed: Tensor, rounds: int, seed: int) -> Tensor:
    """The best placements [L, P] of those given [C, L, P] and of those annealed from them."""
    row = torch.arange(placed.shape[1], device=placed.device)
    starts = placed.repeat(len(HEATS), 1, 1)
    heats = torch.tensor(HEATS, dtype=torch.float64, device=placed.device)
    heats = heats.repeat_interleave(len(placed))[:, None].expand(-1, len(row))
    brief = [
        task.anneal(start, heat, rounds // BRIEFLY, seed)
        for start, heat in zip(starts, heats, strict=True)
    ]
    tried = torch.stack(brief)
    chosen = task.least(tried), row
    found = task.anneal(starts[chosen], heats[chosen], rounds, seed + 1)
    everything = torch.cat([placed, tried, found[None]])
    return everything[task.least(everything), row]
