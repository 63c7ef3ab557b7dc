"""Integer loads for solvers that know only 64-bit integers.

A replica of e weighs ``w_e / k``, a rational. In multiples of ``layer.unit * gcd(w) /
lcm(counts)`` all of them are integers, and nothing is lost. Where these integers would be too
large, a coarser unit is taken and every replica is rounded *down*: a makespan that no placement of
the lighter replicas reaches, no placement of the true ones reaches, so a lower bound proven on the
integers is a lower bound of the real problem. The value of a placement is never read off the
integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from eplb_opt.problem.layer import Layer
from solvers.arrays import Integers
from solvers.model_size import require_table

LARGEST_SUM = 2**50
"""All replicas of a placement together weigh at most this much in scaled units: room for a
solver's own sums.
"""


@dataclass(frozen=True)
class Scale:
    """Integers that stand for multiples of ``unit`` tokens.

    Attributes:
        unit: tokens per integer step.
        exact: True if every replica load is a multiple of ``unit``.
    """

    unit: Fraction
    exact: bool

    def down(self, tokens: Fraction) -> int:
        """The largest integer whose value is at most ``tokens``."""
        return math.floor(tokens / self.unit)

    def up(self, tokens: Fraction) -> int:
        """The smallest integer whose value is at least ``tokens``."""
        return math.ceil(tokens / self.unit)

    def replica(self, layer: Layer, expert: int, count: int) -> int:
        """The load of one of ``count`` replicas, rounded down."""
        return self.down(Fraction(layer.loads[expert], count) * layer.unit)


def scale_for(layer: Layer, counts: Iterable[int], *, largest_sum: int = LARGEST_SUM) -> Scale:
    """The scale for a layer whose experts may have any of ``counts`` replicas.

    All replicas of a placement together weigh at most ``largest_sum`` scaled units, less where
    there are so many ranks that their number times the sum exceeds 60 bits.
    """
    largest_sum = min(largest_sum, 2**60 // layer.topology.num_ranks)
    total, common = sum(layer.loads) * layer.unit, layer.unit * max(1, math.gcd(*layer.loads))
    multiple = 1
    for count in set(counts):
        multiple = math.lcm(multiple, count)
        if total * multiple > largest_sum * common:  # of many counts it has thousands of digits
            return Scale(total / largest_sum, exact=False)
    return Scale(common / multiple, exact=True)


def item_sizes(layer: Layer, scale: Scale, counts: Sequence[int]) -> Integers:
    """[E] int64: what a replica of each expert weighs with ``counts`` [E], rounded down."""
    sizes = [scale.replica(layer, e, count) for e, count in enumerate(counts)]
    return np.array(sizes, np.int64)


def replica_sizes(layer: Layer, scale: Scale, most: int) -> Integers:
    """[E, most + 1] int64: ``floor(loads[e] / k)`` in steps of ``scale``; column 0 is unused.

    Raises:
        TooLargeError: that are too many.
    """
    require_table("a search", len(layer.loads), most + 1)
    size = np.zeros((len(layer.loads), most + 1), np.int64)
    # floor(floor(x) / k) == floor(x / k)
    whole = np.array([scale.replica(layer, e, 1) for e in range(len(layer.loads))], np.int64)
    size[:, 1:] = whole[:, None] // np.arange(1, most + 1)
    return size
