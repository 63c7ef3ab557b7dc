"""Newton steps on the ratio of a cut, compiled: one maximum flow of a bipartite graph a trial.

Classes of experts send their load to their ranks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.arrays import Integers
from solvers.compiled import compiled

KNOWN_CUTS = 8
"""Of steps before: a cut is often critical again."""
UNSEEN, ROOT = -2, -1


@compiled
def send(
    left: Integers,
    space: Integers,
    flow: Integers,
    of_class: Integers,
    of_rank: Integers,
    by_rank: Integers,
    first: Integers,
    via_class: Integers,
    via_rank: Integers,
) -> bool:
    """Send more along shortest paths from classes with load left to ranks with space.

    False if no path is left; then the ranks reached, ``via_rank[g] >= 0``, are a minimum cut.
    Edmonds and Karp, J. ACM 19 (1972) 248: paths of equal length are taken from one search.

    Args:
        left: [C] load of each class that is not sent yet; changed in place.
        space: [G] load that each rank can still take; changed in place.
        flow: [pairs] load that goes from class to rank; changed in place.
        of_class: [pairs] class of each pair, ascending.
        of_rank: [pairs] rank of each pair.
        by_rank: [pairs] indices of the pairs in the order of their ranks.
        first: [C + G + 2] where the pairs of each class start, then (from C + 1) where those of
            each rank start in ``by_rank``.
        via_class: [C] scratch: the pair over which the search came back to a class.
        via_rank: [G] scratch, then result: the pair over which the search reached a rank.
    """
    num_classes, num_ranks = len(left), len(space)
    classes, ranks = np.empty(num_classes, np.int64), np.empty(num_ranks, np.int64)
    via_class[:] = UNSEEN
    via_rank[:] = UNSEEN
    waiting = 0
    for c in range(num_classes):
        if left[c] > 0:
            via_class[c] = ROOT
            classes[waiting] = c
            waiting += 1
    begin, reached = 0, 0
    while begin < waiting:
        new, found = reached, False
        for i in range(begin, waiting):
            c = classes[i]
            for pair in range(first[c], first[c + 1]):
                g = of_rank[pair]
                if via_rank[g] == UNSEEN:
                    via_rank[g] = pair
                    ranks[reached] = g
                    reached += 1
                    found = found or space[g] > 0
        begin = waiting
        for i in range(new, reached):
            g = ranks[i]
            if found:
                if space[g] > 0:
                    augment(g, left, space, flow, of_class, of_rank, via_class, via_rank)
                continue
            start = num_classes + 1 + g
            for pair in by_rank[first[start] : first[start + 1]]:
                c = of_class[pair]
                if via_class[c] == UNSEEN and flow[pair] > 0:
                    via_class[c] = pair
                    classes[waiting] = c
                    waiting += 1
        if found:
            return True
    return False


@compiled
def augment(
    end: int,
    left: Integers,
    space: Integers,
    flow: Integers,
    of_class: Integers,
    of_rank: Integers,
    via_class: Integers,
    via_rank: Integers,
) -> None:
    """Send along the path to rank ``end`` what it still takes; arguments as of :func:`send`.

    Args:
        end: a rank that the search reached.
        left: [C] load not sent yet; changed in place.
        space: [G] load that fits; changed in place.
        flow: [pairs] load sent; changed in place.
        of_class: [pairs] class of each pair.
        of_rank: [pairs] rank of each pair.
        via_class: [C] the pair over which the search came back to a class, or ``ROOT``.
        via_rank: [G] the pair over which the search reached a rank.
    """
    amount = space[end]
    c = of_class[via_rank[end]]
    while via_class[c] >= 0:
        amount = min(amount, flow[via_class[c]])
        c = of_class[via_rank[of_rank[via_class[c]]]]
    amount = min(amount, left[c])
    left[c] -= amount
    space[end] -= amount
    pair = via_rank[end]
    flow[pair] += amount
    while via_class[of_class[pair]] >= 0:
        back = via_class[of_class[pair]]
        flow[back] -= amount
        pair = via_rank[of_rank[back]]
        flow[pair] += amount


@compiled
def load_inside(
    cut: NDArray[np.bool_],
    base: Integers,
    loads: Integers,
    of_class: Integers,
    of_rank: Integers,
) -> tuple[int, int]:
    """Load of what is on the ranks of a cut alone, and their number.

    Args:
        cut: [G] whether a rank is in the set.
        base: [G] load of experts on one rank.
        loads: [C] load of each class.
        of_class: [pairs] class of each pair, ascending.
        of_rank: [pairs] rank of each pair.
    """
    total = number = 0
    for g in range(len(base)):
        if cut[g]:
            number += 1
            total += base[g]
    inside = True
    for pair in range(len(of_class)):
        c = of_class[pair]
        inside = inside and cut[of_rank[pair]]
        if pair + 1 == len(of_class) or of_class[pair + 1] != c:
            if inside:
                total += loads[c]
            inside = True
    return total, number


@compiled
def find_cuts(
    base: Integers, loads: Integers, of_class: Integers, of_rank: Integers
) -> NDArray[np.bool_]:
    """[T, G] for each step a set U of ranks with the largest ratio (load inside U) / |U|.

    Args:
        base: [T, G] load of experts that one rank alone holds, in units of load.
        loads: [T, C] load of each class, in units of load; total load * G^2 of a step fits.
        of_class: [pairs] class of each pair of a class and one of its ranks, ascending.
        of_rank: [pairs] rank of each pair.
    """
    steps, num_ranks = base.shape
    num_classes = loads.shape[1]
    first = np.zeros(num_classes + num_ranks + 2, np.int64)
    for pair in range(len(of_class)):
        first[of_class[pair] + 1] += 1
        first[num_classes + 2 + of_rank[pair]] += 1
    for i in range(num_classes):
        first[i + 1] += first[i]
    for g in range(num_ranks):
        first[num_classes + 2 + g] += first[num_classes + 1 + g]
    by_rank = np.argsort(of_rank, kind="mergesort")
    via_class, via_rank = np.empty(num_classes, np.int64), np.empty(num_ranks, np.int64)
    flow = np.zeros(len(of_class), np.int64)
    cuts = np.zeros((steps, num_ranks), np.bool_)
    for t in range(steps):
        cut = first_cut(t, cuts, base, loads, of_class, of_rank)
        total, number = load_inside(cut, base[t], loads[t], of_class, of_rank)
        flow[:] = 0
        while True:
            # All loads times |U|: ranks then take ``total`` each. What was sent fits again.
            left, space = loads[t] * number, total - base[t] * number
            for pair in range(len(of_class)):
                left[of_class[pair]] -= flow[pair]
                space[of_rank[pair]] -= flow[pair]
            while send(left, space, flow, of_class, of_rank, by_rank, first, via_class, via_rank):
                pass
            if not (left > 0).any():
                break
            cut = via_rank != UNSEEN
            before = number
            total, number = load_inside(cut, base[t], loads[t], of_class, of_rank)
            flow = flow * number // before
        cuts[t] = cut
    return cuts


@compiled
def first_cut(
    t: int,
    cuts: NDArray[np.bool_],
    base: Integers,
    loads: Integers,
    of_class: Integers,
    of_rank: Integers,
) -> NDArray[np.bool_]:
    """[G] of all ranks, the rank with most of its own, and cuts of steps before: the best of t.

    Args:
        t: the step.
        cuts: [T, G] sets of ranks of steps before t.
        base: [T, G] load of experts that one rank alone holds, in units of load.
        loads: [T, C] load of each class, in units of load.
        of_class: [pairs] class of each pair, ascending.
        of_rank: [pairs] rank of each pair.
    """
    best = np.ones(base.shape[1], np.bool_)
    total, number = load_inside(best, base[t], loads[t], of_class, of_rank)
    heaviest = 0
    for g in range(base.shape[1]):
        if base[t, g] > base[t, heaviest]:
            heaviest = g
    for i in range(max(0, t - KNOWN_CUTS) - 1, t):
        if i < max(0, t - KNOWN_CUTS):
            cut = np.zeros(base.shape[1], np.bool_)
            cut[heaviest] = True
        else:
            cut = cuts[i].copy()
        other, size = load_inside(cut, base[t], loads[t], of_class, of_rank)
        if other * number > total * size:
            best, total, number = cut, other, size
    return best


def rehearse() -> None:
    """Compile, on a toy."""
    pairs = np.array([0, 0]), np.array([0, 1])
    find_cuts(np.array([[1, 0], [0, 0]]), np.array([[2], [1]]), *pairs)
