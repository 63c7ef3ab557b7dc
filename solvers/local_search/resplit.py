"""Two ranks, best re-split: which S of their 2S replicas go to the first.

The larger of the two sums is minimized.

Meet in the middle (Horowitz, Sahni, J. ACM 21 (1974)) for each number of items taken from either
half: 2^S subsets a half, so S up to about 12 is quick. Beyond, the best exchange of at most one
pair is taken.
"""

from __future__ import annotations

import numpy as np

from solvers.arrays import Integers
from solvers.compiled import compiled

LARGEST_EXACT = 11


@compiled
def subset_sums(items: Integers) -> tuple[Integers, Integers]:
    """Sums [2^n] and cardinalities [2^n] of all subsets of the items, by bit mask.

    Args:
        items: [n] sizes.
    """
    n = len(items)
    sums = np.zeros(1 << n, np.int64)
    cardinalities = np.zeros(1 << n, np.int64)
    for i in range(n):
        bit = 1 << i
        for mask in range(bit):
            sums[bit + mask] = sums[mask] + items[i]
            cardinalities[bit + mask] = cardinalities[mask] + 1
    return sums, cardinalities


@compiled
def by_cardinality(sums: Integers, cardinalities: Integers, n: int) -> tuple[Integers, Integers]:
    """Masks [2^n] ordered by (cardinality, sum), and where each cardinality starts [n + 2].

    Args:
        sums: [2^n] sizes summed, by bit mask.
        cardinalities: [2^n] number of items, by bit mask.
        n: items.
    """
    start = np.zeros(n + 2, np.int64)
    for cardinality in cardinalities:
        start[cardinality + 1] += 1
    start = np.cumsum(start)
    order = np.zeros(len(sums), np.int64)
    fill = start.copy()
    for mask in np.argsort(sums, kind="mergesort"):
        order[fill[cardinalities[mask]]] = mask
        fill[cardinalities[mask]] += 1
    return order, start


@compiled
def best_split(items: Integers) -> Integers:
    """[2S] 1 for the S items whose sum is nearest to half of the total, 0 for the others.

    Args:
        items: [2S] sizes.
    """
    n = len(items)
    S = n // 2
    total = items.sum()
    left, right = items[:S], items[S:]
    left_sums, left_cardinalities = subset_sums(left)
    right_sums, right_cardinalities = subset_sums(right)
    left_order, left_start = by_cardinality(left_sums, left_cardinalities, S)
    right_order, right_start = by_cardinality(right_sums, right_cardinalities, S)
    best = 2 * total + 1
    best_left, best_right = np.int64(0), np.int64(0)
    for cardinality in range(S + 1):
        j = right_start[S - cardinality + 1] - 1
        i = left_start[cardinality]
        while i < left_start[cardinality + 1] and j >= right_start[S - cardinality]:
            distance = 2 * (left_sums[left_order[i]] + right_sums[right_order[j]]) - total
            if abs(distance) < best:
                best, best_left, best_right = abs(distance), left_order[i], right_order[j]
            if distance > 0:
                j -= 1
            else:
                i += 1
    member = np.zeros(n, np.int64)
    for slot in range(S):
        member[slot] = (best_left >> slot) & 1
        member[S + slot] = (best_right >> slot) & 1
    return member


@compiled
def best_swap(items: Integers) -> Integers:
    """[2S] 1 for the first S items after the one exchange that brings the two sums nearest.

    Args:
        items: [2S] sizes.
    """
    n = len(items)
    S = n // 2
    member = np.zeros(n, np.int64)
    member[:S] = 1
    difference = items[:S].sum() - items[S:].sum()
    best = abs(difference)
    best_i, best_j = -1, -1
    for i in range(S):
        for j in range(S, n):
            distance = abs(difference - 2 * (items[i] - items[j]))
            if distance < best:
                best, best_i, best_j = distance, i, j
    if best_i >= 0:
        member[best_i], member[best_j] = 0, 1
    return member


@compiled
def split_in_two(items: Integers) -> Integers:
    """[2S] 0 or 1, the best re-split: exact up to ``LARGEST_EXACT`` slots, else one exchange.

    Args:
        items: [2S] sizes.
    """
    if len(items) <= 2 * LARGEST_EXACT:
        return best_split(items)
    return best_swap(items)


@compiled
def subsets(S: int) -> int:
    """About how many subsets or pairs :func:`split_in_two` looks at for ranks of S slots."""
    return S << S if S <= LARGEST_EXACT else S * S
