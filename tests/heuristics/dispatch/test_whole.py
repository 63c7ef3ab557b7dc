from __future__ import annotations

import importlib
import re
from itertools import product
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heuristics.dispatch import shares, whole
from heuristics.dispatch.slots import even_shares, rank_loads
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


def rounds(number):
    return patch.object(importlib.import_module("heuristics.dispatch.whole"), "ROUNDS", number)


def quotas(*arguments):
    with rounds(0):
        return whole(*arguments)


def one_layer(function, loads, phy2log, shares, num_ranks):
    """Of steps [T, E], placement [P] and shares [T, P] or [P]: tokens [T, P]."""
    return function(loads[:, None], phy2log[None], shares.unsqueeze(-2), num_ranks)[:, 0]


def one_layer_shares(loads, phy2log, num_ranks):
    return shares(loads[:, None], phy2log[None], num_ranks)[:, 0]


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
@settings(max_examples=30)
def test_tokens_are_served_once_and_the_makespan_is_between_the_optimum_and_the_quotas(case, most):
    phy2log, num_experts, num_ranks, generator = case
    loads = torch.randint(most + 1, (STEPS, num_experts), generator=generator)
    for some in (random_shares(phy2log, num_experts, generator), torch.zeros(len(phy2log))):
        tokens = one_layer(whole, loads, phy2log, some, num_ranks)
        assert tokens.dtype == torch.int64
        assert bool((tokens >= 0).all())
        assert torch.equal(served(tokens, phy2log, num_experts), loads)
        start = one_layer(quotas, loads, phy2log, some, num_ranks)
        found = makespans(tokens, num_ranks)
        assert bool((found <= makespans(start, num_ranks)).all())
        assert bool((found >= least_makespans(loads, phy2log, num_ranks)).all())


def ring(num_ranks, per_rank):
    """Experts ``per_rank * g ..`` on rank g, whose first one is on rank g + 1, too."""
    own = torch.arange(num_ranks * per_rank).view(num_ranks, per_rank)
    return torch.cat([own, own[:, :1].roll(1, 0)], 1).flatten()


def multinomial(tokens, num_experts, generator):
    """[STEPS, E] counts of tokens that choose any expert alike."""
    chosen = torch.randint(num_experts, (STEPS, tokens), generator=generator)
    zeros = torch.zeros(STEPS, num_experts, dtype=torch.int64)
    return zeros.scatter_add_(1, chosen, torch.ones_like(chosen))


@pytest.mark.parametrize("tokens", [128, 900, 32_768])
@pytest.mark.parametrize(("num_ranks", "per_rank"), [(8, 4), (32, 2), (16, 3)])
def test_the_best_makespan_is_met_on_rings(num_ranks, per_rank, tokens):
    """One token more on a rank has to go round the ring."""
    phy2log, num_experts = ring(num_ranks, per_rank), num_ranks * per_rank
    loads = multinomial(tokens, num_experts, torch.Generator().manual_seed(tokens))
    best = one_layer_shares(loads, phy2log, num_ranks)
    found = makespans(one_layer(whole, loads, phy2log, best, num_ranks), num_ranks)
    assert torch.equal(found, least_makespans(loads, phy2log, num_ranks))


@given(placements(), st.sampled_from([1, 3, 20, 1000]))
@settings(max_examples=30)
def test_the_best_makespan_is_met_on_small_placements(case, most):
    phy2log, num_experts, num_ranks, generator = case
    loads = torch.randint(most + 1, (STEPS, num_experts), generator=generator)
    best = one_layer_shares(loads, phy2log, num_ranks)
    found = makespans(one_layer(whole, loads, phy2log, best, num_ranks), num_ranks)
    assert torch.equal(found, least_makespans(loads, phy2log, num_ranks))


@given(placements())
@settings(max_examples=6)
def test_enough_rounds_need_no_good_shares(case):
    """Pushes alone find the best makespan: none is stuck at ties."""
    phy2log, num_experts, num_ranks, generator = case
    loads = torch.randint(30, (STEPS, num_experts), generator=generator)
    bad = random_shares(phy2log, num_experts, generator)
    with rounds(300):
        found = makespans(one_layer(whole, loads, phy2log, bad, num_ranks), num_ranks)
    assert torch.equal(found, least_makespans(loads, phy2log, num_ranks))


def test_full_ranks_in_a_row_pass_a_token_on():
    """Ranks with 10, 9 and 8 tokens: no single move is an improvement, two are."""
    phy2log = torch.tensor([0, 1, 1, 2, 2, 3])
    loads = torch.tensor([[5, 9, 9, 4]])
    shares = torch.tensor([1, 5 / 9, 4 / 9, 5 / 9, 4 / 9, 1])
    tokens = whole(loads, phy2log[None], shares[None], 3)
    assert rank_loads(tokens, 3).tolist() == [[9, 9, 9]]


def test_layers_and_steps_do_not_see_each_other():
    generator = torch.Generator().manual_seed(0)
    phy2log = torch.stack([ring(4, 2), ring(4, 2).roll(5), torch.arange(12) % 8])
    loads = torch.randint(100, (2, 5, 3, 8), generator=generator)
    parts = random_shares(phy2log[0], 8, generator)[0]
    shares = torch.stack([parts, parts.roll(5), even_shares(phy2log[2:], 8)[0]])
    tokens = whole(loads, phy2log, shares, 4)
    one_by_one = [
        whole(loads[i, j, k : k + 1], phy2log[k : k + 1], shares[k : k + 1], 4)
        for i, j, k in product(range(2), range(5), range(3))
    ]
    assert torch.equal(tokens, torch.cat(one_by_one).view_as(tokens))
    assert torch.equal(tokens, whole(loads.float(), phy2log, shares.expand(2, 5, 3, 12), 4))


def test_no_steps_and_one_slot_for_each_expert():
    phy2log = torch.tensor([[2, 0, 1]])
    assert whole(torch.tensor([[4, 5, 6]]), phy2log, torch.ones(1, 3), 3).tolist() == [[6, 4, 5]]
    several = torch.tensor([[0, 1, 0, 1]])
    none = whole(torch.zeros(0, 1, 2), several, torch.zeros(0, 1, 4), 2)
    assert none.shape == (0, 1, 4)
    assert none.dtype == torch.int64


def test_shares_of_another_shape_are_refused():
    expected = "shares [1, 3]: give those of each slot, [5, 1, 4], or one for all steps, [1, 4]"
    with pytest.raises(ValueError, match=re.escape(expected)):
        whole(torch.ones(5, 1, 2), torch.tensor([[0, 1, 0, 1]]), torch.ones(1, 3), 2)
