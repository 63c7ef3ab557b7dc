r"""Which changes of a placement are worth trying, read off the prices of ranks.

With :math:`x_{tp}` tokens of slot p at step t and :math:`y_{tg}` the price of a token on rank g,
exchanging slots p on g and q on h lowers the mean makespan, to the second order, by about

.. math:: \frac1T \sum_t (x_{tp} - x_{tq}) (y_{tg} - y_{th})
          - \frac{\kappa}{T} \sum_t (x_{tp} - x_{tq})^2:

the prices are the makespan's slopes (linear programming duality), and the more load moves, the
further they change on the way. Both sums are matrix products over the steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.matching import count_on_ranks
from heuristics.steps.home_units import Homes
from heuristics.steps.values import Dispatched

CURVATURE = 1.0
"""kappa, with loads in mean rank loads."""
JITTER = 3e-4
"""Scale of Gumbel noise on the gains, in mean rank loads: not always the same is tried."""
RARELY = 1e-6
"""Weight of what is only tried where there is nothing else."""
GIVE = 0.125
"""Part of the moves that give a slot to another expert."""
ANYWHERE = 0.5
"""Of these, over those of an expert whose rank holds the slot's expert as well."""


def propose(
    steps: Dispatched, phy2log: Tensor, homes: Homes, number: int, generator: torch.Generator
) -> Tensor:
    """Moves [L, number, 3], as of :mod:`heuristics.steps.trials`, for placements [L, P].

    All layers have the random numbers in common, so that none depends on the others.

    Args:
        steps: under the placement.
        phy2log: the expert in each slot.
        homes: the rule ``home``; without it only slots of one node exchange experts.
        number: of moves of each layer.
        generator: of random numbers, on the CPU.
    """
    num_ranks = steps.ranks.shape[2]
    gives = int(number * GIVE) if phy2log.shape[1] > steps.loads.shape[2] else 0
    swaps = propose_swaps(steps, phy2log, homes, number - gives, generator)
    if not gives:
        return swaps
    nodes = 1 if homes else homes.num_nodes
    moves = torch.cat([swaps, propose_gives(phy2log, num_ranks, nodes, gives, generator)], 1)
    return moves[:, torch.randperm(number, generator=generator).to(moves.device)]


def propose_swaps(
    steps: Dispatched, phy2log: Tensor, homes: Homes, number: int, generator: torch.Generator
) -> Tensor:
    """Slots of ranks that hold up some step, each with the slot of most gain."""
    (layers, num_slots), (num_steps, num_ranks) = phy2log.shape, steps.ranks.shape[1:]
    slots_per_rank, device = num_slots // num_ranks, phy2log.device
    rank = torch.arange(num_slots, device=device) // slots_per_rank
    row = torch.arange(layers, device=device)[:, None]
    prices = steps.prices

    step = torch.randint(num_steps, (number,), generator=generator).to(device)
    g = choose(prices[:, step] + RARELY, number, generator)
    slot = torch.randint(slots_per_rank, (number,), generator=generator).to(device)
    p = g * slots_per_rank + slot  # [L, C]

    cost = steps.tokens.mT @ prices / num_steps  # [L, P, G] of the slot's tokens on the rank
    own = cost.gather(2, rank.expand(layers, -1)[..., None])[..., 0]  # [L, P]
    slope = own[row, p][..., None] + own[:, None] - cost[row, p][..., rank] - cost.mT[row, g]

    square = steps.tokens.square().mean(1)
    product = steps.tokens.mT[row, p] @ steps.tokens / num_steps  # [L, C, P]
    moved = square[row, p][..., None] + square[:, None] - 2 * product
    noise = uniform((number, num_slots), generator, device)
    gain = slope - CURVATURE * moved - JITTER * noise.log().neg().log()  # Gumbel's distribution

    held = on_ranks(phy2log, num_ranks, steps.loads.shape[2])  # [L, E, G]
    there = held[row, phy2log[row, p]][..., rank]  # p's expert on the rank of q
    here = held[row[..., None], phy2log[:, None], g[..., None]]  # q's expert on the rank of p
    node, bound = rank // (num_ranks // homes.num_nodes), homes.bound(phy2log)
    apart = (node != node[p][..., None]) & (bound[row, p][..., None] | bound[:, None])
    most, q = gain.masked_fill(there | here | apart, -torch.inf).max(2)
    return torch.stack([p, torch.where(most > -torch.inf, q, p), torch.full_like(p, -1)], 2)


def propose_gives(
    phy2log: Tensor, num_ranks: int, num_nodes: int, number: int, generator: torch.Generator
) -> Tensor:
    """Slots of replicated experts, each for an expert of another rank of the node: mostly of one
    that holds the same expert, and then the two ranks share that in its place.
    """
    layers, num_slots = phy2log.shape
    slots_per_rank, device = num_slots // num_ranks, phy2log.device
    row = torch.arange(layers, device=device)[:, None]
    node = torch.arange(num_slots, device=device) // (num_slots // num_nodes)
    same = (phy2log[:, :, None] == phy2log[:, None]).double()
    same.diagonal(dim1=1, dim2=2).zero_()
    shared = same.sum(2, keepdim=True).clamp(min=1)
    nearby = (node[:, None] == node) * (ANYWHERE * num_nodes / num_slots)

    p = choose((same.amax(2) + RARELY)[:, None].expand(-1, number, -1), number, generator)
    other = choose((same / shared + nearby)[row, p], number, generator)
    slot = torch.randint(slots_per_rank, (number,), generator=generator).to(device)
    expert = phy2log[row, other // slots_per_rank * slots_per_rank + slot]
    return torch.stack([p, torch.full_like(p, -1), expert], 2)


def choose(weight: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Columns [L, number] drawn by the weights [L, number, n] > 0 of each row."""
    upto = weight.cumsum(2)
    at = uniform((number, 1), generator, weight.device) * upto[..., -1:]
    return torch.searchsorted(upto, at)[..., 0].clamp(max=weight.shape[2] - 1)


def uniform(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Random numbers in (0, 1), float64, the same on every device."""
    numbers = torch.rand(shape, generator=generator, dtype=torch.float64)
    return numbers.clamp(min=torch.finfo(torch.float64).tiny).to(device)


def on_ranks(phy2log: Tensor, num_ranks: int, num_experts: int) -> Tensor:
    """[L, E, G] bool, whether the rank holds the expert."""
    return (count_on_ranks(phy2log, num_ranks, num_experts) > 0).mT
