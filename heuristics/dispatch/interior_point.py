r"""The best shares of a step: as light a fullest rank as sharing can give.

Expert r with load :math:`w_r` has replicas on several ranks g, rank g further load :math:`b_g`. Of

.. math:: \min M, \quad \sum_g x_{rg} = w_r, \quad b_g + \sum_r x_{rg} + z_g = M, \quad x, z \ge 0,

the dual has a price :math:`y_g \ge 0` for a token on rank g, :math:`\sum_g y_g = 1`, and a value
:math:`v_r` for a token of expert r, at most the price of any of its ranks: :math:`s_{rg} = y_g -
v_r \ge 0`. At the optimum all products :math:`x s` and :math:`z y` are 0. A *sweep* is one step of
Newton's method towards :math:`x s = z y = \mu`, with a :math:`\mu` that falls by a factor of 5
(primal-dual path following: Wright, Primal-Dual Interior-Point Methods, SIAM 1997). With :math:`d =
x / s` and experts eliminated by hand, the step's linear system is one of G ranks,

.. math:: H = \operatorname{diag}(z / y) + \operatorname{diag}(\textstyle\sum_r d_{rg})
          - \Big(\sum_r d_{rg} d_{rh} / \sum_k d_{rk}\Big)_{gh},

a Laplacian of the ranks plus a positive diagonal: two ranks are linked by the experts they share.
Every sweep is a fixed number of tensor operations on all layers and steps, in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.dispatch.slots import check, even_shares
from heuristics.dispatch.tiles import Tiles

SWEEPS = 7
"""Within 0.04 % of the mean rank load of the optimum in 99 % of dispatches (docs/results)."""
SHRINK = 0.2
"""Of mu, in each sweep."""
STAY_INSIDE = 0.98
"""Of the way to the nearest bound is gone at most."""
LEAST_LOAD = 1e-9
"""Of an expert, in mean rank loads: an expert without load has no inside."""
LEAST_MU = 1e-10
"""In mean rank loads; below, rounding errors are larger."""
START_ROOM = 0.05
"""On the fullest rank, in mean rank loads."""
CHUNK = 2**16
"""Elements of a tensor that are worked on at once, 0.5 MB: what a processor's cache holds. On other
devices 64 times as many.
"""


def shares(loads: Tensor, phy2log: Tensor, num_ranks: int, *, sweeps: int = SWEEPS) -> Tensor:
    """The part of its expert's tokens that each slot serves, [..., L, P] float32.

    The fullest rank is never fuller than with even shares, and more sweeps never make it fuller.
    Replicas of one expert on one rank have equal shares, an expert without load has even ones.
    No host synchronization; equal input gives equal bits.

    Args:
        loads: [..., L, E] tokens of each expert, of any steps; floating point or integers.
        phy2log: [L, P] the expert in each slot; every expert has a slot.
        num_ranks: G; P / G neighbouring slots are a rank.
        sweeps: steps of Newton's method; 0 gives even shares.

    Raises:
        ValueError: shapes that do not fit, or a negative number of sweeps.

    Example:
        >>> loads, phy2log = torch.tensor([[6, 2, 1]]), torch.tensor([[0, 1, 0, 2]])
        >>> shares(loads, phy2log, num_ranks=2)  # 2.5 + 2 and 3.5 + 1 tokens
        tensor([[0.4167, 1.0000, 0.5833, 1.0000]])
    """
    check(loads, phy2log, num_ranks)
    check_sweeps(sweeps)
    num_experts = loads.shape[-1]
    even = even_shares(phy2log, num_experts).expand(*loads.shape[:-1], -1)
    if sweeps == 0 or num_ranks == 1 or phy2log.shape[1] == num_experts or not loads.numel():
        return even.clone()
    tiles = Tiles.of(phy2log, num_experts, num_ranks)
    steps = loads.reshape(-1, *loads.shape[-2:])
    elements = CHUNK if loads.device.type == "cpu" else 64 * CHUNK
    chunk = max(1, elements // tiles.copies.numel())
    found = [tiles.slots(best_tiles(part, tiles, sweeps)[0]) for part in torch.split(steps, chunk)]
    return torch.cat(found).view_as(even)


def check_sweeps(sweeps: int) -> None:
    """Raises ValueError for a negative number."""
    if sweeps < 0:
        raise ValueError(f"sweeps={sweeps} is negative: 0 gives even shares")


def best_tiles(
    loads: Tensor, tiles: Tiles, sweeps: int, room: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Shares [T, L, R, G] of the replicated experts at each rank, from loads [T, L, E]; and the
    price of a token on each rank [T, L, G] after the last sweep.

    Ranks may have ``room`` [T, L, G] for that many mean rank loads more than others.
    """
    load, base = tiles.split(loads)
    if room is not None:
        base = base - room
    best, least = tiles.even.expand(len(loads), -1, -1, -1), _makespan(load, base, tiles.even)
    point = _Point(load, base, tiles)
    for _ in range(sweeps):
        point.newton_step()
        now = point.x / point.x.sum(-1, keepdim=True)
        makespan = _makespan(load, base, now)
        better = makespan < least
        best = torch.where(better, now, best)
        least = torch.where(better, makespan, least)
    return torch.where(load > 0, best, tiles.even), point.y[..., 0]


def _makespan(load: Tensor, base: Tensor, part: Tensor) -> Tensor:
    """[T, L, 1, 1] from loads [T, L, R, 1], of ranks [T, L, G], and shares [T, L, R, G]."""
    return (base + (load * part).sum(-2)).amax(-1, keepdim=True)[..., None]


class _Point:
    """An inner point: ``x, s [T, L, R, G]``, ``z, y [T, L, G, 1]``, all positive.

    Where a rank has no replica of the expert x is 0 and s any positive number.
    """

    def __init__(self, load: Tensor, base: Tensor, tiles: Tiles) -> None:
        num_ranks = base.shape[-1]
        self.open = (tiles.even > 0).double()
        self.x = load.clamp(min=LEAST_LOAD) * tiles.even
        ranks = base + self.x.sum(-2)
        self.z = (ranks.amax(-1, keepdim=True) + START_ROOM - ranks)[..., None]
        self.y = torch.full_like(self.z, 1 / num_ranks)
        self.s = torch.full_like(self.x, 0.5 / num_ranks)
        self.pairs = self.open.sum((-1, -2))[..., None, None] + num_ranks

    def newton_step(self) -> None:
        """Towards products that are a fifth of their mean, and not quite to a bound."""
        x, s, z, y = self.x, self.s, self.z, self.y
        mean = ((x * s).sum((-1, -2), keepdim=True) + (z * y).sum(-2, keepdim=True)) / self.pairs
        mu = (SHRINK * mean).clamp(min=LEAST_MU)
        d, slack = x / s, z / y
        total = d.sum(-1, keepdim=True)
        part = d / total
        q = mu / s * self.open - x
        over = q.sum(-1, keepdim=True)
        right = mu / y - z + (q - part * over).sum(-2)[..., None]
        dy = _prices(d, part, slack, right)
        across = dy.transpose(-1, -2)  # [T, L, 1, G]
        dv = (part * across).sum(-1, keepdim=True) - over / total
        ds = (across - dv) * self.open
        dx, dz = q - d * ds, mu / y - z - slack * dy
        primal = step_length(dx / (x + 1 - self.open), dz / z)
        dual = step_length(ds / s, dy / y)
        self.x, self.z = x + primal * dx, z + primal * dz
        self.s, self.y = s + dual * ds, y + dual * dy


def _prices(d: Tensor, part: Tensor, slack: Tensor, right: Tensor) -> Tensor:
    """Changes of prices [T, L, G, 1]: H dy + dM = right, where dM is such that they sum to 0.

    The diagonal of H is summed from what else is in the row, so that the slack is not lost in
    rounding and H stays positive definite.
    """
    h = -part.transpose(-1, -2) @ d
    diagonal = h.diagonal(dim1=-2, dim2=-1)
    diagonal.zero_()
    diagonal.copy_(slack[..., 0] - h.sum(-1))
    low, _ = torch.linalg.cholesky_ex(h)
    both = torch.cat([right, torch.ones_like(right)], -1)
    both = torch.linalg.solve_triangular(low, both, upper=False)
    free, ones = both[..., :1], both[..., 1:]
    shift = (free * ones).sum(-2, keepdim=True) / (ones * ones).sum(-2, keepdim=True)
    dy: Tensor = torch.linalg.solve_triangular(low.mT, free - shift * ones, upper=True)
    return dy


def step_length(one: Tensor, other: Tensor) -> Tensor:
    """[..., 1, 1] of a step that would change numbers [..., i, j] by these parts of themselves.

    At most 1, and so that none shrinks by more than STAY_INSIDE.
    """
    least = torch.minimum(one.amin((-1, -2)), other.amin((-1, -2)))[..., None, None]
    return -STAY_INSIDE / least.clamp(max=-STAY_INSIDE)
