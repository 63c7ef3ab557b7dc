"""What a placement costs: exactly for a claim about one layer, in floats for all layers at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eplb_opt.problem.instance import Layer


def exact_rank_loads(layer: Layer, slots: Sequence[int]) -> list[Fraction]:
    """Tokens on each rank, ``sum of loads[e] / c_e`` over its slots, for ``slots`` [P] of one
    layer.

    Exact: the sums are taken in multiples of ``unit / lcm(counts)``.
    """
    counts = Counter(slots)
    common = math.lcm(*counts.values())
    replica = {e: layer.loads[e] * (common // c) for e, c in counts.items()}
    size = layer.topology.slots_per_rank
    sums = (sum(replica[e] for e in slots[i : i + size]) for i in range(0, len(slots), size))
    return [Fraction(s, common) * layer.unit for s in sums]


def exact_makespan(layer: Layer, slots: Sequence[int]) -> Fraction:
    """The largest rank load, exactly, for ``slots`` [P] of one layer."""
    return max(exact_rank_loads(layer, slots))


def makespan(rank_loads: ArrayLike) -> NDArray[np.float64]:
    """Largest rank load of each layer: [L] from [L, G]."""
    return np.asarray(np.max(rank_loads, axis=-1), dtype=np.float64)


def balancedness(rank_loads: ArrayLike) -> NDArray[np.float64]:
    """Mean rank load over makespan, [L] from [L, G]; in (0, 1], NaN for a layer without load."""
    top = makespan(rank_loads)
    mean = np.asarray(rank_loads, dtype=np.float64).mean(axis=-1)
    return np.asarray(np.divide(mean, top, out=np.full_like(top, np.nan), where=top > 0))


def relative_gap(value: Fraction, lower_bound: Fraction) -> float:
    """``(value - lower_bound) / lower_bound``, computed exactly and then rounded to a float.

    Raises:
        ValueError: the bound is not positive, as for a layer without load: it has no gap.
    """
    if lower_bound <= 0:
        raise ValueError(f"no gap over a lower bound of {lower_bound}")
    return float((value - lower_bound) / lower_bound)
