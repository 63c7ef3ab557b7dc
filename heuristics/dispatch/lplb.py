"""LPLB's shares: a few steps of an interior-point method on the program of the least makespan.

For one layer, with tokens divided by their total::

    minimize   M + 1000 a
    subject to   sum of x[p] over the slots p of e          = w[e]     each expert e with several
                 sum of x[p] over the slots p of g + s[g] - M = -u[g]  each rank g

``x[p] >= 0`` are the tokens that the slots of such experts serve, ``u[g]`` those of the other
experts of rank g, ``s[g] >= 0`` is the slack of the rank and ``M >= 0`` the makespan. The auxiliary
variable ``a >= 0`` stands in every row, with the factor that makes all variables = 1 a solution.
Written ``A z = b`` with costs c, a step of affine scaling from z = 1 is::

    (A Z^2 A^T) y = A Z^2 c,   d = z (c - A^T y),   z <- z (1 - 0.999 d / max d)

Five steps are made; where these have not converged, tokens are shared evenly. That is what SGLang
0.5.23 does under ``--ep-dispatch-algorithm lp``, here for all layers and steps at once.

Reference: https://github.com/deepseek-ai/LPLB
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.dispatch.slots import check, expert_loads, rank_loads
from heuristics.replication import count_replicas

STEPS = 5
PENALTY = 1000.0
"""Cost of the auxiliary variable."""
STRIDE, LEAST_DESCENT = 0.999, 1e-9
"""A step goes so far towards the boundary; to d itself, where no d is larger than this."""
JITTER = 1e-12
"""Added to the diagonal, as variables that vanish make rows vanish."""
CONVERGED, NO_AUXILIARY, SOLVED = 0.1, 1e-4, 0.05
"""The largest d, the auxiliary variable and the largest error of a row stay below these."""


def lplb(loads: Tensor, phy2log: Tensor, num_ranks: int, *, steps: int = STEPS) -> Tensor:
    """The part of its expert's tokens that each slot serves, as LPLB decides it.

    Args:
        loads: [..., L, E] tokens of any real dtype; computed in float32.
        phy2log: [L, P] int64, the expert in each slot.
        num_ranks: G; slot p is on rank ``p // (P / G)``.
        steps: of the method.

    Returns:
        [..., L, P] float32, 1 over the slots of each expert. Heuristic: the makespan may exceed
        that of even shares. O(steps n^2 (n + P)) a layer, n = min(E, P - E) + G.

    Raises:
        ValueError: shapes do not fit, or ``steps`` is less than 1.

    Example:
        >>> phy2log = torch.tensor([[0, 1, 1, 2]])  # expert 1 is on both ranks
        >>> lplb(torch.tensor([[50, 40, 10]]), phy2log, 2, steps=9).round(decimals=3)
        tensor([[1., 0., 1., 1.]])
    """
    check(loads, phy2log, num_ranks)
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    loads = loads.float()
    matrix, right = build_program(loads, phy2log, num_ranks)
    served = scale_affinely(matrix, right, steps)[..., : phy2log.shape[1]].clamp(min=0)
    same = (phy2log[:, :, None] == phy2log[:, None]).float()
    counts = same.sum(2)
    served = served.where(counts > 1, 1.0)
    of_expert = torch.einsum("...lp,lpq->...lq", served, same)
    return (served / of_expert).where(of_expert > 0, 1 / counts)


def build_program(loads: Tensor, phy2log: Tensor, num_ranks: int) -> tuple[Tensor, Tensor]:
    """The matrix A [..., L, R + G, P + G + 2] and the right side b [..., L, R + G].

    Rows: R = min(E, P - E) experts, first those with several slots, then ranks. Columns: slots,
    slacks, makespan, auxiliary. Experts with one slot have zeros for rows and columns; where a row
    is zero, so is its right side.
    """
    num_experts, num_slots = loads.shape[-1], phy2log.shape[1]
    tokens = loads / loads.sum(-1, keepdim=True).clamp(min=1)
    counts = count_replicas(phy2log, num_experts)
    several = counts.gather(1, phy2log) > 1
    expert = torch.sort((counts > 1).int(), dim=1, descending=True, stable=True).indices
    expert = expert[:, : num_slots - num_experts]

    slot = torch.arange(num_slots, device=loads.device)
    rank = torch.arange(num_ranks, device=loads.device)
    on_rank = (slot * num_ranks // num_slots == rank[:, None]) & several[:, None]
    of_expert = (phy2log[:, None] == expert[:, :, None]) & several[:, None]
    slots = torch.cat([of_expert, on_rank], 1).float()
    ranks = torch.eye(num_ranks, num_ranks + 1, device=loads.device)  # slacks and makespan
    ranks[:, -1] = -1
    ranks = torch.nn.functional.pad(ranks, (0, 0, expert.shape[1], 0))
    fixed = torch.cat([slots, ranks.expand(len(slots), -1, -1)], 2)

    alone = rank_loads(expert_loads(tokens, phy2log).where(~several, 0), num_ranks)
    shared = expert_loads(tokens.where(counts > 1, 0), expert)
    right = torch.cat([shared, -alone], -1)
    auxiliary = right - fixed.sum(-1)
    fixed = fixed.expand(*right.shape, -1)
    return torch.cat([fixed, auxiliary[..., None]], -1), right


def scale_affinely(matrix: Tensor, right: Tensor, steps: int) -> Tensor:
    """Variables z [..., n] after so many steps from z = 1; all 1/2 where these do not converge."""
    costs = matrix.new_zeros(matrix.shape[-1])
    costs[-2], costs[-1] = 1, PENALTY
    empty = (matrix == 0).all(-1)  # rows that constrain nothing
    diagonal = torch.diag_embed(empty + JITTER)
    z = torch.ones_like(matrix[..., 0, :])
    descent = z.new_zeros(*z.shape[:-1], 1)
    for _ in range(steps):
        scaled = matrix * (z * z)[..., None, :]
        y = torch.linalg.solve_ex(scaled @ matrix.mT + diagonal, scaled @ costs).result
        d = z * (costs - (y[..., None, :] @ matrix)[..., 0, :])
        descent = d.amax(-1, keepdim=True)
        z = z * (1 - (STRIDE / descent).where(descent > LEAST_DESCENT, 1) * d)
    error = ((matrix @ z[..., None])[..., 0] - right).abs().amax(-1, keepdim=True)
    auxiliary = z[..., -1:]
    converged = (auxiliary >= 0) & (auxiliary < NO_AUXILIARY)
    return z.where(converged & (descent < CONVERGED) & (error < SOLVED), 0.5)
