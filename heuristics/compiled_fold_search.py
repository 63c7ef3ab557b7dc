"""The steps of :mod:`heuristics.fold_search`, compiled; loading it loads numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from heuristics.compiled import compiled

Array = NDArray[Any]

NEVER = 2**62
"""A load that no move leaves."""


@compiled
def run_steps(
    loads: Array,
    floor: Array,
    now: Array,
    best: Array,
    least: Array,
    draws: Array,
    num_slots: int,
    target_shift: int,
    aimed: int,
) -> None:
    """Steps row by row.

    Args:
        loads: [B, E] float64, in units.
        floor: [B] a lower bound on the makespan, in units.
        now: [B, E] replicas of each expert; changed in place.
        best: [B, E] those with the least makespan so far; changed in place.
        least: [B] that makespan, in units; changed in place.
        draws: [steps, 2, C] random numbers in [0, 1): of receivers, of donors.
        num_slots: P.
        target_shift: the target is below ``least`` by a part of 2^-shift.
        aimed: how many of the C moves aim at the heaviest pair and at light donors.
    """
    num_experts = loads.shape[1]
    items = np.empty(num_slots, np.int64)
    receivers, donors = np.empty(num_experts, np.int64), np.empty(num_experts, np.int64)
    for row in range(len(loads)):
        load, count = loads[row], now[row]
        units = np.rint(load / count).astype(np.int64)
        order = np.argsort(units)
        for step in range(len(draws)):
            merge(units, count, order, -1, 0, -1, 0, items)
            top, which = find_heaviest(items)
            if top < least[row]:
                least[row] = top
                best[row] = count
            target = max(least[row] - (least[row] >> target_shift), floor[row])
            heavy, light = items[num_slots - 1 - which], items[which]
            n = list_receivers(load, count, units, heavy, light, receivers)
            m = list_donors(load, count, donors)
            r, d = find_move(
                load, count, units, order, receivers[:n], donors[:m], draws[step], aimed, target,
                items,
            )  # fmt: skip
            if r >= 0:
                count[r] += 1
                count[d] -= 1
                for e in (r, d):
                    units[e] = np.rint(load[e] / count[e])
                    reinsert(order, units, e)


@compiled
def reinsert(order: Array, units: Array, expert: int) -> None:
    """Move an expert to where it belongs after its load changed.

    Args:
        order: [E] experts, the others by load, ascending; changed in place.
        units: [E] load of an expert's replicas.
        expert: e.
    """
    i = 0
    while order[i] != expert:
        i += 1
    while i > 0 and units[order[i - 1]] > units[expert]:
        order[i] = order[i - 1]
        i -= 1
    while i + 1 < len(order) and units[order[i + 1]] < units[expert]:
        order[i] = order[i + 1]
        i += 1
    order[i] = expert


@compiled
def find_move(
    load: Array,
    count: Array,
    units: Array,
    order: Array,
    receivers: Array,
    donors: Array,
    draw: Array,
    aimed: int,
    target: int,
    items: Array,
) -> tuple[int, int]:
    """The receiver and the donor of the best move, or -1 where none helps.

    Args:
        load: [E] float64, in units.
        count: [E] replicas of each expert.
        units: [E] load of its replicas.
        order: [E] experts by that load, ascending.
        receivers: [n] experts.
        donors: [m] experts.
        draw: [2, C] random numbers in [0, 1).
        aimed: how many of the moves are between these lists.
        target: in units.
        items: [P] loads of replicas now, ascending; changed.
    """
    r, d, least = -1, -1, 2 * excess_above(items, target, NEVER)
    if len(donors) == 0:
        return r, d
    for i in range(draw.shape[1]):
        if i < aimed:
            a = receivers[int(draw[0, i] * len(receivers))]
            b = donors[int(draw[1, i] ** 3 * len(donors))]
        else:
            a = int(draw[0, i] * len(load))
            b = donors[int(draw[1, i] * len(donors))]
        if a == b:
            continue
        gained = int(np.rint(load[a] / (count[a] + 1)))
        lost = int(np.rint(load[b] / (count[b] - 1)))
        merge(units, count, order, a, gained, b, lost, items)
        excess = excess_above(items, target, least)
        if excess < least:
            least, r, d = excess, a, b
    return r, d


@compiled
def merge(
    units: Array, count: Array, order: Array, a: int, gained: int, b: int, lost: int, items: Array
) -> None:
    """The loads of all replicas in ascending order, after a move from expert b to a.

    Args:
        units: [E] load of an expert's replicas now.
        count: [E] replicas now.
        order: [E] experts by that load, ascending.
        a: the expert that receives a replica; -1 for no move.
        gained: load of its replicas afterwards.
        b: the expert that gives one.
        lost: load of its replicas afterwards.
        items: [P] result.
    """
    first, num_first, second, num_second = gained, 0, lost, 0
    if a >= 0:
        num_first, num_second = count[a] + 1, count[b] - 1
    if second < first:
        first, num_first, second, num_second = second, num_second, first, num_first
    p = 0
    for e in order:
        if e in (a, b):
            continue
        if num_first and units[e] >= first:
            items[p : p + num_first] = first
            p += num_first
            num_first = 0
        if num_second and units[e] >= second:
            items[p : p + num_second] = second
            p += num_second
            num_second = 0
        for _ in range(count[e]):
            items[p] = units[e]
            p += 1
    items[p : p + num_first] = first
    items[p + num_first : p + num_first + num_second] = second


@compiled
def find_heaviest(items: Array) -> tuple[int, int]:
    """The load of the heaviest pair of the fold and the place of its lighter replica.

    Args:
        items: [P] loads of replicas, ascending.
    """
    top, which = -1, 0
    for i in range(len(items) // 2):
        pair = items[i] + items[len(items) - 1 - i]
        if pair > top:
            top, which = pair, i
    return top, which


@compiled
def excess_above(items: Array, target: int, limit: int) -> int:
    """The load above the target, summed over the pairs of the fold; given up at a limit.

    Args:
        items: [P] loads of replicas, ascending.
        target: in units.
        limit: in units.
    """
    excess = 0
    for i in range(len(items) // 2):
        excess += max(items[i] + items[len(items) - 1 - i] - target, 0)
        if excess >= limit:
            break
    return excess


@compiled
def list_receivers(
    load: Array, count: Array, units: Array, heavy: int, light: int, found: Array
) -> int:
    """How many experts may relieve the heaviest pair with one more replica.

    Args:
        load: [E] float64, in units.
        count: [E] replicas of each expert.
        units: [E] load of its replicas.
        heavy: load of the pair's heavier replica.
        light: load of its lighter replica.
        found: [E] the experts, ascending; result.
    """
    n = 0
    for e in range(len(load)):
        if units[e] >= heavy or (units[e] > light and np.rint(load[e] / (count[e] + 1)) <= light):
            found[n] = e
            n += 1
    return n


@compiled
def list_donors(load: Array, count: Array, found: Array) -> int:
    """How many experts have a replica to spare.

    Args:
        load: [E] float64, in units.
        count: [E] replicas of each expert.
        found: [E] the experts, first those whose replicas stay lightest; result.
    """
    n = 0
    for e in range(len(count)):
        if count[e] > 1:
            found[n] = e
            n += 1
    lost = np.rint(load[found[:n]] / (count[found[:n]] - 1))
    found[:n] = found[:n][np.argsort(lost, kind="mergesort")]
    return n
