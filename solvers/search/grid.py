"""Loads per replica as 64-bit integers: exactly where a common multiple of the counts fits, else rounded down.

Rounding down every replica can only lower a rank sum. So what is proven impossible on the grid is
impossible, and a lower bound of the grid is one of the layer; values of placements are recomputed exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.instance import Layer

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Grid:
    """``size[e, k] = floor(loads[e] * scale / k)``, the load of one of ``k`` replicas; column 0 is unused.

    Attributes:
        size: [E, X + 1] int64.
        scale: steps of the grid per unit of load.
        unit: tokens per unit of load.
        exact: no size was rounded.
    """

    size: Integers
    scale: Fraction
    unit: Fraction
    exact: bool

    def tokens(self, steps: int) -> Fraction:
        """What ``steps`` of the grid are worth."""
        return steps / self.scale * self.unit

    def steps_not_below(self, tokens: Fraction) -> int:
        """The least number of steps worth at least ``tokens``: where a bound of the layer lies."""
        return math.ceil(tokens / self.unit * self.scale)


def make_grid(layer: Layer, choices: Sequence[int]) -> Grid:
    """The grid for counts among ``choices``; exact if their least common multiple leaves room in 64 bits."""
    room = 2**61 // layer.topology.num_ranks
    total = max(1, sum(layer.loads))
    common = math.lcm(*choices)
    exact = total * common <= room
    power = room.bit_length() - total.bit_length() - 1
    scale = Fraction(common) if exact else Fraction(2) ** power
    size = np.zeros((len(layer.loads), max(choices) + 1), np.int64)
    for e, load in enumerate(layer.loads):
        size[e, 1:] = [load * scale // k for k in range(1, max(choices) + 1)]
    return Grid(size, scale, layer.unit, exact)
