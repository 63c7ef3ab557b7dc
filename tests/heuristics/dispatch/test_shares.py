"""The best shares of every step, against max-flow."""

import pytest
import torch
from hypothesis import given, settings

from heuristics.dispatch import shares
from heuristics.dispatch.slots import even_shares
from tests.heuristics.dispatch.steps import dispatches, makespans, optima, ring, served
from tests.heuristics.loads import lognormal

MANY = 40
NEAR = 1e-6
"""Relative: shares are float32."""


@settings(max_examples=60)
@given(dispatches())
def test_shares_are_valid_and_between_the_optimum_and_even_shares(case):
    loads, phy2log, num_ranks = case
    found = shares(loads, phy2log, num_ranks)
    even = even_shares(phy2log, loads.shape[-1])
    best, mean = optima(loads, phy2log, num_ranks), loads.double().sum(-1) / num_ranks
    makespan = makespans(loads, phy2log, found, num_ranks)
    assert found.shape == (*loads.shape[:-1], phy2log.shape[1])
    assert (found >= 0).all()
    assert torch.allclose(served(found, phy2log, loads.shape[-1]), torch.ones(()), atol=1e-6)
    assert (makespan >= best * (1 - NEAR)).all()
    assert (makespan <= makespans(loads, phy2log, even, num_ranks) * (1 + NEAR)).all()
    assert (makespan <= best + 0.002 * mean).all()
    idle = loads.gather(-1, phy2log.expand(*loads.shape[:-1], -1)) == 0
    assert torch.equal(found[idle], even.expand_as(found)[idle])


@settings(max_examples=25)
@given(dispatches())
def test_many_sweeps_reach_the_optimum_and_no_sweep_raises_the_makespan(case):
    loads, phy2log, num_ranks = case
    mean = loads.double().sum(-1) / num_ranks
    last = torch.full_like(mean, torch.inf)
    for sweeps in (0, 1, 2, 4, MANY):
        found = shares(loads, phy2log, num_ranks, sweeps=sweeps)
        makespan = makespans(loads, phy2log, found, num_ranks)
        assert (makespan <= last * (1 + NEAR)).all()
        last = makespan
    assert (last <= optima(loads, phy2log, num_ranks) + 1e-5 * mean).all()


@settings(max_examples=15)
@given(dispatches())
def test_a_batch_is_its_parts_in_any_memory_layout(case):
    loads, phy2log, num_ranks = case
    found = shares(loads, phy2log, num_ranks)
    assert torch.equal(found, shares(loads, phy2log, num_ranks))
    strided = loads.transpose(0, 2).contiguous().transpose(0, 2)
    columns = phy2log.T.contiguous().T
    assert torch.allclose(found, shares(strided, columns, num_ranks), atol=1e-5)
    for step, row in zip(loads, found, strict=True):
        assert torch.allclose(row, shares(step, phy2log, num_ranks), atol=1e-5)
    for layer in range(len(phy2log)):
        alone = shares(loads[:, layer : layer + 1], phy2log[layer : layer + 1], num_ranks)
        assert torch.allclose(found[:, layer : layer + 1], alone, atol=1e-5)


@pytest.mark.parametrize("num_ranks", [3, 8, 32, 72])
def test_rings_reach_their_optimum(num_ranks):
    phy2log = ring(num_ranks)
    for sigma in (0.2, 1.0):
        loads = (1000 * lognormal(4, 1, 2 * num_ranks, sigma=sigma, seed=num_ranks)).long()
        makespan = makespans(loads, phy2log, shares(loads, phy2log, num_ranks), num_ranks)
        mean = loads.double().sum(-1) / num_ranks
        assert (makespan <= optima(loads, phy2log, num_ranks) + 0.001 * mean).all()


def test_one_expert_on_33_ranks_and_copies_on_one_rank():
    slots = torch.tensor([0] * 34 + list(range(1, 33)) + [0, 0]).view(34, 2)
    slots = torch.cat([torch.zeros(34, 1, dtype=torch.int64), slots.T.reshape(34, 2)], 1)
    loads = lognormal(5, 1, 33, sigma=1.0, seed=0) * 1000
    loads[..., 0] *= 200
    phy2log = slots.view(1, -1)
    found = shares(loads.long(), phy2log, 34)
    best = optima(loads.long(), phy2log, 34)
    assert (makespans(loads.long(), phy2log, found, 34) <= best * 1.001).all()
    by_rank, same = found.view(5, 34, 3), slots == 0
    for rank in range(34):
        copies = by_rank[:, rank, same[rank]]
        assert torch.equal(copies, copies[:, :1].expand_as(copies))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_unit_of_loads_does_not_matter(scale, dtype):
    phy2log = ring(8)
    loads = lognormal(4, 1, 16, sigma=1.5, seed=3)
    expected = shares(loads, phy2log, 8)
    assert torch.allclose(shares((loads * scale).to(dtype), phy2log, 8), expected, atol=1e-4)


def test_a_huge_range_of_loads():
    loads = torch.tensor([[[1e12, 1.0, 0.0, 1e-6, 1e12, 3.0]]], dtype=torch.float64)
    phy2log = torch.tensor([[0, 1, 2, 0, 3, 4, 4, 5, 1]])
    found = shares(loads, phy2log, 3, sweeps=MANY)
    makespan = makespans(loads, phy2log, found, 3)
    assert torch.isclose(makespan, torch.tensor(2e12 / 3, dtype=torch.float64), rtol=1e-5)


def test_nothing_to_decide_is_even():
    loads = torch.arange(6.0).view(1, 6)
    assert torch.equal(shares(loads, torch.arange(6).view(1, 6), 3), torch.ones(1, 6))
    one_rank = torch.tensor([[0, 1, 2, 3, 4, 5, 5]])
    assert torch.equal(shares(loads, one_rank, 1), even_shares(one_rank, 6))
    assert shares(loads.new_zeros(0, 1, 6), ring(3), 3).shape == (0, 1, 9)
    assert torch.equal(shares(loads * 0, ring(3), 3), even_shares(ring(3), 6))


@pytest.mark.parametrize(
    ("loads", "phy2log", "num_ranks", "sweeps", "message"),
    [
        (torch.ones(2, 6), ring(3), 3, 6, "give loads"),
        (torch.ones(6), ring(3), 3, 6, "give loads"),
        (torch.ones(1, 6), ring(3)[0], 3, 6, "give loads"),
        (torch.ones(1, 6), ring(3), 4, 6, "num_ranks=4 does not divide 9 slots"),
        (torch.ones(1, 6), ring(3), 0, 6, "num_ranks=0"),
        (torch.ones(1, 10), ring(3), 3, 6, "9 slots for 10 experts"),
        (torch.ones(1, 6), ring(3), 3, -1, "sweeps=-1"),
    ],
)
def test_bad_arguments_say_what_is_wrong(loads, phy2log, num_ranks, sweeps, message):
    with pytest.raises(ValueError, match=message):
        shares(loads, phy2log, num_ranks, sweeps=sweeps)
