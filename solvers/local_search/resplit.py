"""Two ranks, best re-split: which S of their 2S replicas go to the first.

The larger of the two sums is minimized.

Meet in the middle (Horowitz, Sahni, J. ACM 21 (1974)) for each number of items taken from either
half: 2^S subsets a half, so S up to about 12 is quick. Beyond, the best exchange of at most one
pair is taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.compiled import compiled

Integers = NDArray[np.int64]

LARGEST_EXACT = 11


@compiled
def subset_sums(items: Integers) -> tuple[Integers, Integers]:
    """Sums [2^n] and sizes [2^n] of all subsets of ``items`` [n], by bit mask."""
    n = len(items)
    sums = np.zeros(1 << n, np.int64)
    sizes = np.zeros(1 << n, np.int64)
    for i in range(n):
        bit = 1 << i
        for mask in range(bit):
            sums[bit + mask] = sums[mask] + items[i]
            sizes[bit + mask] = sizes[mask] + 1
    return sums, sizes


@compiled
def by_size(sums: Integers, sizes: Integers, n: int) -> tuple[Integers, Integers]:
    """Masks ordered by (size, sum), and where each size starts: [2^n], [n + 2]."""
    start = np.zeros(n + 2, np.int64)
    for size in sizes:
        start[size + 1] += 1
    start = np.cumsum(start)
    order = np.zeros(len(sums), np.int64)
    fill = start.copy()
    for mask in np.argsort(sums, kind="mergesort"):
        order[fill[sizes[mask]]] = mask
        fill[sizes[mask]] += 1
    return order, start


@compiled
def best_split(items: Integers) -> Integers:
    """[2S] 0 or 1: the S of ``items`` whose sum is nearest to half of the total."""
    n = len(items)
    S = n // 2
    total = items.sum()
    left, right = items[:S], items[S:]
    left_sums, left_sizes = subset_sums(left)
    right_sums, right_sizes = subset_sums(right)
    left_order, left_start = by_size(left_sums, left_sizes, S)
    right_order, right_start = by_size(right_sums, right_sizes, S)
    best = 2 * total + 1
    best_left, best_right = np.int64(0), np.int64(0)
    for size in range(S + 1):
        j = right_start[S - size + 1] - 1
        i = left_start[size]
        while i < left_start[size + 1] and j >= right_start[S - size]:
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
    """[2S] 0 or 1: the first S items, with the one exchange that brings the two sums nearest."""
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
    """The best re-split for this size: exact up to ``LARGEST_EXACT`` slots, else one exchange."""
    if len(items) <= 2 * LARGEST_EXACT:
        return best_split(items)
    return best_swap(items)


@compiled
def subsets(S: int) -> int:
    """About how many subsets or pairs :func:`split_in_two` looks at for ranks of S slots."""
    return S << S if S <= LARGEST_EXACT else S * S
