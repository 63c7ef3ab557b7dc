"""Replica loads as 64-bit integers: ``size[e, k]`` is one of ``k`` replicas of expert e."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.instance import Layer
from solvers.scaling import Scale

Integers = NDArray[np.int64]


def replica_sizes(layer: Layer, scale: Scale, most: int) -> Integers:
    """[E, most + 1] int64: ``floor(loads[e] / k)`` in steps of ``scale``; column 0 is unused."""
    ratio = layer.unit / scale.unit
    size = np.zeros((len(layer.loads), most + 1), np.int64)
    for e, load in enumerate(layer.loads):
        steps = load * ratio.numerator
        size[e, 1:] = [steps // (k * ratio.denominator) for k in range(1, most + 1)]
    return size
