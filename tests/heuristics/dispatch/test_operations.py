"""No step of a dispatcher waits for the device, whatever the loads are."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from heuristics.dispatch import shares
from tests.heuristics.dispatch.operations import Operations, functions

PHY2LOG = torch.tensor([[0, 1, 2, 3, 0, 0, 1, 4], [4, 3, 2, 1, 0, 4, 2, 4]])


def loads(steps: int, scale: float) -> Tensor:
    rng = torch.Generator().manual_seed(steps)
    return (scale * torch.rand(steps, 2, 5, generator=rng)).long()


@pytest.mark.parametrize("name", functions(loads(1, 9), PHY2LOG, 4))
def test_no_host_synchronization(name: str):
    numbers = []
    for given in loads(3, 9), loads(3, 0), loads(3, 5000):
        function = functions(given, PHY2LOG, 4)[name]
        with Operations() as operations:
            function()
        numbers.append(operations.counts)
    assert numbers[0] == numbers[1] == numbers[2], "the operations depend on the loads"


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 1],
        lambda x: torch.equal(x, x),
        lambda x: x.long().flatten().bincount(),
        lambda x: bool((x > 1).all()),
    ],
)
def test_what_waits_is_noticed(waits: Callable[[Tensor], object]):
    with pytest.raises(AssertionError, match="waits for the device"), Operations():
        waits(loads(1, 9))


def test_equal_loads_give_equal_bits():
    given = loads(3, 50)
    assert torch.equal(shares(given, PHY2LOG, 4), shares(given.clone(), PHY2LOG, 4))
