r"""One set of shares for all steps: as light a fullest rank as such shares can give on average.

With load :math:`w_{ts}` of the expert in slot s at step t and further load :math:`b_{tg}` of rank
g,

.. math:: \min \tfrac1T \sum_t M_t, \quad \sum_{s \text{ of } r} x_s = 1, \quad
          b_{tg} + \sum_{s \text{ on } g} w_{ts} x_s + z_{tg} = M_t, \quad x, z \ge 0.

The same method as in ``interior_point``: prices :math:`y_{tg} \ge 0` of tokens, :math:`\sum_g
y_{tg} = 1 / T`, values :math:`v_r` of experts, :math:`s_s = \sum_t w_{ts} y_{t g(s)} - v_r \ge 0`.
Steps are eliminated first: with :math:`k = y / z` a Newton step solves

.. math:: \Big(\operatorname{diag}(s / x) + \sum_t W_t^\top \big(\operatorname{diag} k_t -
          k_t k_t^\top / \textstyle\sum_g k_{tg}\big) W_t\Big) dx = q + \text{value of the expert},

a dense system of the at most 2 (P - E) slots of replicated experts, of any number of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.dispatch.interior_point import (
    CHUNK,
    LEAST_LOAD,
    LEAST_MU,
    SHRINK,
    START_ROOM,
    step_length,
)
from heuristics.dispatch.slots import check, even_shares, expert_loads, rank_loads
from heuristics.dispatch.tiles import by_replicas

NEWTON_STEPS = 20
"""Within 0.001 % of the mean rank load of the least mean makespan, see docs/results."""


def fixed_shares(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """The part of its expert's tokens that each slot serves at every step, [L, P] float32.

    The mean makespan over ``loads`` is never above that of even shares; an expert without load has
    even ones. No host synchronization; equal input gives equal bits.

    Args:
        loads: [T, L, E] tokens of each expert at each step; floating point or integers.
        phy2log: [L, P] the expert in each slot; every expert has a slot.
        num_ranks: G; P / G neighbouring slots are a rank.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> loads, phy2log = torch.tensor([[[6, 2, 1]], [[4, 2, 1]]]), torch.tensor([[0, 1, 0, 2]])
        >>> fixed_shares(loads, phy2log, num_ranks=2)
        tensor([[0.4167, 1.0000, 0.5833, 1.0000]])
    """
    check(loads, phy2log, num_ranks)
    if loads.dim() != 3:
        raise ValueError(f"loads {list(loads.shape)}: give the steps [T, L, E]")
    num_experts = loads.shape[-1]
    even = even_shares(phy2log, num_experts)
    if num_ranks == 1 or phy2log.shape[1] == num_experts or not loads.numel():
        return even
    chunk = max(1, CHUNK // (len(loads) * 2 * (phy2log.shape[1] - num_experts)))
    parts = zip(*(torch.split(part, chunk, -2) for part in (loads, phy2log, even)), strict=True)
    return torch.cat([_best(steps, slots, own, num_ranks) for steps, slots, own in parts])


def _best(loads: Tensor, phy2log: Tensor, even: Tensor, num_ranks: int) -> Tensor:
    """Shares [L, P] of the best inner point on the way, from even shares [L, P]."""
    point = _Point(loads, phy2log, num_ranks)
    start = best = point.x
    least = point.mean_makespan(best)
    for _ in range(NEWTON_STEPS):
        point.newton_step()
        now = point.x / (point.experts.mT @ (point.experts @ point.x))
        makespan = point.mean_makespan(now)
        better = makespan < least
        best, least = torch.where(better, now, best), torch.where(better, makespan, least)
    best = torch.where(point.w.amax(1)[..., None] > 0, best, start)
    return even.scatter(1, point.slots, best[..., 0].float())


class _Point:
    """An inner point: ``x, s [L, n, 1]`` of slots, ``z, y [L, T, G]`` of ranks, all positive.

    Attributes:
        slots: [L, n] those of the experts with most slots, n = min(P, 2 (P - E)).
        w: [L, T, n] load of the expert in each, in mean rank loads.
        b: [L, T, G] load of the experts in other slots.
        experts: [L, R, n] 1.0 where the slot is the expert's.
        ranks: [L, n, G] 1.0 where the slot is on the rank.
    """

    def __init__(self, loads: Tensor, phy2log: Tensor, num_ranks: int) -> None:
        rows = min(loads.shape[-1], phy2log.shape[1] - loads.shape[-1])
        row = by_replicas(phy2log, loads.shape[-1])[1]
        n = rows + phy2log.shape[1] - loads.shape[-1]
        self.slots = row.sort(dim=1, stable=True).indices[:, :n]
        rank = self.slots // (phy2log.shape[1] // num_ranks)
        at = row.gather(1, self.slots)
        self.experts = (at[:, None] == torch.arange(rows, device=at.device)[:, None]).double()
        self.ranks = (rank[..., None] == torch.arange(num_ranks, device=at.device)).double()

        mean = loads.double().sum(-1).mean(0) / num_ranks
        tokens = expert_loads(loads, phy2log) / torch.where(mean > 0, mean, 1)[:, None]
        self.w = tokens.gather(-1, self.slots.expand(len(loads), -1, -1)).transpose(0, 1)
        self.b = rank_loads(tokens * (row >= rows), num_ranks).transpose(0, 1)

        self.x = (self.experts.mT @ self.experts.sum(-1, keepdim=True)).reciprocal()
        load = self._rank_loads(self.x)
        self.z = load.amax(-1, keepdim=True) + START_ROOM - load
        self.y = torch.full_like(load, 1 / load[0].numel())
        self.s = 0.5 / num_ranks * self.w.mean(1)[..., None].clamp(min=LEAST_LOAD)

    def _rank_loads(self, x: Tensor) -> Tensor:
        """[L, T, G] from shares [L, n, 1]."""
        return self.b + self.w @ (x * self.ranks)

    def mean_makespan(self, x: Tensor) -> Tensor:
        """[L, 1, 1] over the steps, in mean rank loads."""
        return self._rank_loads(x).amax(-1).mean(-1)[:, None, None]

    def newton_step(self) -> None:
        """Towards products that are a fifth of their mean, and not quite to a bound."""
        x, s, z, y, ranks = self.x, self.s, self.z, self.y, self.ranks
        gap = (x * s).sum((-1, -2)) + (z * y).sum((-1, -2))
        mean = gap / (x[0].numel() + z[0].numel())
        mu = (SHRINK * mean).clamp(min=LEAST_MU / z.shape[1])[:, None, None]
        k = y / z
        total = k.sum(-1, keepdim=True)
        wk = self.w * (k @ ranks.mT)  # [L, T, n]
        h = (wk.mT @ self.w) * (ranks @ ranks.mT) - wk.mT @ (wk / total)
        h.diagonal(dim1=-2, dim2=-1).add_((s / x)[..., 0])
        pull = mu / z - y
        pulled = pull - k * (pull.sum(-1, keepdim=True) / total)
        q = mu / x - s - self._of_slots(pulled)
        dx = self._keep_sums(h, q)
        change = self.w @ (dx * ranks)
        dz = (pull + k * change).sum(-1, keepdim=True) / total - change
        dy, ds = pull - k * dz, mu / x - s - s / x * dx
        primal, dual = step_length(dx / x, dz / z), step_length(ds / s, dy / y)
        self.x, self.z = x + primal * dx, z + primal * dz
        self.s, self.y = s + dual * ds, y + dual * dy

    def _of_slots(self, y: Tensor) -> Tensor:
        """Sum over t of ``w[t, s] y[t, g(s)]``, [L, n, 1], from prices [L, T, G]."""
        return (self.w * (y @ self.ranks.mT)).sum(1)[..., None]

    def _keep_sums(self, h: Tensor, q: Tensor) -> Tensor:
        """Dx [L, n, 1] with h dx = q + a value for each expert, such that its changes sum to 0."""
        low, _ = torch.linalg.cholesky_ex(h)
        both = torch.cat([q, self.experts.mT], -1)
        both = torch.linalg.solve_triangular(low, both, upper=False)
        free, experts = both[..., :1], both[..., 1:]
        inner, _ = torch.linalg.cholesky_ex(experts.mT @ experts)
        shift = torch.linalg.solve_triangular(inner, experts.mT @ free, upper=False)
        shift = torch.linalg.solve_triangular(inner.mT, shift, upper=True)
        dx: Tensor = torch.linalg.solve_triangular(low.mT, free - experts @ shift, upper=True)
        return dx
