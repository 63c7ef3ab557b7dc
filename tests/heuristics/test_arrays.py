from __future__ import annotations

import pytest
import torch

from heuristics.arrays import MASK, STEP, uniform
from tests.heuristics.posing import on_device


def split_mix(state: int) -> int:
    z = state & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def test_random_numbers_are_those_of_splitmix64():
    key = split_mix(split_mix(6 * STEP) + 3 * STEP)
    expected = [(split_mix(key + i * STEP) >> 11) / 2**53 for i in range(1, 13)]
    assert split_mix(STEP) == 0xE220A8397B1DCDAF  # the published first number of seed 0
    doubles = uniform((3, 4), (5, 2), torch.empty(0, dtype=torch.float64))
    assert doubles.flatten().tolist() == expected
    floats = uniform((12,), (5, 2), torch.empty(0))
    assert floats.tolist() == [int(x * 2**24) / 2**24 for x in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_numbers_are_even_and_those_of_neighbouring_seeds_independent(dtype):
    number, like = 4096, torch.empty(0, dtype=dtype)
    seeds = [(seed, draw) for seed in range(8) for draw in range(8)]
    x = torch.stack([uniform((number,), seed, like) for seed in seeds]).double()
    assert 0 <= x.min() < 1e-4
    assert 1 - 1e-4 < x.max() < 1
    deviation = number**-0.5  # of each figure below, if numbers were independent
    assert (x.mean(1) - 0.5).abs().max() < 5 * deviation * 12**-0.5
    correlation = torch.corrcoef(torch.cat([x, x.roll(1, 1), x.roll(2, 1)])).fill_diagonal_(0)
    assert correlation.abs().max() < 5 * deviation
    filled = (x * 64).long().flatten().bincount(minlength=64).double() / x.numel()
    assert (filled * 64 - 1).abs().max() < 5 * (64 / x.numel()) ** 0.5


def test_random_numbers_are_made_on_the_device_and_the_same_there():
    found, device = on_device(lambda x: uniform((2, 3), (1, 4), x), torch.empty(0))
    assert not device.copies
    assert torch.equal(found, uniform((2, 3), (1, 4), torch.empty(0)))
