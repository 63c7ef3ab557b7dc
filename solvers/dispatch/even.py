"""Makespans of all steps of a placement where replicas share alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from eplb_opt.problem.rationals import Integers, widen


def even_makespans(loads: Integers, phy2log: Sequence[int], num_ranks: int) -> list[Fraction]:
    """[T] ``max over ranks of sum of loads[t, e] / c_e over its slots``, in units of load.

    Exact: in multiples of 1 / lcm(counts), in 64 bits where such sums fit.

    Args:
        loads: [T, E] integers.
        phy2log: [P] experts in the slots, rank after rank.
        num_ranks: G, divides P.
    """
    slots = np.asarray(phy2log)
    counts = np.bincount(slots, minlength=loads.shape[1]).tolist()
    common = math.lcm(*filter(None, counts))
    largest = int(widen(loads, loads.shape[1]).sum(axis=1).max())
    dtype: type = np.int64 if largest * common < 2**63 else object  # one rank may hold all
    factor: Any = np.array([common // count if count else 0 for count in counts], dtype)
    replicas = (loads.astype(dtype) * factor)[:, slots]
    fullest = replicas.reshape(len(loads), num_ranks, -1).sum(axis=2).max(axis=1)
    return [Fraction(total, common) for total in fullest.tolist()]
