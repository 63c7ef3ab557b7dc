r"""``dispatch-aware``: a placement for steps, each shared anew by an optimal dispatcher.

Minimizes over placements, for the steps t that were seen,

.. math:: \frac1T \sum_t \min_{x_t} \max_g \sum_{p \in g} w_{t, e(p)} x_{tp},

the mean makespan under the best shares :math:`x_t` of each step: by annealing (:mod:`.annealing`)
from the best of several constructions (:mod:`.starts`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.matching import check_old, count_transfers, relabel
from heuristics.shape import Shape, check_weight
from heuristics.steps.annealing import MANY, anneal
from heuristics.steps.noise import draw_steps
from heuristics.steps.starts import starts
from heuristics.steps.trials import Transfers
from heuristics.steps.values import mean_makespans, use_compiled

ROUNDS = {"fast": 3, "default": 45, "thorough": 500}
"""Of annealing, by effort."""
CHUNK = 2**20
"""Tokens of slots that compiled code takes at once, 8 MB."""


def dispatch_aware(
    weight: Tensor,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
    *,
    effort: str = "default",
    seed: int = 0,
    old: Tensor | None = None,
    move_budget: int | None = None,
) -> Tensor:
    """The expert in each slot, [L, P] int64.

    On the steps given, in no layer above ``deepseek``, ``refined``, a chain or, where it is
    defined, a graph of LPLB's (makespans as of :mod:`heuristics.steps.values`). Every layer by
    itself, the same on a CPU whatever the number of threads.

    Args:
        weight: [T, L, E] tokens per logical expert at each step; or [L, E], around which steps are
            drawn (:func:`heuristics.steps.draw_steps`).
        num_replicas: P.
        num_groups: K.
        num_nodes: N.
        num_gpus: G.
        effort: ``fast``, ``default`` or ``thorough``.
        seed: of what is drawn.
        old: [L, P] the placement now. What is placed anew is then written so that many experts stay
            where they are.
        move_budget: transfers a layer at most. The result is then in no layer above ``old``, nor
            above any of the others that the budget allows.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    check_weight(weight)
    if effort not in ROUNDS:
        raise ValueError(f"effort={effort!r} is not one of {', '.join(ROUNDS)}")
    if move_budget is not None and (old is None or move_budget < 0):
        raise ValueError(f"move_budget={move_budget} must not be negative, and needs old")
    total = weight.double().sum(0) if weight.ndim == 3 else weight
    shape = Shape.resolve(total, num_replicas, num_groups, num_nodes, num_gpus)
    if old is not None:
        old = check_old(old, num_replicas, shape.num_nodes, shape.num_groups, total)
    steps = weight if weight.ndim == 3 else draw_steps(weight, seed=seed)
    sizes = num_replicas, num_groups, num_nodes, num_gpus
    placed = torch.stack([*starts(total, *sizes).values()])
    chunk = len(total)
    if use_compiled(steps):
        chunk = max(1, CHUNK // (min(len(steps), MANY) * num_replicas))
    found = []
    for i in range(0, len(total), chunk):
        part = slice(i, i + chunk)
        before = None if old is None else old[part]
        found.append(
            _search(
                steps[:, part], placed[:, part], before, shape, ROUNDS[effort], seed, move_budget
            )
        )
    return torch.cat(found)


def _search(
    steps: Tensor,
    placed: Tensor,
    old: Tensor | None,
    shape: Shape,
    rounds: int,
    seed: int,
    budget: int | None,
) -> Tensor:
    """The best of the starts ``placed`` [C, L, P], annealed, for steps [T, L, E]."""
    num_ranks, num_nodes, num_experts = shape.num_ranks, shape.num_nodes, steps.shape[-1]
    if old is not None:
        placed = torch.stack(
            [relabel(each, old, num_ranks, num_nodes, num_experts) for each in placed]
        )
    if old is not None and budget is not None:
        takes = torch.stack([count_transfers(old, p, num_ranks, num_experts) for p in placed])
        placed = torch.where((takes <= budget)[..., None], placed, old)
        placed = torch.cat([placed, old[None]])
    values = mean_makespans(steps, placed, num_ranks)
    start, least = _best(values, placed), values.amin(0)

    transfers = Transfers.of(
        start, old if budget is not None else None, budget, num_ranks, num_experts
    )
    found = anneal(steps, start, transfers, num_nodes=num_nodes, rounds=rounds, seed=seed)
    if old is not None and budget is None:
        found = relabel(found, old, num_ranks, num_nodes, num_experts)
    better = mean_makespans(steps, found[None], num_ranks)[0] < least
    return torch.where(better[:, None], found, start)


def _best(values: Tensor, placed: Tensor) -> Tensor:
    """[L, P] of the placements [C, L, P] those with the least values [C, L]."""
    return placed[values.argmin(0), torch.arange(placed.shape[1], device=placed.device)]
