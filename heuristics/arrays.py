"""Steps that numpy does several times faster than torch on a CPU, elsewhere torch does them; and
random numbers made where they are used.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor


def native(tensor: Tensor) -> Any:
    """A numpy view of a CPU tensor, the tensor itself elsewhere.

    The loops over replicas take one small step each. They use only what both kinds of array
    understand; on a CPU a numpy step costs half of a torch step, on other devices the tensor must
    stay where it is.
    """
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def argmin_rows(values: Tensor) -> Tensor:
    """The column of the least value of each row, [n] int64 from [n, m]; on a CPU the first of
    equals.
    """
    return torch.as_tensor(native(values).argmin(1))


def sort_rows(values: Tensor) -> Tensor:
    """The values of each row in ascending order."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return torch.sort(values, dim=1).values


MASK = 2**64 - 1
STEP = 0x9E3779B97F4A7C15
"""Between two states: 2^64 over the golden ratio, odd."""
FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)


def uniform(shape: tuple[int, ...], seed: tuple[int, ...], like: Tensor) -> Tensor:
    """Random numbers in [0, 1) with the dtype, float32 or float64, and on the device of ``like``.

    Number ``i`` is a hash of the seed and ``i``, in integers: no state, no copy from the host, and
    the same numbers on every device. Those in float32 are the leading 24 bits of those in float64,
    which have 53. A seed is a few integers, for instance (seed of a search, trial, which draw).

    With ``mix(z)`` = a shift to the right, exclusive or, and a product modulo 2^64, twice, then a
    shift and exclusive or, number i is ``mix(key + (i + 1) STEP)``; the key is the same hash of the
    seed's integers, one after the other.

    Reference: SplitMix64; Steele, Lea and Flood, OOPSLA 2014.
    """
    key = 0
    for number in seed:
        key = _mix(key + (number + 1) * STEP & MASK)
    # As Tensor operations, where int64 wraps around as unsigned integers do.
    z = torch.arange(1, prod(shape) + 1, device=like.device).mul_(_signed(STEP)).add_(_signed(key))
    for shift, factor in zip(SHIFTS, FACTORS, strict=False):
        z.bitwise_xor_(_shift_right(z, shift)).mul_(_signed(factor))
    z.bitwise_xor_(_shift_right(z, SHIFTS[-1]))
    bits = 53 if like.dtype == torch.float64 else 24
    return _shift_right(z, 64 - bits).to(like.dtype).mul_(2.0**-bits).view(shape)


def _mix(z: int) -> int:
    for shift, factor in zip(SHIFTS, FACTORS, strict=False):
        z = (z ^ z >> shift) * factor & MASK
    return z ^ z >> SHIFTS[-1]


def _signed(number: int) -> int:
    """The int64 with the bits of an unsigned number below 2^64."""
    return number - 2**64 if number >= 2**63 else number


def _shift_right(z: Tensor, by: int) -> Tensor:
    """``z >> by`` with zeros shifted in."""
    return z.bitwise_right_shift(by).bitwise_and_(2 ** (64 - by) - 1)
