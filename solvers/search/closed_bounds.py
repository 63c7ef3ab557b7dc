"""Lower bounds of a packing that need no search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.search.compiled import compiled

Integers = NDArray[np.int64]


@compiled
def counting_bound(items: Integers, num_ranks: int) -> int:
    """A lower bound on the largest rank sum of ``items`` [P], descending, on ranks of S = P / G slots.

    The mean, rounded up; and for j = 0..S-1: of the jG + 1 heaviest items some rank holds j + 1, at least
    those numbered (j-1)G + ... in weight, so at least the j + 1 lightest of them, and for the rest of its
    slots at least the S - 1 - j lightest of all (Dell'Amico, Martello 2001).
    """
    P = len(items)
    S = P // num_ranks
    bound = -(-items.sum() // num_ranks)
    for j in range(S):
        top = j * num_ranks + 1
        bound = max(bound, items[top - j - 1 : top].sum() + items[P - (S - 1 - j) :].sum())
    return int(bound)
