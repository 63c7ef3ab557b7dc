from __future__ import annotations

import importlib
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heuristics.dispatch.slots import even_shares, rank_loads
from heuristics.dispatch.whole import whole
from solvers.dispatch.classes import classes_of, holders
from solvers.dispatch.optimal import optimal_makespans

STEPS = 8


def least_makespans(loads, phy2log, num_ranks):
    """ceil(optimum) of steps [T, E] on one placement [P]."""
    held = holders(phy2log.tolist(), loads.shape[1], num_ranks)
    found = optimal_makespans(classes_of(loads.numpy(), held))
    return torch.from_numpy(-(-found.loads // found.critical.sum(1)))


def makespans(tokens, num_ranks):
    return rank_loads(tokens, num_ranks).amax(-1)


def served(tokens, phy2log, num_experts):
    """[..., E] the tokens of each expert over its slots [..., P]."""
    zeros = tokens.new_zeros(*tokens.shape[:-1], num_experts)
    return zeros.scatter_add(-1, phy2log.expand_as(tokens), tokens)


def quotas(*arguments):
    with patch.object(importlib.import_module("heuristics.dispatch.whole"), "ROUNDS", 0):
        return whole(*arguments)


def one_layer(function, loads, phy2log, shares, num_ranks):
    """Of steps [T, E], placement [P] and shares [T, P] or [P]: tokens [T, P]."""
    return function(loads[:, None], phy2log[None], shares.unsqueeze(-2), num_ranks)[:, 0]


def random_shares(phy2log, num_experts, generator):
    parts = torch.rand(STEPS, len(phy2log), generator=generator).pow(4) + 1e-9
    return parts / served(parts, phy2log, num_experts)[:, phy2log]


@st.composite
def placements(draw):
    """Experts in slots [P], every expert at least once, their number, and the number of ranks."""
    num_ranks, per_rank = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    num_slots = num_ranks * per_rank
    num_experts = draw(st.integers(1, num_slots))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    more = torch.randint(num_experts, (num_slots - num_experts,), generator=generator)
    slots = torch.cat([torch.arange(num_experts), more])
    return slots[torch.randperm(num_slots, generator=generator)], num_experts, num_ranks, generator


@given(placements(), st.sampled_from([0, 1, 3, 20, 1000, 2**40]))
@settings(max_examples=60)
def test_tokens_are_served_once_and_the_makespan_is_between_the_optimum_and_the_quotas(case, most):
    phy2log, num_experts, num_ranks, generator = case
    loads = torch.randint(most + 1, (STEPS, num_experts), generator=generator)
    for shares in (random_shares(phy2log, num_experts, generator), torch.zeros(len(phy2log))):
        tokens = one_layer(whole, loads, phy2log, shares, num_ranks)
        assert tokens.dtype == torch.int64
        assert bool((tokens >= 0).all())
        assert torch.equal(served(tokens, phy2log, num_experts), loads)
        start = one_layer(quotas, loads, phy2log, shares, num_ranks)
        found = makespans(tokens, num_ranks)
        assert bool((found <= makespans(start, num_ranks)).all())
        assert bool((found >= least_makespans(loads, phy2log, num_ranks)).all())


def ring(num_ranks, per_rank):
    """Experts ``per_rank * g ..`` on rank g, whose first one is on rank g + 1, too."""
    own = torch.arange(num_ranks * per_rank).view(num_ranks, per_rank)
    return torch.cat([own, own[:, :1].roll(1, 0)], 1).flatten()


@pytest.mark.parametrize("tokens", [128, 900, 33_000])
@pytest.mark.parametrize(("num_ranks", "per_rank"), [(8, 4), (32, 1), (16, 3)])
def test_the_best_makespan_is_met_on_rings(num_ranks, per_rank, tokens):
    """From shares that are even but for the first experts, whose tokens fill the ranks in a row."""
    phy2log = ring(num_ranks, per_rank)
    generator = torch.Generator().manual_seed(tokens)
    E = num_ranks * per_rank
    drawn = torch.randint(E, (STEPS, tokens), generator=generator)
    loads = torch.zeros(STEPS, E, dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))
    shares = even_shares(phy2log[None], E)[0]
    tokens_of_slots = one_layer(whole, loads, phy2log, shares, num_ranks)
    print(makespans(tokens_of_slots, num_ranks) - least_makespans(loads, phy2log, num_ranks))
