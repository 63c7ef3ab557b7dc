"""Counts, and packings of each, of least cost over several steps under ``even`` dispatch.

Vectors of counts are listed with a bound each, the objective over the steps of the counting bounds
of every step alone, and searched in this order. A packing is built rank by rank; every rank takes
the first replica that is left. With some ranks filled, in step t,

    m_t >= max(fullest rank so far, load left / ranks left, heaviest replica left),

rounded up. Nodes follow one another, each with its own experts and counts, and meet only in the
makespan of each step. Replicas of equal loads are interchangeable, and so are experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eplb_opt.problem.topology import Topology
from solvers.arrays import Integers
from solvers.compiled import compiled
from solvers.model_size import require_table
from solvers.tree_search.splitting import EXHAUSTED, FOUND, PAUSED, least_threshold
from solvers.tree_search.steps_scale import NOTHING, over, sort_falling

BATCH = 2**20
"""Counts that are listed at once, to be searched by their bounds."""
VECTOR_WORK = 20

LEVEL, SLOT = 0, 1
FAILED = -1


class Vectors(NamedTuple):
    """Count vectors, listed depth-first; nodes one after the other, each with P / N slots.

    Attributes:
        size: [E, most + 1, T] of one of k replicas, in scaled units.
        twin: [E] 1 if the expert has the loads of the one before, in the same node.
        weights: [k] of the largest, second largest, .. makespan.
        least: [T] makespans that all placements have at least.
        counts: [E] the vector in hand.
        peak: [E + 1, T] the heaviest replica of the first experts.
        left: [E + 1] slots of the node left for experts from e on.
        listed: [B, E] vectors.
        bounds: [B] on their objective.
        counters: [1] how many experts of the vector in hand have a count.
    """

    size: Integers
    twin: Integers
    weights: Integers
    least: Integers
    counts: Integers
    peak: Integers
    left: Integers
    listed: Integers
    bounds: Integers
    counters: Integers


class Packing(NamedTuple):
    """A packing in the making: level g fills rank g from what the ranks before it left.

    Attributes:
        expert: [P] of each replica, node by node, heavy ones first.
        kind: [P] numbers what is interchangeable; equal ones side by side.
        item: [P, T] tokens of each replica.
        used: [G + 1, P] 1 for what ranks before g, and rank g so far, hold.
        chosen: [G, S] replicas of each rank.
        start: [G, S] the next one to try.
        partial: [G, S, T] tokens of the first 1, 2, .. of a rank.
        full: [G + 1, T] the fullest of the ranks before g.
        left: [G + 1, T] tokens left in the node of rank g.
        base: [G + 1, T] makespans that what ranks before g hold leads to.
        later: [N + 1, T] makespans that nodes from n on have by themselves.
        counters: [2] level and slot.
    """

    expert: Integers
    kind: Integers
    item: Integers
    used: Integers
    chosen: Integers
    start: Integers
    partial: Integers
    full: Integers
    left: Integers
    base: Integers
    later: Integers
    counters: Integers

    def placement(self) -> Integers:
        """[P] rows of the experts in the packing found."""
        return self.expert[self.chosen].ravel()


def new_vectors(
    loads: Integers,
    twin: Integers,
    weights: Integers,
    num_slots: int,
    num_ranks: int,
    num_nodes: int,
    most: int,
) -> Vectors:
    """The listing at its start.

    Args:
        loads: [E, T] tokens, experts node by node.
        twin: [E] 1 if the expert has the loads of the one before, in the same node.
        weights: [k] of the makespans.
        num_slots: P.
        num_ranks: G.
        num_nodes: N.
        most: replicas of an expert, at most.
    """
    E, T = loads.shape
    n = E // num_nodes
    require_table("a search over count vectors", E * T, most + 1)
    size = np.zeros((E, most + 1, T), np.int64)
    size[:, 1:] = loads[:, None] // np.arange(1, most + 1)[:, None]
    whole = loads.reshape(num_nodes, n, T).sum(axis=1)
    means = whole // (num_ranks // num_nodes)
    least = np.maximum(means.max(axis=0), size[:, most].max(axis=0))
    batch = max(1, BATCH // E)
    return Vectors(
        size=size,
        twin=twin,
        weights=weights,
        least=least,
        counts=np.full(E, most + 1),
        peak=np.zeros((E + 1, T), np.int64),
        left=np.full(E + 1, num_slots // num_nodes),
        listed=np.zeros((batch, E), np.int64),
        bounds=np.zeros(batch, np.int64),
        counters=np.zeros(1, np.int64),
    )


def new_packing(num_slots: int, num_ranks: int, num_nodes: int, steps: int) -> Packing:
    """Room for the packings of one count vector after the other."""
    P, G, T, S = num_slots, num_ranks, steps, num_slots // num_ranks
    require_table("a search over packings", P * (G + 1), T)
    return Packing(
        expert=np.zeros(P, np.int64),
        kind=np.zeros(P, np.int64),
        item=np.zeros((P, T), np.int64),
        used=np.zeros((G + 1, P), np.int64),
        chosen=np.zeros((G, S), np.int64),
        start=np.zeros((G, S), np.int64),
        partial=np.zeros((G, S, T), np.int64),
        full=np.zeros((G + 1, T), np.int64),
        left=np.zeros((G + 1, T), np.int64),
        base=np.zeros((G + 1, T), np.int64),
        later=np.zeros((num_nodes + 1, T), np.int64),
        counters=np.array([FAILED, 0]),
    )


@compiled
def bound_nodes(size: Integers, counts: Integers, R: int, S: int, later: Integers) -> None:
    """The counting bounds of every step alone.

    Args:
        size: [E, most + 1, T] of one of k replicas.
        counts: [E] replicas of each expert.
        R: ranks a node.
        S: slots a rank.
        later: [N + 1, T] the largest over the nodes from each one on; written.
    """
    N, T, n = len(later) - 1, later.shape[1], len(counts) // (len(later) - 1)
    items, prefix = np.empty(R * S, np.int64), np.zeros(R * S + 1, np.int64)
    for t in range(T):
        later[N, t] = 0
    for node in range(N - 1, -1, -1):
        for t in range(T):
            p = 0
            for e in range(node * n, (node + 1) * n):
                for _ in range(counts[e]):
                    items[p] = size[e, counts[e], t]
                    p += 1
            sort_falling(items)
            for i in range(R * S):
                prefix[i + 1] = prefix[i] + items[i]
            mean = -(-prefix[R * S] // R)
            bound = max(mean, np.int64(least_threshold(prefix, R, S)))
            later[node, t] = max(later[node + 1, t], bound)


@compiled
def list_vectors(
    vectors: Vectors, num_nodes: int, R: int, S: int, most: int, budget: int
) -> tuple[int, bool, int]:
    """List further vectors of bounds up to ``most``: how many, whether that are all, and the work.

    Args:
        vectors: changed in place.
        num_nodes: N.
        R: ranks a node.
        S: slots a rank.
        most: the objective of a placement that is of interest, at most.
        budget: work, about.
    """
    size, counts, peak, left = vectors.size, vectors.counts, vectors.peak, vectors.left
    E, T, limit = len(counts), size.shape[2], size.shape[1] - 1
    n = E // num_nodes
    later = np.zeros((num_nodes + 1, T), np.int64)
    makespans = np.empty(T, np.int64)
    e, number, work = vectors.counters[0], 0, 0
    while e >= 0 and number < len(vectors.bounds) and work < budget:
        counts[e] -= 1
        work += 1
        count, others = counts[e], n - 1 - e % n
        after = left[e] - count
        if count < 1 or after > others * limit:
            e -= 1
            continue
        if after < others or (vectors.twin[e] == 1 and count > counts[e - 1]):
            continue
        for t in range(T):
            peak[e + 1, t] = max(peak[e, t], size[e, count, t])
            makespans[t] = max(vectors.least[t], peak[e + 1, t])
        if over(makespans, vectors.weights) > most:
            e -= 1
            continue
        if e < E - 1:
            left[e + 1] = after if others > 0 else left[0]
            e += 1
            counts[e] = limit + 1
            continue
        work += VECTOR_WORK
        bound_nodes(size, counts, R, S, later)
        bound = over(later[0], vectors.weights)
        if bound <= most:
            for f in range(E):
                vectors.listed[number, f] = counts[f]
            vectors.bounds[number] = bound
            number += 1
    vectors.counters[0] = e
    return number, e < 0, work


@compiled
def begin(
    tree: Packing, size: Integers, twin: Integers, counts: Integers, R: int, spread: bool
) -> None:
    """List the replicas of a count vector, and go to the root of its packings.

    Args:
        tree: changed in place.
        size: [E, most + 1, T] of one of k replicas.
        twin: [E] 1 if the expert has the loads of the one before, in the same node.
        counts: [E] replicas of each expert.
        R: ranks a node.
        spread: no rank may hold an expert twice.
    """
    N, S, T = len(tree.later) - 1, tree.chosen.shape[1], tree.item.shape[1]
    n = len(counts) // N
    bound_nodes(size, counts, R, S, tree.later)
    totals, order = np.empty(n, np.int64), np.empty(n, np.int64)
    p, kind = 0, -1
    for node in range(N):
        for i in range(n):
            e = node * n + i
            total, j = np.int64(0), i
            for t in range(T):
                total += size[e, counts[e], t]
            while j > 0 and totals[j - 1] < total:
                totals[j], order[j] = totals[j - 1], order[j - 1]
                j -= 1
            totals[j], order[j] = total, i
        before = -1
        for j in range(n):
            e = node * n + order[j]
            equal = twin[e] == 1 and before == e - 1 and counts[e] == counts[e - 1]
            if spread or not equal:
                kind += 1
            before = e
            for _ in range(counts[e]):
                tree.expert[p], tree.kind[p] = e, kind
                for t in range(T):
                    tree.item[p, t] = size[e, counts[e], t]
                p += 1
    for p in range(len(tree.kind)):
        tree.used[0, p] = 0
    for t in range(T):
        tree.full[0, t] = 0
    tree.counters[LEVEL] = 0
    tree.counters[LEVEL] = open_rank(tree, tree.counters[LEVEL], R, spread)
    tree.counters[SLOT] = 1


@compiled
def after(kind: Integers, p: int) -> int:
    """The first replica after ``p`` that is of another kind.

    Args:
        kind: [P] numbers what is interchangeable.
        p: a replica.
    """
    this = kind[p]
    while p < len(kind) and kind[p] == this:
        p += 1
    return p


@compiled
def fill_rank(tree: Packing, g: int, R: int, spread: bool) -> bool:
    """Rank g takes the first replicas that are left; False if it may not.

    Args:
        tree: changed in place.
        g: the last rank of a node, or any with one slot a rank.
        R: ranks a node.
        spread: no rank may hold an expert twice.
    """
    S, T, size = tree.chosen.shape[1], tree.item.shape[1], R * tree.chosen.shape[1]
    for t in range(T):
        tree.full[g + 1, t] = 0
    for p in range(len(tree.kind)):
        tree.used[g + 1, p] = tree.used[g, p]
    slot = 0
    for p in range(g // R * size, (g // R + 1) * size):
        if slot < S and tree.used[g, p] == 0:
            if spread and slot > 0 and tree.kind[tree.chosen[g, slot - 1]] == tree.kind[p]:
                return False
            tree.chosen[g, slot] = p
            tree.used[g + 1, p] = 1
            for t in range(T):
                tree.full[g + 1, t] += tree.item[p, t]
            slot += 1
    for t in range(T):
        tree.left[g + 1, t] = tree.left[g, t] - tree.full[g + 1, t]
        tree.full[g + 1, t] = max(tree.full[g, t], tree.full[g + 1, t])
    return True


@compiled
def open_rank(tree: Packing, g: int, R: int, spread: bool) -> int:
    """Begin rank g, whose ``used``, ``full`` and ``left`` are known, or the next that has a choice;
    G if none has, FAILED if one cannot be filled.

    Args:
        tree: changed in place.
        g: the rank.
        R: ranks a node.
        spread: no rank may hold an expert twice.
    """
    G, S, T, size = (
        len(tree.chosen),
        tree.chosen.shape[1],
        tree.item.shape[1],
        R * tree.chosen.shape[1],
    )
    while g < G:
        first = g // R * size
        if g % R == 0:
            for t in range(T):
                tree.left[g, t] = 0
                for p in range(first, first + size):
                    tree.left[g, t] += tree.item[p, t]
        m = R - g % R
        if m > 1 and S > 1:
            break
        if not fill_rank(tree, g, R, spread):
            return FAILED
        g += 1
    if g == G:
        return G
    for t in range(T):
        mean = -(-tree.left[g, t] // m)
        tree.base[g, t] = max(max(tree.full[g, t], mean), tree.later[g // R + 1, t])
    p = first
    while tree.used[g, p] == 1:
        p += 1
    for q in range(p, first + size):
        if tree.used[g, q] == 0:
            for t in range(T):
                tree.base[g, t] = max(tree.base[g, t], tree.item[q, t])
    tree.used[g, p] = 1
    tree.chosen[g, 0] = p
    for t in range(T):
        tree.partial[g, 0, t] = tree.item[p, t]
    tree.start[g, 1] = after(tree.kind, p) if spread else p + 1
    return g


@compiled
def close_rank(tree: Packing, g: int) -> None:
    """Rank g is full: what is left for the ranks after it.

    Args:
        tree: changed in place.
        g: the rank.
    """
    for p in range(len(tree.kind)):
        tree.used[g + 1, p] = tree.used[g, p]
    last = tree.chosen.shape[1] - 1
    for t in range(tree.item.shape[1]):
        tree.full[g + 1, t] = max(tree.full[g, t], tree.partial[g, last, t])
        tree.left[g + 1, t] = tree.left[g, t] - tree.partial[g, last, t]


@compiled
def advance(
    tree: Packing, weights: Integers, most: int, R: int, spread: bool, budget: int
) -> tuple[int, int]:
    """Search on: FOUND (``chosen`` holds a packing), EXHAUSTED or PAUSED; and the work done.

    Args:
        tree: changed in place.
        weights: [k] of the largest, second largest, .. makespan.
        most: the objective of a placement that is of interest, at most.
        R: ranks a node.
        spread: no rank may hold an expert twice.
        budget: work, about: steps down or up the tree, more if there are many steps of loads.
    """
    G, S, T, size = (
        len(tree.chosen),
        tree.chosen.shape[1],
        tree.item.shape[1],
        R * tree.chosen.shape[1],
    )
    each = 1 + T // 64
    makespans = np.empty(T, np.int64)
    g, slot, work = tree.counters[LEVEL], tree.counters[SLOT], 0
    if g == G:  # there is one packing only
        tree.counters[LEVEL] = FAILED
        return (FOUND if over(tree.full[G], weights) <= most else EXHAUSTED), 1
    while work < budget and g >= 0:
        work += each
        end, m = (g // R + 1) * size, R - g % R
        p = tree.start[g, slot]
        while p < end and tree.used[g, p] == 1:
            p += 1
        if p == end:
            slot -= 1
            if slot == 0:
                g -= 1
                while g >= 0 and g % R == R - 1:
                    g -= 1
                slot = S - 1
            if g >= 0:
                tree.used[g, tree.chosen[g, slot]] = 0
            continue
        tree.start[g, slot] = after(tree.kind, p)
        for t in range(T):
            tree.partial[g, slot, t] = tree.partial[g, slot - 1, t] + tree.item[p, t]
            makespans[t] = max(tree.base[g, t], tree.partial[g, slot, t])
        if slot == S - 1:
            for t in range(T):
                rest = tree.left[g, t] - tree.partial[g, slot, t]
                makespans[t] = max(makespans[t], -(-rest // (m - 1)) if m > 2 else rest)
        if over(makespans, weights) > most:
            continue
        tree.chosen[g, slot] = p
        tree.used[g, p] = 1
        if slot < S - 1:
            slot += 1
            tree.start[g, slot] = tree.start[g, slot - 1] if spread else p + 1
            continue
        close_rank(tree, g)
        below = open_rank(tree, g + 1, R, spread)
        if 0 <= below < G and over(tree.base[below], weights) <= most:
            g, slot = below, 1
            continue
        tree.used[g, p] = 0
        if below == G and over(tree.full[G], weights) <= most:
            tree.counters[LEVEL], tree.counters[SLOT] = g, slot
            return FOUND, work
    tree.counters[LEVEL], tree.counters[SLOT] = g, slot
    return (EXHAUSTED if g < 0 else PAUSED), work


@compiled
def search(
    tree: Packing,
    vectors: Vectors,
    order: Integers,
    place: Integers,
    most: int,
    R: int,
    spread: bool,
    budget: int,
) -> tuple[int, int]:
    """Search the packings of the vectors listed; as :func:`advance`.

    Args:
        tree: changed in place.
        vectors: the vectors.
        order: [number] of those listed, by bound.
        place: [1] how many of them were begun; changed in place.
        most: the objective of a placement that is of interest, at most.
        R: ranks a node.
        spread: no rank may hold an expert twice.
        budget: work, about.
    """
    work = 0
    while work < budget:
        state, used = advance(tree, vectors.weights, most, R, spread, budget - work)
        work += used
        if state != EXHAUSTED:
            return state, work
        if place[0] == len(order) or vectors.bounds[order[place[0]]] > most:
            return EXHAUSTED, work
        begin(tree, vectors.size, vectors.twin, vectors.listed[order[place[0]]], R, spread)
        place[0] += 1
        work += VECTOR_WORK
    return PAUSED, work


class CountTree:
    """The placements with given experts on each node."""

    def __init__(
        self,
        experts: Sequence[int],
        loads: Integers,
        twin: Integers,
        weights: Integers,
        topology: Topology,
        most: int,
        spread: bool,
        counts: Sequence[int] | None,
    ) -> None:
        """Row j of ``loads`` [E, T] is ``experts[j]``, node by node.

        Args:
            experts: of the rows.
            loads: tokens.
            twin: [E] 1 if the expert has the loads of the row before, in the same node.
            weights: [k] of the makespans.
            topology: the machine.
            most: replicas of an expert, at most.
            spread: no rank may hold an expert twice.
            counts: [E] of the rows, if they are given.

        Raises:
            TooLargeError: the tables would be too large.
        """
        P, G, N = topology.num_physical_experts, topology.num_ranks, topology.num_nodes
        self.experts, self.spread, self.N, self.R = experts, spread, N, topology.ranks_per_node
        self.S = topology.slots_per_rank
        most = most if counts is None else max(counts)
        self.vectors = new_vectors(loads, twin, weights, P, G, N, most)
        self.packing = new_packing(P, G, N, loads.shape[1])
        self.order, self.place = np.zeros(0, np.int64), np.zeros(1, np.int64)
        self.complete = counts is not None  # all vectors are listed
        if counts is not None:
            self.vectors.listed[0] = counts
            self.order = np.zeros(1, np.int64)

    def advance(self, most: int, work: int) -> tuple[int, int]:
        """Search on for a placement whose objective in scaled units is at most ``most``: FOUND,
        EXHAUSTED or PAUSED; and the work done, about ``work``.
        """
        state, used = search(
            self.packing, self.vectors, self.order, self.place, most, self.R, self.spread, work
        )
        if state != EXHAUSTED or self.complete:
            return state, used
        number, self.complete, listing = list_vectors(
            self.vectors, self.N, self.R, self.S, most, work
        )
        self.order = np.argsort(self.vectors.bounds[:number], kind="stable")
        self.place[0] = 0
        return PAUSED, used + listing

    def placement(self) -> tuple[int, ...]:
        """[P] the placement found."""
        return tuple(self.experts[j] for j in self.packing.placement())

    def open_bound(self) -> int:
        """What every placement costs that was not looked at, in scaled units."""
        if not self.complete:
            return 0
        begun = max(0, int(self.place[0]) - 1)
        return int(self.vectors.bounds[self.order[begun]]) if len(self.order) else NOTHING
