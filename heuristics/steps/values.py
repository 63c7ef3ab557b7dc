"""Steps under optimal dispatch: tokens of slots, makespans, and the ranks that hold up a step.

Layers come first here: loads [L, T, E]. On a CPU with numba steps are dispatched by compiled pushes
(:mod:`heuristics.steps.pushes`), elsewhere by the interior-point method
(:mod:`heuristics.dispatch.interior_point`). Makespans of the first are at most 1e-5 of the mean
rank load above the optimum, of the second 4e-4 in 99 % of dispatches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.compiled import HAVE_NUMBA
from heuristics.dispatch.interior_point import SWEEPS, best_tiles
from heuristics.dispatch.slots import even_shares, expert_loads, rank_loads
from heuristics.dispatch.tiles import Tiles

CHUNK = 2**22
"""Tokens of slots that are held at once, 32 MB."""
LEVEL = 1e-4
"""Of the mean rank load: a makespan this near to it is that of level ranks."""


@dataclass
class Dispatched:
    """Steps of layers under optimal dispatch.

    Attributes:
        loads: [L, T, E] tokens of each expert.
        tokens: [L, T, P] of each slot.
        ranks: [L, T, G] of each rank.
        makespans: [L, T].
        critical: [L, T, G] bool, ranks that hold up the step: their mean load is the makespan, and
            none of it can go elsewhere. None where all ranks are level.
    """

    loads: Tensor
    tokens: Tensor
    ranks: Tensor
    makespans: Tensor
    critical: Tensor

    @property
    def prices(self) -> Tensor:
        """[L, T, G] by how much a token more on a rank raises the makespan: equal on the critical
        ranks, where they sum to 1, else 0.
        """
        return self.critical / self.critical.sum(-1, keepdim=True).clamp(min=1).double()


def use_compiled(like: Tensor) -> bool:
    """Whether compiled code works on such a tensor."""
    return HAVE_NUMBA and like.device.type == "cpu"


def dispatched(
    loads: Tensor, phy2log: Tensor, num_ranks: int, room: Tensor | None = None
) -> Dispatched:
    """The steps of loads [L, T, E] float64 for the experts in slots [L, P].

    Ranks may have ``room`` [T, G] for that many mean rank loads of the step more than others: their
    loads are told without these.
    """
    loads, phy2log = loads.contiguous(), phy2log.contiguous()
    means = loads.sum(2, keepdim=True) / num_ranks
    less = means * (means.new_zeros(num_ranks) if room is None else room)
    if use_compiled(loads):
        return _by_pushes(loads, phy2log, -less)
    return _by_interior_points(loads, phy2log, less, room)


def _by_pushes(loads: Tensor, phy2log: Tensor, ranks: Tensor) -> Dispatched:
    """``ranks`` [L, T, G]: loads of the ranks without any expert; changed in place."""
    from heuristics.steps.pushes import dispatch_all  # loads numba

    tokens = loads.new_empty(*loads.shape[:2], phy2log.shape[1])
    makespans = loads.new_empty(loads.shape[:2])
    critical = torch.empty(ranks.shape, dtype=torch.bool)
    tensors = loads, phy2log, tokens, ranks, makespans, critical
    dispatch_all(*(tensor.numpy() for tensor in tensors))
    return Dispatched(loads, tokens, ranks, makespans, critical)


def _by_interior_points(
    loads: Tensor, phy2log: Tensor, less: Tensor, room: Tensor | None
) -> Dispatched:
    """``less`` [L, T, G]: ``room`` in tokens."""
    num_experts, num_ranks, steps = loads.shape[-1], less.shape[-1], loads.transpose(0, 1)
    shares = even_shares(phy2log, num_experts).double()
    prices = None
    if phy2log.shape[1] > num_experts and num_ranks > 1:
        tiles = Tiles.of(phy2log, num_experts, num_ranks)
        parts, prices = best_tiles(steps, tiles, SWEEPS, None if room is None else room[:, None])
        shares = tiles.slots(parts).double()
    tokens = expert_loads(steps, phy2log) * shares
    ranks = rank_loads(tokens, num_ranks) - less.transpose(0, 1)
    makespans = ranks.amax(-1, keepdim=True)
    critical = ranks == makespans if prices is None else prices > prices.amax(-1, keepdim=True) / 2
    critical &= makespans > ranks.mean(-1, keepdim=True) * (1 + LEVEL)
    found = (tokens, ranks, makespans[..., 0], critical)
    return Dispatched(loads, *(each.transpose(0, 1).contiguous() for each in found))


def mean_makespans(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """[C, L] float64 of C placements of each layer, in the unit of the loads.

    Args:
        loads: [T, L, E] tokens of each expert.
        phy2log: [C, L, P] the expert in each slot.
        num_ranks: G.
    """
    chunk = max(1, CHUNK // phy2log[0].numel())
    found = [_sum_makespans(part, phy2log, num_ranks) for part in torch.split(loads, chunk)]
    return torch.stack(found).sum(0) / len(loads)


def _sum_makespans(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """[C, L]."""
    by_layer = loads.double().transpose(0, 1)
    sums = [dispatched(by_layer, each, num_ranks).makespans.sum(1) for each in phy2log]
    return torch.stack(sums)
