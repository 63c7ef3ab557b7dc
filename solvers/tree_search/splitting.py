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

from solvers.arrays import Integers
from solvers.compiled import compiled
from solvers.model_size import require_table

FOUND, EXHAUSTED, PAUSED = 0, 1, 2
NEVER = np.iinfo(np.int64).max

LEVEL, SLOT, WORK, NEXT_THRESHOLD = 0, 1, 2, 3


class Tree(NamedTuple):
    """Where the search stands: level ``g`` fills rank ``g`` from what ranks ``0..g-1`` left.

    Attributes:
        item: [G + 1, P] the items left at each level, largest first, by position in the input.
        size: [G + 1, P] their sizes, in units of the scale.
        prefix: [G + 1, P + 1] sums of the sizes of the first 0, 1, .. of them.
        chosen: [G, S + 1] positions in the level's list of the items that its rank takes.
        partial: [G, S + 1] sums of the sizes of the first 1, 2, .. of these.
        counters: [4] level, slot, work done, and the smallest threshold that would have let more
            through.
    """

    item: Integers
    size: Integers
    prefix: Integers
    chosen: Integers
    partial: Integers
    counters: Integers

    def packing(self, experts: Integers) -> Integers:
        """[G, S] the experts of the packing found; ``experts`` [P] in the order of the items."""
        return experts[np.take_along_axis(self.item[:-1], self.chosen[:, :-1], axis=1)]


def new_tree(items: Integers, num_ranks: int, kind: Integers, spread: bool) -> Tree:
    """A tree for ``items`` [P] in descending order, at its root; ``kind`` and ``spread`` as in
    :func:`advance`.

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
    restart(tree, kind, spread)
    return tree


@compiled
def load(tree: Tree, items: Integers) -> None:
    """Write the items into the root of the tree.

    Args:
        tree: changed in place.
        items: [P] sizes in descending order.
    """
    for p in range(len(items)):
        tree.item[0, p] = p
        tree.size[0, p] = items[p]
        tree.prefix[0, p + 1] = tree.prefix[0, p] + items[p]


@compiled
def after(item: Integers, kind: Integers, level: int, p: int, n: int) -> int:
    """First position after ``p`` whose item is of another kind; ``n`` if none.

    Args:
        item: [G + 1, P] the items left at each level.
        kind: [P] numbers what is interchangeable, by position in the input.
        level: whose list.
        p: position in it.
        n: its length.
    """
    this = kind[item[level, p]]
    while p < n and kind[item[level, p]] == this:
        p += 1
    return p


@compiled
def restart(tree: Tree, kind: Integers, spread: bool) -> None:
    """Back to the root: the first rank holds the largest item and is to be filled.

    Args:
        tree: changed in place.
        kind: [P] numbers what is interchangeable.
        spread: a rank takes one item of a kind only.
    """
    tree.counters[LEVEL], tree.counters[SLOT] = 0, 1
    tree.counters[WORK], tree.counters[NEXT_THRESHOLD] = 0, NEVER
    tree.chosen[0, 0] = 0
    tree.chosen[0, 1] = after(tree.item, kind, 0, 0, len(kind)) if spread else 1
    tree.partial[0, 0] = tree.size[0, 0]


@compiled
def first_not_above(size: Integers, level: int, start: int, stop: int, limit: int) -> int:
    """First position from ``start`` on whose size is at most ``limit``, ``stop`` if none.

    Args:
        size: [G + 1, P] sizes of the items left at each level, descending.
        level: whose list.
        start: first position looked at.
        stop: end of the positions looked at.
        limit: size.
    """
    while start < stop:
        middle = (start + stop) // 2
        if size[level, middle] > limit:
            start = middle + 1
        else:
            stop = middle
    return start


@compiled
def is_dominated(size: Integers, chosen: Integers, level: int, S: int, room: int) -> bool:
    """Whether an item of the rank could be exchanged for a larger one outside within ``room``.

    Args:
        size: [G + 1, P] sizes of the items left at each level.
        chosen: [G, S + 1] positions of the items that the rank of each level takes.
        level: the rank in hand.
        S: slots a rank.
        room: threshold less the rank's sum.
    """
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
    """List the items that the ranks above leave; the rank of ``level`` takes the largest.

    Args:
        tree: changed in place.
        level: the rank.
        kind: [P] numbers what is interchangeable.
        spread: a rank takes one item of a kind only.
    """
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
    """A bound on the makespan of the ``m`` ranks that are left.

    Of the jm + 1 heaviest items some rank holds j + 1; of the jm + 1 lightest as well, and what
    that rank cannot take falls on the others.

    Args:
        prefix: [mS + 1] sums of the sizes of the largest 0, 1, .. items left.
        m: ranks.
        S: slots a rank.
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
    """Search on: FOUND, EXHAUSTED or PAUSED (call again to go on).

    Args:
        tree: changed in place.
        kind: [P] numbers what is interchangeable: items of one size, or with ``spread`` of one
            expert.
        threshold: no rank may carry more.
        spread: a rank takes one item of a kind only.
        budget: work, in steps down or up the tree.
    """
    item, size, prefix, chosen, partial, counters = tree
    G, S = chosen.shape[0], chosen.shape[1] - 1
    level, slot, next_threshold = counters[LEVEL], counters[SLOT], counters[NEXT_THRESHOLD]
    work, state = 0, PAUSED
    while work < budget and state == PAUSED:
        work += 1
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
            if spread or not is_dominated(size, chosen, level, S, threshold - partial[level, slot]):
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
    counters[WORK] += work
    return state
