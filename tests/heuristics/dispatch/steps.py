"""Steps on small placements, and what the exact side says of them."""

import torch
from hypothesis import strategies as st

from eplb_opt import Instance, Topology
from heuristics.dispatch.slots import expert_loads, rank_loads
from solvers.dispatch import value
from solvers.dispatch.classes import classes_of, holders
from solvers.dispatch.optimal import optimal_makespans


def makespans(loads, phy2log, shares, num_ranks):
    """[..., L] in float64."""
    return rank_loads(expert_loads(loads.double(), phy2log) * shares, num_ranks).amax(-1)


def optima(loads, phy2log, num_ranks):
    """[T, L] of loads [T, L, E] in integers, by max-flow."""
    best = []
    for steps, slots in zip(loads.unbind(1), phy2log.tolist(), strict=True):
        held = holders(slots, loads.shape[-1], num_ranks)
        found = optimal_makespans(classes_of(steps.numpy(), held))
        best.append(torch.tensor([float(m) for m in found.values], dtype=torch.float64))
    return torch.stack(best, 1)


def least_mean(loads, slots, num_ranks):
    """Of one layer's steps [T, E], by a linear program: a bound for all fixed shares."""
    layer = Instance(loads[:, None].numpy(), Topology(len(slots), num_ranks)).layer(0)
    return float(value(layer, tuple(slots.tolist()), "mean", "fixed").bound)


def ring(num_ranks, per_rank=2):
    """[1, P] experts in order, the first of each rank also on the next rank."""
    own = torch.arange(num_ranks * per_rank).view(num_ranks, per_rank)
    return torch.cat([own, own[:, :1].roll(1, 0)], 1).view(1, -1)


def served(shares, phy2log, num_experts):
    """[..., E] the sum of the shares of each expert's slots."""
    index = phy2log.expand_as(shares)
    zeros = shares.new_zeros(*shares.shape[:-1], num_experts)
    return zeros.scatter_add(-1, index, shares)


@st.composite
def dispatches(draw):
    """Loads [T, L, E], phy2log [L, P] and the number of ranks.

    Copies on one rank, experts without load, steps without load, one rank and P = E among them.
    """
    num_ranks, per_rank = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    num_slots = num_ranks * per_rank
    num_experts = draw(st.integers(1, num_slots))
    layers, steps = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    exponent = draw(st.sampled_from([0.0, 2.0, 8.0]))
    shape = (steps, layers, num_experts)
    loads = (10 * (exponent * torch.randn(shape, generator=generator)).exp()).clamp(max=1e9)
    busy = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.5, 1.0]))
    more = torch.randint(num_experts, (layers, num_slots - num_experts), generator=generator)
    slots = torch.cat([torch.arange(num_experts).expand(layers, -1), more], 1)
    shuffled = torch.rand(layers, num_slots, generator=generator).argsort(1)
    return loads.long() * busy, slots.gather(1, shuffled), num_ranks
