"""Optimal dispatch of one step after another, compiled: tokens pushed from full ranks to others.

A rank above the trial makespan pushes tokens along the shortest path to a rank below it: from slot
to slot of an expert, rank by rank (augmenting paths: Edmonds and Karp, J. ACM 19 (1972) 248). Where
no path is left, the ranks reached hold all tokens of their experts: their mean load is a lower
bound on the makespan, and the next trial (Dinkelbach, Management Science 13 (1967) 492). A step
whose tokens were dispatched for a similar placement needs a few pushes only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from heuristics.compiled import compiled

Array = Any
"""A numpy array."""
Arrays = Any
"""A tuple of them: what :func:`index_slots` lists, or scratch of :func:`make_scratch`."""

CLOSE = 1e-5
"""Of the mean rank load: ranks this much above the makespan count as level."""
EMPTY = 1e-12
"""Of the mean rank load: fewer tokens are rounding."""
BELOW = 1e-9
"""Of the mean rank load: a rank takes tokens if it is this much below the trial makespan."""
UNSEEN, SOURCE = -2, -1


@compiled
def make_index(num_experts: int, num_slots: int, num_ranks: int) -> Arrays:
    """Space for what :func:`index_slots` lists.

    Returns:
        first: [E + 1] where the slots of each expert begin in ``by_expert``.
        by_expert: [P] slots in the order of their experts.
        start: [G + 1] where the shared slots of each rank begin in ``shared``.
        shared: [P] slots whose expert has others, in the order of their ranks.
    """
    first, start = np.zeros(num_experts + 1, np.int64), np.zeros(num_ranks + 1, np.int64)
    return first, np.zeros(num_slots, np.int64), start, np.zeros(num_slots, np.int64)


@compiled
def make_scratch(num_experts: int, num_ranks: int) -> Arrays:
    """Space for a search.

    Returns:
        via: [G] the slot from which, times P, plus that to which a search reached a rank.
        queue: [G] ranks in the order in which they were reached.
        seen: [E] whether the search went through an expert.
    """
    ranks = np.zeros(num_ranks, np.int64)
    return ranks, np.zeros(num_ranks, np.int64), np.zeros(num_experts, np.bool_)


@compiled
def index_slots(phy2log: Array, index: Arrays) -> None:
    """List the slots of every expert, and on every rank those that another slot shares with.

    Args:
        phy2log: [P] the expert in each slot.
        index: result, as of :func:`make_index`.
    """
    first, by_expert, start, shared = index
    num_slots, num_ranks = len(phy2log), len(start) - 1
    slots_per_rank = num_slots // num_ranks
    first[:] = 0
    for p in range(num_slots):
        first[phy2log[p] + 1] += 1
    for e in range(len(first) - 1):
        first[e + 1] += first[e]
    for p in range(num_slots - 1, -1, -1):  # first[e + 1] runs down to where e begins
        e = phy2log[p]
        first[e + 1] -= 1
        by_expert[first[e + 1]] = p
    first[:-1] = first[1:]
    first[-1] = num_slots
    n = 0
    for g in range(num_ranks):
        start[g] = n
        for p in range(g * slots_per_rank, (g + 1) * slots_per_rank):
            if first[phy2log[p] + 1] - first[phy2log[p]] > 1:
                shared[n] = p
                n += 1
    start[num_ranks] = n


@compiled
def level(
    tokens: Array, load: Array, phy2log: Array, index: Arrays, scratch: Arrays, cut: Array
) -> None:
    """Share tokens of one step so that its fullest rank is as light as possible.

    Args:
        tokens: [P] of each slot; changed in place.
        load: [G] of each rank, their sums; changed in place.
        phy2log: [P] the expert in each slot.
        index: as of :func:`index_slots`.
        scratch: as of :func:`make_scratch`.
        cut: [G] a set of ranks that may hold up the step; result: one that does, none where all
            ranks are level.
    """
    via, queue, seen = scratch
    mean = load.sum() / len(load)
    trial = load_inside(tokens, load, phy2log, index, cut)
    if trial <= mean:
        trial = mean
        cut[:] = False
    while True:
        via[:] = UNSEEN
        seen[:] = False
        reached = 0
        for g in range(len(load)):
            if load[g] > trial + CLOSE * mean:
                via[g] = SOURCE
                queue[reached] = g
                reached += 1
        if reached == 0:
            return
        end = search(reached, tokens, load, trial, phy2log, index, scratch)
        if end >= 0:
            push(end, tokens, load, trial, via)
            continue
        total = 0.0
        cut[:] = False
        for i in range(-end):
            total += load[queue[i]]
            cut[queue[i]] = True
        if total / -end <= trial:  # loads so small that they round
            return
        trial = total / -end


@compiled
def load_inside(tokens: Array, load: Array, phy2log: Array, index: Arrays, cut: Array) -> float:
    """The load of a set of ranks that no dispatch can send elsewhere, over their number: a lower
    bound on the makespan; 0 for no ranks.

    Args:
        tokens: [P] of each slot.
        load: [G] of each rank.
        phy2log: [P] the expert in each slot.
        index: as of :func:`index_slots`.
        cut: [G] whether a rank is in the set.
    """
    first, by_expert, start, shared = index
    slots_per_rank = len(tokens) // len(load)
    total, number = 0.0, 0
    for g in range(len(load)):
        if not cut[g]:
            continue
        number += 1
        total += load[g]
        for i in range(start[g], start[g + 1]):
            e = phy2log[shared[i]]
            for j in range(first[e], first[e + 1]):
                if not cut[by_expert[j] // slots_per_rank]:
                    total -= tokens[shared[i]]
                    break
    return total / max(number, 1)


@compiled
def search(
    reached: int,
    tokens: Array,
    load: Array,
    trial: float,
    phy2log: Array,
    index: Arrays,
    scratch: Arrays,
) -> int:
    """A nearest rank that takes tokens; minus the number of ranks reached if there is none.

    Args:
        reached: ranks in the queue, those to push from.
        tokens: [P] of each slot.
        load: [G] of each rank.
        trial: ranks below take tokens.
        phy2log: [P] the expert in each slot.
        index: as of :func:`index_slots`.
        scratch: as of :func:`make_scratch`; changed in place.
    """
    first, by_expert, start, shared = index
    via, queue, seen = scratch
    num_slots = len(tokens)
    slots_per_rank = num_slots // len(load)
    mean = load.sum() / len(load)
    at = 0
    while at < reached:
        g = queue[at]
        at += 1
        for i in range(start[g], start[g + 1]):
            p = shared[i]
            e = phy2log[p]
            if seen[e] or tokens[p] <= EMPTY * mean:
                continue
            seen[e] = True
            for j in range(first[e], first[e + 1]):
                q = by_expert[j]
                h = q // slots_per_rank
                if via[h] != UNSEEN:
                    continue
                via[h] = p * num_slots + q
                if load[h] < trial - BELOW * mean:
                    return int(h)
                queue[reached] = h
                reached += 1
    return -reached


@compiled
def push(end: int, tokens: Array, load: Array, trial: float, via: Array) -> None:
    """Push along the path to a rank what its tokens, the first rank and the last allow.

    Args:
        end: the last rank of the path, below ``trial``.
        tokens: [P] of each slot; changed in place.
        load: [G] of each rank; changed in place.
        trial: no rank gets above it, nor the first one below.
        via: [G] as of :func:`make_scratch`.
    """
    num_slots = len(tokens)
    slots_per_rank = num_slots // len(load)
    amount, g = trial - load[end], end
    while via[g] != SOURCE:
        amount = min(amount, tokens[via[g] // num_slots])
        g = via[g] // num_slots // slots_per_rank
    amount = min(amount, load[g] - trial)
    load[g] -= amount
    load[end] += amount
    g = end
    while via[g] != SOURCE:
        tokens[via[g] // num_slots] -= amount
        tokens[via[g] % num_slots] += amount
        g = via[g] // num_slots // slots_per_rank


@compiled
def dispatch_all(
    loads: Array, phy2log: Array, tokens: Array, ranks: Array, values: Array, cuts: Array
) -> None:
    """Dispatch all steps of all layers from even shares.

    Args:
        loads: [L, T, E] tokens of each expert.
        phy2log: [L, P] the expert in each slot.
        tokens: [L, T, P] result: tokens of each slot.
        ranks: [L, T, G] of each rank without these experts; changed in place to their sum.
        values: [L, T] result: makespans.
        cuts: [L, T, G] result: whether the rank is in a set whose mean load is the makespan; none
            where all ranks are level.
    """
    num_layers, steps, num_experts = loads.shape
    num_slots, num_ranks = phy2log.shape[1], ranks.shape[2]
    slots_per_rank = num_slots // num_ranks
    index = make_index(num_experts, num_slots, num_ranks)
    scratch, first = make_scratch(num_experts, num_ranks), index[0]
    for layer in range(num_layers):
        slots = phy2log[layer]
        index_slots(slots, index)
        cuts[layer, :1] = False
        for t in range(steps):
            load = ranks[layer, t]
            for p in range(num_slots):
                e = slots[p]
                tokens[layer, t, p] = loads[layer, t, e] / (first[e + 1] - first[e])
                load[p // slots_per_rank] += tokens[layer, t, p]
            cuts[layer, t] = cuts[layer, max(t - 1, 0)]  # often critical again
            level(tokens[layer, t], load, slots, index, scratch, cuts[layer, t])
            values[layer, t] = load.max()
