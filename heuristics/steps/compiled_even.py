"""The rounds of :mod:`heuristics.steps.even_annealing`, compiled; loading it loads numba.

The *state* of a layer is a tuple of int64 arrays: counts [E] of replicas; on_ranks [E, G] of them;
shares [E, T], units that a replica carries; ranks [G, T], units; top [3, T], the largest of them;
full [3, T], the
ranks that carry these; makespans [T] after the move that is tried.
"""

from __future__ import annotations

import numpy as np

from heuristics.compiled import compiled
from heuristics.steps.even_values import ABOVE, FIRST_LOOK, WEIGHT
from heuristics.steps.pushes import Array, Arrays
from heuristics.steps.racing import DOUBT


@compiled
def anneal_rounds(
    num_counted: int,
    num_nodes: int,
    near: float,
    tokens: Array,
    weights: Array,
    heat: Array,
    placements: Array,
    bests: Array,
    least: Array,
    held: Array,
    left: Array,
    home: Array,
    units: Array,
    most: Array,
    step: Array,
    slot: Array,
    other: Array,
    kind: Array,
    rise: Array,
) -> None:
    """Rounds of all layers, one layer after the other.

    Args:
        num_counted: steps that count.
        num_nodes: N.
        near: the part of moves within the node; 1 but under the rule ``home``.
        tokens: [L, E, T] of each expert, in units.
        weights: [T] what the n-th worst step counts.
        heat: [L] the first temperature, in units by weights.
        placements: [L, P] the expert in each slot; changed in place.
        bests: [L, P] the best until now; changed in place.
        least: [L] its value, in units by weights; changed in place.
        held: [L, G, E] whether a rank held an expert before.
        left: [L] transfers; changed in place.
        home: [L, E] the node of each expert under the rule ``home``, else [L, 0].
        units: [L, E] of each expert at all steps.
        most: [L] units that may be served off home.
        step: [R, C] in [0, 1).
        slot: [R, C] in [0, 1).
        other: [R, C] in [0, 1).
        kind: [R, C] of the move: 0, 1 or -1.
        rise: [R, C] that is allowed, over the first temperature.
    """
    num_ranks, num_slots = held.shape[1], placements.shape[1]
    size, of_node, has_homes = num_slots // num_ranks, num_slots // num_nodes, home.shape[1] > 0
    for layer in range(len(tokens)):
        phy2log = placements[layer]
        state = find_state(tokens[layer], phy2log, num_ranks)
        full, makespans = state[5], state[6]
        order = find_order(makespans, weights)
        value = value_of(makespans, weights, num_counted)
        here, away = np.zeros(home.shape[1], np.int64), 0
        for e in range(home.shape[1]):
            here[e] = count_here(state[1][e], home[layer, e], num_nodes)
            away += units_away(units[layer, e], state[0][e], here[e])
        for r in range(len(step)):
            for c in range(step.shape[1]):
                g = full[0, order[int(step[r, c] * num_counted)]]
                p = g * size + int(slot[r, c] * size)
                if other[r, c] < near:
                    reach, part = of_node, other[r, c] / near
                else:
                    reach, part = num_slots, (other[r, c] - near) / (1 - near)
                q = p // reach * reach + int(part * (reach - size))
                q += size * (q >= g * size)
                move = phy2log[p], phy2log[q], g, q // size, kind[r, c]
                takes = count_takes(held[layer], state[0], state[1], move)
                if takes > left[layer]:
                    continue
                more, allowed = 0, int(rise[r, c] * heat[layer])
                if has_homes:
                    more = count_more_away(
                        home[layer], units[layer], here, state[0], num_ranks // num_nodes, move
                    )
                    if away + more > max(most[layer], away):
                        continue
                    if more < 0 and away > most[layer]:
                        allowed = ABOVE
                if not passes(tokens[layer], state, move, weights, num_counted, value, allowed):
                    continue
                left[layer] -= takes
                away += more
                make(tokens[layer], state, move)
                if move[4] <= 0:
                    phy2log[p] = move[1]
                if move[4] >= 0:
                    phy2log[q] = move[0]
                order = find_order(makespans, weights)
                value = value_of(makespans, weights, num_counted)
                if has_homes:
                    for e in move[:2]:
                        here[e] = count_here(state[1][e], home[layer, e], num_nodes)
                above = ABOVE if away > most[layer] else 0
                if value + above < least[layer]:
                    least[layer] = value + above
                    bests[layer] = phy2log
                break


NEVER = 2**62
"""Transfers of a move that makes no placement."""


@compiled
def count_takes(
    held: Array, counts: Array, on_ranks: Array, move: tuple[int, int, int, int, int]
) -> int:
    """Transfers that a move adds; more than any number that may be left if it makes no placement.

    Args:
        held: [G, E] whether a rank held an expert before.
        counts: [E] of replicas.
        on_ranks: [E, G] of replicas.
        move: the expert a of slot p, b of slot q, their ranks, and the kind.
    """
    a, b, g, h, kind = move
    if a == b or (kind == 1 and counts[b] == 1) or (kind == -1 and counts[a] == 1):
        return NEVER
    takes = 0
    if kind <= 0:
        takes += int(not held[g, b] and on_ranks[b, g] == 0)
        takes -= int(not held[g, a] and on_ranks[a, g] == 1)
    if kind >= 0:
        takes += int(not held[h, a] and on_ranks[a, h] == 0)
        takes -= int(not held[h, b] and on_ranks[b, h] == 1)
    return takes


@compiled
def count_here(on_ranks: Array, node: int, num_nodes: int) -> int:
    """Replicas of an expert on a node.

    Args:
        on_ranks: [G] replicas of the expert.
        node: n.
        num_nodes: N.
    """
    size = len(on_ranks) // num_nodes
    return int(on_ranks[node * size : (node + 1) * size].sum())


@compiled
def units_away(units: float, count: int, here: int) -> int:
    """Units, rounded up, of an expert with ``count`` replicas that those ``here``, at home, do not
    serve.
    """
    return int(np.ceil(units * (count - here) / count))


@compiled
def count_more_away(
    home: Array,
    units: Array,
    here: Array,
    counts: Array,
    ranks_per_node: int,
    move: tuple[int, int, int, int, int],
) -> int:
    """Units that a move, which makes a placement, serves off home beside those now; more than any
    number if it leaves an expert without a replica at home.

    Args:
        home: [E] the node of each expert.
        units: [E] of each expert at all steps.
        here: [E] replicas at home.
        counts: [E] of replicas.
        ranks_per_node: G/N.
        move: as of :func:`count_takes`.
    """
    a, b, g, h, kind = move
    p_takes, q_takes, g, h = (
        int(kind <= 0),
        int(kind >= 0),
        g // ranks_per_node,
        h // ranks_per_node,
    )
    more = 0
    for e, at_g, at_h in ((a, -p_takes, q_takes), (b, p_takes, -q_takes)):
        stays = here[e] + at_g * int(home[e] == g) + at_h * int(home[e] == h)
        if stays == 0:
            return NEVER
        more += units_away(units[e], counts[e] + at_g + at_h, stays)
        more -= units_away(units[e], counts[e], here[e])
    return more


@compiled
def passes(
    tokens: Array,
    state: Arrays,
    move: tuple[int, int, int, int, int],
    weights: Array,
    num_counted: int,
    value: int,
    allowed: int,
) -> bool:
    """Whether the value after a move is higher by at most ``allowed``, and no race is lost.

    Args:
        tokens: [E, T] of each expert, in units.
        state: of the layer; its last array is filled up to where the trial is given up.
        move: as of :func:`count_takes`.
        weights: [T] what the n-th worst step counts.
        num_counted: steps that count.
        value: before the move, in units by weights.
        allowed: in units by weights.
    """
    top, makespans = state[4], state[6]
    steps = len(makespans)
    if weights[-1] < WEIGHT:
        find_makespans(tokens, state, move, 0, steps)
        return bool(value_of(makespans, weights, num_counted) - value <= allowed)
    total, size, start, look = 0, 0, 0, FIRST_LOOK
    while start < steps:
        stop = min(look, steps)
        find_makespans(tokens, state, move, start, stop)
        after, before = makespans[start:stop], top[0, start:stop]
        for t in range(stop - start):
            change = after[t] - before[t]
            total += change
            size += abs(change)
        if stop < steps:
            doubt = size * (DOUBT / np.sqrt(stop))
            if (total - doubt) * WEIGHT * steps > allowed * float(stop):
                return False
        start, look = stop, 2 * look
    return bool(total * WEIGHT <= allowed)


@compiled
def find_makespans(
    tokens: Array, state: Arrays, move: tuple[int, int, int, int, int], start: int, stop: int
) -> None:
    """Makespans after a move, at steps ``start .. stop - 1``.

    Args:
        tokens: [E, T] of each expert, in units.
        state: of the layer; its last array is filled.
        move: as of :func:`count_takes`.
        start: the first step.
        stop: after the last step.
    """
    shares, ranks, top, full, makespans = state[2], state[3], state[4], state[5], state[6]
    a, b, g, h, kind = move
    if kind != 0:
        find_makespans_of_gift(tokens, state, move, start, stop)
        return
    share_a, share_b = shares[a, start:stop], shares[b, start:stop]
    rank_g, rank_h = ranks[g, start:stop], ranks[h, start:stop]
    first, second, third = top[0, start:stop], top[1, start:stop], top[2, start:stop]
    full_first, full_second = full[0, start:stop], full[1, start:stop]
    found = makespans[start:stop]
    for t in range(stop - start):  # from 0, so that compilers see no negative index
        change = share_b[t] - share_a[t]
        most = third[t]
        if full_second[t] != g and full_second[t] != h:
            most = second[t]
        if full_first[t] != g and full_first[t] != h:
            most = first[t]
        found[t] = max(most, max(rank_g[t] + change, rank_h[t] - change))


@compiled
def find_makespans_of_gift(
    tokens: Array, state: Arrays, move: tuple[int, int, int, int, int], start: int, stop: int
) -> None:
    """Makespans after a move that changes counts, at steps ``start .. stop - 1``.

    Args:
        tokens: [E, T] of each expert, in units.
        state: of the layer; its last array is filled.
        move: as of :func:`count_takes`.
        start: the first step.
        stop: after the last step.
    """
    counts, on_ranks, shares, ranks, makespans = (
        state[0], state[1], state[2], state[3], state[6],
    )  # fmt: skip
    a, b, g, h, kind = move
    gets, loses, rank = (a, b, h) if kind == 1 else (b, a, g)
    more, less = np.empty(stop - start, np.int64), np.empty(stop - start, np.int64)
    divide(tokens[gets, start:stop], counts[gets] + 1, more)
    divide(tokens[loses, start:stop], counts[loses] - 1, less)
    old_more, old_less = shares[gets, start:stop], shares[loses, start:stop]
    found = makespans[start:stop]
    found[:] = 0
    for k in range(len(ranks)):
        n, m, here = on_ranks[gets, k], on_ranks[loses, k], k == rank
        load = ranks[k, start:stop]
        if n + m == 0 and not here:
            for t in range(stop - start):
                found[t] = max(found[t], load[t])
            continue
        for t in range(stop - start):
            change = (n + here) * more[t] - n * old_more[t]
            change += (m - here) * less[t] - m * old_less[t]
            found[t] = max(found[t], load[t] + change)


@compiled
def make(tokens: Array, state: Arrays, move: tuple[int, int, int, int, int]) -> None:
    """Change the state by a move.

    Args:
        tokens: [E, T] of each expert, in units.
        state: of the layer; changed in place.
        move: as of :func:`count_takes`.
    """
    counts, on_ranks, shares, ranks = state[0], state[1], state[2], state[3]
    a, b, g, h, kind = move
    p_takes, q_takes = int(kind <= 0), int(kind >= 0)
    for e, at_g, at_h in ((a, -p_takes, q_takes), (b, p_takes, -q_takes)):
        add(ranks, on_ranks[e], -1, shares[e])
        on_ranks[e, g] += at_g
        on_ranks[e, h] += at_h
        counts[e] += at_g + at_h
        divide(tokens[e], counts[e], shares[e])
        add(ranks, on_ranks[e], 1, shares[e])
    top, full, makespans = state[4], state[5], state[6]
    for t in range(len(makespans)):
        touched = kind != 0 or max(ranks[g, t], ranks[h, t]) >= top[2, t]
        for n in range(3):
            touched |= full[n, t] == g or full[n, t] == h
        if touched:
            find_fullest(ranks, t, top, full)
        makespans[t] = top[0, t]


@compiled
def find_state(tokens: Array, phy2log: Array, num_ranks: int) -> Arrays:
    """The state of a placement.

    Args:
        tokens: [E, T] of each expert, in units.
        phy2log: [P] the expert in each slot.
        num_ranks: G.
    """
    num_experts, steps = tokens.shape
    counts = np.zeros(num_experts, np.int64)
    on_ranks = np.zeros((num_experts, num_ranks), np.int64)
    for p in range(len(phy2log)):
        counts[phy2log[p]] += 1
        on_ranks[phy2log[p], p * num_ranks // len(phy2log)] += 1
    shares = np.empty((num_experts, steps), np.int64)
    ranks = np.zeros((num_ranks, steps), np.int64)
    for e in range(num_experts):
        divide(tokens[e], counts[e], shares[e])
        add(ranks, on_ranks[e], 1, shares[e])
    top, full = np.zeros((3, steps), np.int64), np.zeros((3, steps), np.int64)
    for t in range(steps):
        find_fullest(ranks, t, top, full)
    return counts, on_ranks, shares, ranks, top, full, top[0].copy()


@compiled
def find_fullest(ranks: Array, t: int, top: Array, full: Array) -> None:
    """The three largest loads of a step; of equals the lowest rank comes first.

    Args:
        ranks: [G, T] units.
        t: the step.
        top: [3, T] result, 0 where there are fewer ranks.
        full: [3, T] result, the ranks that carry them, -1 where there are fewer.
    """
    top[:, t], full[:, t] = -1, -1
    for k in range(len(ranks)):
        n = 3
        while n > 0 and ranks[k, t] > top[n - 1, t]:
            n -= 1
        for m in range(2, n, -1):
            top[m, t], full[m, t] = top[m - 1, t], full[m - 1, t]
        if n < 3:
            top[n, t], full[n, t] = ranks[k, t], k
    top[2, t] = max(top[2, t], 0)


@compiled
def value_of(makespans: Array, weights: Array, num_counted: int) -> int:
    """The objective, in units by weights.

    Args:
        makespans: [T] units.
        weights: [T] what the n-th worst step counts: all that count, but for the last, alike.
        num_counted: n, steps that count.
    """
    first, last = weights[0], weights[num_counted - 1]
    if num_counted == 1:
        return int(last * makespans.max())
    if last == first and num_counted == len(makespans):
        return int(first * makespans.sum())
    worst = np.partition(makespans, len(makespans) - num_counted)[len(makespans) - num_counted :]
    return int(first * worst.sum() - (first - last) * worst[0])


@compiled
def find_order(makespans: Array, weights: Array) -> Array:
    """Steps in the order in which they count: any for the mean, else the worst first.

    Args:
        makespans: [T] units.
        weights: [T] what the n-th worst step counts.
    """
    if weights[-1] == WEIGHT:
        return np.arange(len(makespans))
    return np.argsort(-makespans, kind="mergesort")


@compiled
def divide(tokens: Array, count: int, shares: Array) -> None:
    """Units of a replica, rounded.

    Args:
        tokens: [T] of its expert, in units.
        count: of replicas.
        shares: [T] result.
    """
    for t in range(len(tokens)):
        shares[t] = np.int64(np.rint(tokens[t] / count))


@compiled
def add(ranks: Array, on_ranks: Array, factor: int, shares: Array) -> None:
    """Add the replicas of an expert to the ranks that hold them, ``factor`` times.

    Args:
        ranks: [G, T] units; changed in place.
        on_ranks: [G] replicas.
        factor: 1 or -1.
        shares: [T] units of a replica.
    """
    for k in range(len(ranks)):
        if on_ranks[k] > 0:
            for t in range(len(shares)):
                ranks[k, t] += factor * on_ranks[k] * shares[t]
