"""One set of shares for all steps, against a linear program."""

import pytest
import torch
from hypothesis import given, settings

from heuristics.dispatch import fixed_shares, shares
from heuristics.dispatch.slots import even_shares
from tests.heuristics.dispatch.steps import dispatches, least_mean, makespans, ring, served
from tests.heuristics.loads import lognormal


@settings(max_examples=30)
@given(dispatches())
def test_fixed_shares_are_valid_and_between_the_optimum_and_even_shares(case):
    loads, phy2log, num_ranks = case
    found, even = fixed_shares(loads, phy2log, num_ranks), even_shares(phy2log, loads.shape[-1])
    mean = loads.double().sum(-1).mean(0) / num_ranks
    cost = makespans(loads, phy2log, found, num_ranks).mean(0)
    best = [
        least_mean(steps, slots, num_ranks)
        for steps, slots in zip(loads.unbind(1), phy2log, strict=True)
    ]
    assert (found >= 0).all()
    assert torch.allclose(served(found, phy2log, loads.shape[-1]), torch.ones(()), atol=1e-6)
    assert (cost <= makespans(loads, phy2log, even, num_ranks).mean(0) * (1 + 1e-6)).all()
    assert (cost >= torch.tensor(best) * (1 - 1e-6)).all()
    assert (cost <= torch.tensor(best) + 0.002 * mean).all()
    idle = (loads == 0).all(0).gather(1, phy2log)
    assert torch.equal(found[idle], even[idle])


def test_of_one_step_they_are_the_shares_of_the_step():
    loads = lognormal(1, 3, 16, sigma=1.0, seed=1)
    phy2log = ring(8).expand(3, -1)
    fixed, free = fixed_shares(loads, phy2log, 8), shares(loads[0], phy2log, 8)
    costs = [makespans(loads[0], phy2log, found, 8) for found in (fixed, free)]
    assert torch.allclose(*costs, rtol=1e-3)


def test_nothing_to_decide_is_even():
    loads = torch.arange(12.0).view(2, 1, 6)
    assert torch.equal(fixed_shares(loads, torch.arange(6).view(1, 6), 3), torch.ones(1, 6))
    assert torch.equal(fixed_shares(loads[:0], ring(3), 3), even_shares(ring(3), 6))
    assert torch.equal(fixed_shares(loads * 0, ring(3), 3), even_shares(ring(3), 6))
    assert torch.equal(fixed_shares(loads, ring(3), 3), fixed_shares(loads, ring(3), 3))


def test_bad_arguments_say_what_is_wrong():
    with pytest.raises(ValueError, match="give the steps"):
        fixed_shares(torch.ones(1, 6), ring(3), 3)
