"""Rank by rank, the search for a packing on ranks of ``S`` slots with none above ``T``.

The rank in hand takes the largest item that is left. Its sum must lie in ``[R - (m - 1) T, T]``,
with ``R`` the sum of the items left and ``m`` the ranks left: what it leaves must fit on the
others. Items of one kind are interchangeable, so after a failure the next kind is tried. A rank is
skipped if one of its items could be exchanged for a larger one that is left without passing ``T``:
the rank that would get the smaller item only gains.

A failure also says how far ``T`` has to be raised to change anything, which gives the next ``T`` to
try.

Schreiber, Korf, Moffitt: Optimal multi-way number partitioning, J. ACM 65 (2018);
Dell'Amico, Martello: Bounds for the cardinality constrained P||Cmax problem, J. Scheduling 4
(2001).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from solvers.compiled import compiled
from solvers.model_size import require_table

Integers = NDArray[np.int64]

FOUND, EXHAUSTED, PAUSED = 0, 1, 2
NEVER = np.iinfo(np.int64).max

LEVEL, SLOT, NODES, NEXT_THRESHOLD = 0, 1, 2, 3


class Tree(NamedTuple):
    """Where the search stands: level ``g`` fills rank ``g`` from what ranks ``0..g-1`` left.

    Attributes:
        item: [G + 1, P] the items left at each level, largest first, by their position in the
        input. size: [G + 1, P] their sizes. prefix: [G + 1, P + 1] sums of the largest items left.
        chosen: [G, S + 1] positions taken in the level's list. partial: [G, S + 1] sums of the rank
        in hand. counters: level, slot, nodes, and the smallest threshold that would have let more
        through.
    """

    item: Integers
    size: Integers
    prefix: Integers
    chosen: Integers
    partial: Integers
    counters: Integers

    def packed(self, experts: Integers) -> Integers:
        """[G, S] the experts of the packing found; ``experts`` [P] in the order of the items."""
        return experts[np.take_along_axis(self.item[:-1], self.chosen[:, :-1], axis=1)]


def new_tree(items: Integers, num_ranks: int) -> Tree:
    """A tree for ``items`` [P] in descending order; :func:`restart` puts it to its root.

    Raises:
        TooLargeError: three arrays of [G + 1, P] would take too much memory.
    """
    P = len(items)
    require_table("a tree search", P, num_ranks + 1)
    S = P // num_ranks
    tree = Tree(
        item=np.zeros((num_ranks + 1, P), np.int64),
        size=np.zeros((num_ranks + 1, P), np.int64),
        prefix=np.zeros((num_ranks + 1, P + 1), np.int64),
        chosen=np.zeros((num_ranks, S + 1), np.int64),
        partial=np.zeros((num_ranks, S + 1), np.int64),
        counters=np.zeros(4, np.int64),
    )
    load(tree, items)
    return tree


@compiled
def load(tree: Tree, items: Integers) -> None:
    """Give the root of the tree ``items`` [P] in descending order."""
    for p in range(len(items)):
        tree.item[0, p] = p
        tree.size[0, p] = items[p]
        tree.prefix[0, p + 1] = tree.prefix[0, p] + items[p]


@compiled
def after(item: Integers, kind: Integers, level: int, p: int, n: int) -> int:
    """First position below ``p`` whose item is of another kind; ``n`` if none."""
    this = kind[item[level, p]]
    while p < n and kind[item[level, p]] == this:
        p += 1
    return p


@compiled
def restart(tree: Tree, kind: Integers, spread: bool) -> None:
    """Back to the root: the first rank holds the largest item and is to be filled."""
    tree.counters[LEVEL], tree.counters[SLOT] = 0, 1
    tree.counters[NODES], tree.counters[NEXT_THRESHOLD] = 0, NEVER
    tree.chosen[0, 0] = 0
    tree.chosen[0, 1] = after(tree.item, kind, 0, 0, len(kind)) if spread else 1
    tree.partial[0, 0] = tree.size[0, 0]


@compiled
def first_not_above(size: Integers, level: int, start: int, stop: int, limit: int) -> int:
    """First position from ``start`` on with ``size <= limit``, ``stop`` if none; sizes fall."""
    while start < stop:
        middle = (start + stop) // 2
        if size[level, middle] > limit:
            start = middle + 1
        else:
            stop = middle
    return start


@compiled
def dominated(size: Integers, chosen: Integers, level: int, S: int, room: int) -> bool:
    """Whether an item of the rank could be exchanged for a larger one outside within ``room``."""
    for slot in range(1, S):
        taken = slot
        p = chosen[level, slot]
        x = size[level, p]
        while p > 0:
            p -= 1
            if size[level, p] - x > room:
                break
            if chosen[level, taken - 1] == p:
                taken -= 1
            elif size[level, p] > x:
                return True
    return False


@compiled
def open_level(tree: Tree, level: int, kind: Integers, spread: bool) -> None:
    """List the items that the ranks above leave; the rank of ``level`` takes the largest."""
    G, S = tree.chosen.shape[0], tree.chosen.shape[1] - 1
    taken = 0
    kept = 0
    for p in range((G - level + 1) * S):
        if taken < S and tree.chosen[level - 1, taken] == p:
            taken += 1
        else:
            size = tree.size[level - 1, p]
            tree.item[level, kept] = tree.item[level - 1, p]
            tree.size[level, kept] = size
            tree.prefix[level, kept + 1] = tree.prefix[level, kept] + size
            kept += 1
    if level < G:
        tree.chosen[level, 0] = 0
        tree.partial[level, 0] = tree.size[level, 0]
        tree.chosen[level, 1] = after(tree.item, kind, level, 0, kept) if spread else 1


@compiled
def least_threshold(prefix: Integers, m: int, S: int) -> int:
    """A bound for the ``m`` ranks that are left, from the prefix sums of their items.

    Of the jm + 1 heaviest items some rank holds j + 1; of the jm + 1 lightest as well, and what
    that rank cannot take falls on the others.
    """
    n = m * S
    total = prefix[n]
    bound = np.int64(0)
    for j in range(S):
        top, rest = j * m + 1, S - 1 - j
        bound = max(bound, prefix[top] - prefix[top - j - 1] + total - prefix[n - rest])
        if m > 1:
            reach = prefix[n - top + j + 1] - prefix[n - top] + prefix[rest]
            bound = max(bound, -((reach - total) // (m - 1)))
    return int(bound)


@compiled
def advance(tree: Tree, kind: Integers, threshold: int, spread: bool, budget: int) -> int:
    """Search on for at most ``budget`` nodes: FOUND, EXHAUSTED or PAUSED (call again to go on).

    ``kind`` [P] numbers what is interchangeable: items of one size, or with ``spread`` of one
    expert, of which a rank then takes one only.
    """
    item, size, prefix, chosen, partial, counters = tree
    G, S = chosen.shape[0], chosen.shape[1] - 1
    level, slot, next_threshold = counters[LEVEL], counters[SLOT], counters[NEXT_THRESHOLD]
    nodes, state = 0, PAUSED
    while nodes < budget and state == PAUSED:
        nodes += 1
        m, q = G - level, S - 1 - slot
        n = m * S
        start, before = chosen[level, slot], partial[level, slot - 1]
        lightest = prefix[level, n] - prefix[level, n - q]
        p = first_not_above(size, level, start, n - q, threshold - before - lightest)
        if start < p:
            next_threshold = min(next_threshold, before + size[level, p - 1] + lightest)
        fits = p < n - q
        if fits:
            left = prefix[level, n] - before - prefix[level, p + 1 + q] + prefix[level, p]
            if left > (m - 1) * threshold:
                fits = False
                next_threshold = min(next_threshold, -(-left // (m - 1)))
        if fits:
            chosen[level, slot] = p
            partial[level, slot] = before + size[level, p]
            if slot < S - 1:
                slot += 1
                chosen[level, slot] = after(item, kind, level, p, n) if spread else p + 1
                continue
            if spread or not dominated(size, chosen, level, S, threshold - partial[level, slot]):
                open_level(tree, level + 1, kind, spread)
                if m == 1:
                    state = FOUND
                    continue
                bound = least_threshold(prefix[level + 1], m - 1, S)
                if bound <= threshold:
                    level, slot = level + 1, 1
                    continue
                next_threshold = min(next_threshold, bound)
        else:
            slot -= 1
            if slot == 0 and level > 0:
                level, slot = level - 1, S - 1
        if slot == 0:
            state = EXHAUSTED
        else:
            n = (G - level) * S
            chosen[level, slot] = after(item, kind, level, chosen[level, slot], n)
    counters[LEVEL], counters[SLOT], counters[NEXT_THRESHOLD] = level, slot, next_threshold
    counters[NODES] += nodes
    return state
