"""The trials of :mod:`heuristics.steps.trials`, compiled; loading it loads numba."""

from __future__ import annotations

import numpy as np

from heuristics.compiled import compiled
from heuristics.steps.compiled_even import units_away
from heuristics.steps.pushes import (
    Array,
    Arrays,
    index_slots,
    level,
    make_index,
    make_scratch,
)
from heuristics.steps.racing import DOUBT, FIRST_LOOK

NEVER = 2**62
"""Transfers of a move that makes no placement."""


@compiled
def try_each(
    num_nodes: int,
    loads: Array,
    placements: Array,
    tokens: Array,
    ranks: Array,
    cuts: Array,
    makespans: Array,
    moves: Array,
    thresholds: Array,
    held: Array,
    left: Array,
    home: Array,
    units: Array,
    most: Array,
    kept: Array,
) -> None:
    """Try moves in order: layer by layer, move by move, step by step.

    Args:
        num_nodes: N.
        loads: [L, T, E] tokens of each expert.
        placements: [L, P] the expert in each slot; changed in place.
        tokens: [L, T, P] of each slot; changed in place.
        ranks: [L, T, G] of each rank; changed in place.
        cuts: [L, T, G] ranks that hold up a step; changed in place.
        makespans: [L, T]; changed in place.
        moves: [L, C, 3].
        thresholds: [L, C].
        held: [L, G, E] whether a rank held an expert before.
        left: [L] transfers; changed in place.
        home: [L, E] the node of each expert under the rule ``home``, else [L, 0].
        units: [L, E] of each expert at all steps.
        most: [L] units that may be served off home.
        kept: [L, C] result.
    """
    num_layers, steps, num_experts = loads.shape
    num_slots, num_ranks = placements.shape[1], ranks.shape[2]
    index = make_index(num_experts, num_slots, num_ranks)
    scratch = make_scratch(num_experts, num_ranks)
    new_tokens, new_ranks = np.zeros((steps, num_slots)), np.zeros((steps, num_ranks))
    new_cuts, new_makespans = np.zeros((steps, num_ranks), np.bool_), np.zeros(steps)
    new = new_tokens, new_ranks, new_cuts, new_makespans
    for layer in range(num_layers):
        phy2log = placements[layer]
        now = tokens[layer], ranks[layer], cuts[layer], makespans[layer]
        changed = np.zeros(num_slots, np.bool_)
        away, leaves = 0, np.zeros(home.shape[1], np.int64)
        index_slots(phy2log, index)
        for e in range(home.shape[1]):
            leaves[e] = find_units_away(e, home[layer, e], units[layer, e], index, num_nodes)
            away += leaves[e]
        for c in range(moves.shape[1]):
            p, q, b = moves[layer, c]
            if changed[p] or (q >= 0 and changed[q]):
                continue
            a = phy2log[p]
            phy2log[p] = b = phy2log[q] if q >= 0 else b
            if q >= 0:
                phy2log[q] = a
            index_slots(phy2log, index)
            takes = added_transfers(phy2log, p, q, a, held[layer], index)
            leaves_a, leaves_b, more = 0, 0, 0
            if len(leaves) > 0 and takes <= left[layer]:
                leaves_a = find_units_away(a, home[layer, a], units[layer, a], index, num_nodes)
                leaves_b = find_units_away(b, home[layer, b], units[layer, b], index, num_nodes)
                more = leaves_a + leaves_b - leaves[a] - leaves[b]
            fits = takes <= left[layer] and away + more <= max(most[layer], away)
            if fits and wins_race(phy2log, p, q, a, now, new, index, scratch, thresholds[layer, c]):
                away += more
                if len(leaves) > 0:
                    leaves[a], leaves[b] = leaves_a, leaves_b
                tokens[layer], ranks[layer], cuts[layer], makespans[layer] = new
                left[layer] -= takes
                kept[layer, c] = changed[p] = True
                if q >= 0:
                    changed[q] = True
            else:
                phy2log[p] = a
                if q >= 0:
                    phy2log[q] = b


@compiled
def find_units_away(e: int, node: int, units: float, index: Arrays, num_nodes: int) -> int:
    """Units of an expert with a slot that are served off home; more than any number if it has no
    slot at home.

    Args:
        e: the expert.
        node: its home.
        units: of it at all steps.
        index: as of :func:`heuristics.steps.pushes.index_slots`.
        num_nodes: N.
    """
    first, by_expert = index[0], index[1]
    here, of_node = 0, len(by_expert) // num_nodes
    for i in range(first[e], first[e + 1]):
        here += int(by_expert[i] // of_node == node)
    if here == 0:
        return NEVER // 4
    return units_away(units, first[e + 1] - first[e], here)


@compiled
def wins_race(
    phy2log: Array,
    p: int,
    q: int,
    a: int,
    now: Arrays,
    new: Arrays,
    index: Arrays,
    scratch: Arrays,
    threshold: float,
) -> bool:
    """Whether the mean makespan changes by less than the threshold, and was not given up.

    Args:
        phy2log: [P] the expert in each slot, after the move.
        p: the first slot of the move.
        q: the second slot, or -1.
        a: the expert that p held.
        now: tokens [T, P], ranks [T, G], cuts [T, G] and makespans [T] before.
        new: the same after the move; result.
        index: as of :func:`heuristics.steps.pushes.index_slots`, after the move.
        scratch: as of :func:`heuristics.steps.pushes.make_scratch`.
        threshold: of the mean change.
    """
    tokens, ranks, cuts, makespans = now
    new_tokens, new_ranks, new_cuts, new_makespans = new
    total, squares, look = 0.0, 0.0, FIRST_LOOK
    for t in range(len(makespans)):
        new_tokens[t], new_ranks[t], new_cuts[t] = tokens[t], ranks[t], cuts[t]
        hand_over(new_tokens[t], new_ranks[t], p, q, a, index)
        level(new_tokens[t], new_ranks[t], phy2log, index, scratch, new_cuts[t])
        new_makespans[t] = new_ranks[t].max()
        change = new_makespans[t] - makespans[t]
        total += change
        squares += change * change
        if t + 1 == look:
            mean = total / look
            spread = max(squares / look - mean * mean, 0.0)
            if mean - DOUBT * np.sqrt(spread / look) > threshold:
                return False
            look *= 2
    return bool(total / len(makespans) < threshold)


@compiled
def added_transfers(phy2log: Array, p: int, q: int, a: int, held: Array, index: Arrays) -> int:
    """Transfers that a move adds; more than any number that may be left if it makes no placement.

    Args:
        phy2log: [P] the expert in each slot, after the move.
        p: the first slot of the move.
        q: the second slot, or -1.
        a: the expert that p held.
        held: [G, E] whether a rank held an expert before.
        index: as of :func:`heuristics.steps.pushes.index_slots`, after the move.
    """
    first, slots_per_rank = index[0], len(phy2log) // len(held)
    b, g, h = phy2log[p], p // slots_per_rank, q // slots_per_rank
    if a == b or first[a + 1] == first[a] or number_on_rank(phy2log, b, g, slots_per_rank) > 1:
        return NEVER
    takes = received(phy2log, held[g], b, a, g, slots_per_rank)
    if q < 0:
        return takes
    if number_on_rank(phy2log, a, h, slots_per_rank) > 1:
        return NEVER
    return takes + received(phy2log, held[h], a, b, h, slots_per_rank)


@compiled
def received(
    phy2log: Array, held: Array, comes: int, goes: int, rank: int, slots_per_rank: int
) -> int:
    """Transfers of a rank that a change in one slot adds.

    Args:
        phy2log: [P] the expert in each slot, after the change.
        held: [E] what the rank held before.
        comes: the expert in the slot now.
        goes: the expert in it until now; its transfer is saved if no other slot of the rank has it.
        rank: g.
        slots_per_rank: S.
    """
    saved = not held[goes] and number_on_rank(phy2log, goes, rank, slots_per_rank) == 0
    return int(not held[comes]) - int(saved)


@compiled
def number_on_rank(phy2log: Array, expert: int, rank: int, slots_per_rank: int) -> int:
    """Slots of an expert on a rank.

    Args:
        phy2log: [P] the expert in each slot.
        expert: e.
        rank: g.
        slots_per_rank: S.
    """
    found = 0
    for p in range(rank * slots_per_rank, (rank + 1) * slots_per_rank):
        found += phy2log[p] == expert
    return found


@compiled
def hand_over(tokens: Array, load: Array, p: int, q: int, a: int, index: Arrays) -> None:
    """Give tokens to the slots that serve them after a move: a dispatch to start from.

    Args:
        tokens: [P] of each slot; changed in place.
        load: [G] of each rank; changed in place.
        p: the first slot of the move.
        q: the second slot, or -1.
        a: the expert that p held.
        index: as of :func:`heuristics.steps.pushes.index_slots`, after the move.
    """
    first, by_expert = index[0], index[1]
    slots_per_rank = len(tokens) // len(load)
    more = tokens[p]
    if q >= 0:
        more -= tokens[q]
    else:
        q = by_expert[first[a]]
        for i in range(first[a], first[a + 1]):
            if load[by_expert[i] // slots_per_rank] < load[q // slots_per_rank]:
                q = by_expert[i]
    tokens[p] -= more
    tokens[q] += more
    load[p // slots_per_rank] -= more
    load[q // slots_per_rank] += more
