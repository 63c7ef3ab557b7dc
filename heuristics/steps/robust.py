r"""``robust``: a placement for steps whose tokens are shared evenly by the replicas.

Minimizes over placements, for the steps t that were seen,

.. math:: \frac1T \sum_t \max_g \sum_{p \in g} w_{t, e(p)} / c_{e(p)},

the mean makespan under even dispatch; or the largest one, or the mean of the worst.
"""

from __future__ import annotations

from torch import Tensor

from heuristics.matching import check_old
from heuristics.refined import refined
from heuristics.shape import Shape, check_weight, sum_over_steps
from heuristics.steps.even_values import worst_share

EFFORTS = ("fast", "default", "thorough")


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

    On the steps given, in no layer above ``deepseek`` or ``refined``. A single step is placed as
    ``refined`` does, whatever the objective.

    Args:
        weight: [T, L, E] tokens per logical expert at each step; or [L, E], a single one.
        num_replicas: P.
        num_groups: K.
        num_nodes: N.
        num_gpus: G.
        objective: ``mean``, ``worst`` or ``cvar:a``, as of :mod:`heuristics.steps.even_values`.
        effort: ``fast``, ``default`` or ``thorough``.
        seed: of what is drawn.
        old: [L, P] the placement now. What is placed anew is then written so that many experts stay
            where they are.
        move_budget: transfers a layer at most. The result is then in no layer above ``old``.

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
    total = sum_over_steps(weight) if weight.ndim == 3 else weight
    shape = Shape.resolve(total, num_replicas, num_groups, num_nodes, num_gpus)
    if old is not None:
        old = check_old(old, num_replicas, shape.num_nodes, shape.num_groups, total)
    sizes = num_replicas, num_groups, num_nodes, num_gpus
    return refined(total, *sizes, effort=effort, seed=seed, old=old, move_budget=move_budget)
