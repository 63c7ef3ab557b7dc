"""All replica counts that could beat an incumbent, each packed by the tree search.

A vector is passed over without a search if its replicas cannot go below the threshold: all rank
sums are multiples of the greatest common divisor ``g`` of its sizes, so the threshold falls to a
multiple of ``g``, and then the mean or one of the counting bounds may already be above it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from solvers.arrays import Integers
from solvers.compiled import compile_within, compiled
from solvers.dispatch import flow
from solvers.local_search import iterated as local_search
from solvers.tree_search.splitting import (
    EXHAUSTED,
    FOUND,
    PAUSED,
    WORK,
    Tree,
    advance,
    least_threshold,
    load,
    new_tree,
    restart,
)

VECTOR_WORK = 20
"""Work that passing over a vector counts for, about its share of time."""


class Vectors(NamedTuple):
    """Where the enumeration stands.

    Attributes:
        counts: [E] the vector in hand: replicas of each expert.
        least: [E] lower limits of the counts.
        most: [E] upper limits of the counts.
        experts: [P] the expert of each item of the vector in hand, items by falling size.
        kind: [P] numbers which of these items are interchangeable.
        threshold: [1] no rank may carry more with this vector; -1 if it was not begun.
        tree: the search of this vector.
    """

    counts: Integers
    least: Integers
    most: Integers
    experts: Integers
    kind: Integers
    threshold: Integers
    tree: Tree


def new_vectors(least: Integers, most: Integers, num_slots: int, num_ranks: int) -> Vectors | None:
    """The first vector in lexicographic order; None if no counts in the limits fill the slots."""
    if least.sum() > num_slots or most.sum() < num_slots or np.any(least > most):
        return None
    counts = least.copy()
    fill(counts, most, 0, num_slots - int(least.sum()))
    nothing = np.zeros(num_slots, np.int64)
    tree = new_tree(nothing, num_ranks, nothing, spread=False)
    return Vectors(counts, least, most, nothing.copy(), nothing.copy(), np.array([-1]), tree)


@compiled
def fill(counts: Integers, most: Integers, start: int, extra: int) -> None:
    """Give further replicas to the last experts, which makes the lexicographically least vector.

    Args:
        counts: [E] replicas; changed in place.
        most: [E] upper limits.
        start: first expert that may take some.
        extra: replicas to give.
    """
    e = len(counts) - 1
    while extra > 0 and e >= start:
        more = min(extra, most[e] - counts[e])
        counts[e] += more
        extra -= more
        e -= 1


@compiled
def next_vector(counts: Integers, least: Integers, most: Integers) -> bool:
    """The lexicographically next vector of the same sum; False after the last.

    Args:
        counts: [E] replicas; changed in place.
        least: [E] lower limits.
        most: [E] upper limits.
    """
    spare = 0
    for e in range(len(counts) - 1, -1, -1):
        if spare > 0 and counts[e] < most[e]:
            counts[e] += 1
            for f in range(e + 1, len(counts)):
                counts[f] = least[f]
            fill(counts, most, e + 1, spare - 1)
            return True
        spare += counts[e] - least[e]
    return False


@compiled
def begin(vectors: Vectors, size: Integers, threshold: int, spread: bool) -> bool:
    """List the items of the vector in hand; False if no packing of it keeps to ``threshold``.

    Args:
        vectors: changed in place.
        size: [E, most + 1] size of one of k replicas.
        threshold: no rank may carry more.
        spread: no rank may hold an expert twice.
    """
    counts, experts, kind, tree = vectors.counts, vectors.experts, vectors.kind, vectors.tree
    E, G = len(counts), tree.chosen.shape[0]
    sizes = np.empty(E, np.int64)
    total, common = np.int64(0), np.int64(0)
    for e in range(E):
        sizes[e] = -size[e, counts[e]]
        total -= sizes[e] * counts[e]
        a, b = common, -sizes[e]
        while b > 0:
            a, b = b, a % b
        common = a
    if common > 0:
        threshold -= threshold % int(common)
    if G * threshold < total:
        return False
    p = 0
    previous, kinds = np.int64(1), np.int64(-1)
    for e in np.argsort(sizes, kind="mergesort"):
        if spread or sizes[e] != previous:
            kinds += 1
            previous = sizes[e]
        for _ in range(counts[e]):
            experts[p], kind[p] = e, kinds
            tree.size[0, p] = -sizes[e]
            p += 1
    load(tree, tree.size[0])
    restart(tree, kind, spread)
    vectors.threshold[0] = threshold
    return bool(least_threshold(tree.prefix[0], G, p // G) <= threshold)


@compiled
def search(
    vectors: Vectors, size: Integers, threshold: int, spread: bool, budget: int
) -> tuple[int, int]:
    """Search on; returns the state and the work done.

    FOUND: the tree holds a packing up to ``threshold``; calling again goes on with the same vector
    and the new threshold. EXHAUSTED: no vector is left. PAUSED: call again.

    Args:
        vectors: changed in place.
        size: [E, most + 1] size of one of k replicas.
        threshold: no rank may carry more.
        spread: no rank may hold an expert twice.
        budget: work, about.
    """
    work = 0
    while work < budget:
        state = EXHAUSTED
        work += VECTOR_WORK
        if vectors.threshold[0] >= 0 or begin(vectors, size, threshold, spread):
            before = vectors.tree.counters[WORK]
            state = advance(vectors.tree, vectors.kind, vectors.threshold[0], spread, budget)
            work += vectors.tree.counters[WORK] - before
        if state == PAUSED:
            return PAUSED, work
        vectors.threshold[0] = -1
        if state == FOUND:
            return FOUND, work
        if not next_vector(vectors.counts, vectors.least, vectors.most):
            return EXHAUSTED, work
    return PAUSED, work


def rehearse() -> None:
    """Compile this search and what it rests on, the local search that comes before it, and what
    values placements.
    """
    flow.rehearse()
    local_search.rehearse()
    size, one = np.array([[0, 4, 2], [0, 3, 1], [0, 9, 4]]), np.ones(3, np.int64)
    vectors = new_vectors(one, 2 * one, 4, 2)
    if vectors is not None:
        search(vectors, size, 9, False, 100)
        begin(vectors, size, 9, False)
        restart(vectors.tree, vectors.kind, False)
        advance(vectors.tree, vectors.kind, 9, False, 100)
        least_threshold(vectors.tree.prefix[0], 2, 2)


def compile_searches() -> None:
    """Compile now what the searches of ``solve`` would else compile on their time."""
    compile_within(None, rehearse)
