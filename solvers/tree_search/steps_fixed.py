"""Lower bounds by prices, for placements under ``fixed`` dispatch that are chosen in part.

Any prices p[t, g] >= 0 of a token on rank g at step t, whose sums over g are weights that the
objective admits, say that a placement costs at least

    sum over experts e of  min over the ranks g of e of  sum over t of p[t, g] w[t, e].

An expert that has no ranks yet may get any that have a free slot. The prices are floats that follow
the loads of shares, which in turn avoid what is dear (multiplicative weights; Arora, Hazan, Kale,
Theory of Computing 8 (2012) 121); the bound is then taken from prices rounded to integers. Prices
that have excluded something are tried first on what follows.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from solvers.arrays import Integers
from solvers.compiled import compiled

Floats = NDArray[np.float64]

POOL = 64
"""Prices that are kept."""
ROUNDS = 100
"""Of multiplicative weights, at most."""
SMOOTH = 0.02
"""Prices fall by e for so much less load, as a part of the mean."""
RATE = 0.5
"""A share falls by e where a rank is dearer by this part of the mean."""
SLOWER = 0.8
"""The same is divided by where the bound falls: a step was too long."""
RARE = 1e-6
"""Least share of a rank that may serve an expert."""
PRICE_BITS = 20

NEWEST, NEXT = 0, 1


class Prices(NamedTuple):
    """What is kept from one placement to the next.

    Attributes:
        loads: [E, T] tokens in scaled units.
        tokens: [E, T] the same in units of the mean rank load.
        mean: [1] that mean.
        ranks: [E, 2] the ranks of the expert's node: the first, and the one after the last.
        shares: [E + 1, E, G] of each rank of each expert, with the first 0, 1, .. experts placed.
        kept: [POOL, E, G] sum over t of p[t, g] w[t, e], prices in units of 1 / ``whole``.
        limits: [3] ``whole``, the largest price of a step, and the cost up to which a placement is
            of interest, in units of 1 / ``whole`` of those of ``loads``.
        counters: [2] which kept prices have excluded something last, and which are the oldest.
    """

    loads: Integers
    tokens: Floats
    mean: Floats
    ranks: Integers
    shares: Floats
    kept: Integers
    limits: Integers
    counters: Integers


def new_prices(loads: Integers, most_weight: Fraction, num_nodes: int, num_ranks: int) -> Prices:
    """Nothing is known: shares are equal.

    Args:
        loads: [E, T] tokens, experts node by node.
        most_weight: of one step, under the objective.
        num_nodes: N.
        num_ranks: G.
    """
    E, T = loads.shape
    R = num_ranks // num_nodes
    scale = 2 ** min(PRICE_BITS, 61 - (int(loads.sum()) * most_weight.denominator).bit_length())
    first = np.arange(E) // (E // num_nodes) * R
    ranks = np.stack([first, first + R], axis=1)
    shares = np.zeros((E + 1, E, num_ranks))
    for e in range(E):
        shares[0, e, first[e] : first[e] + R] = 1 / R
    mean = max(1.0, float(loads.sum()) / T / num_ranks)
    return Prices(
        loads=loads,
        tokens=loads / mean,
        mean=np.array([mean]),
        ranks=ranks,
        shares=shares,
        kept=np.zeros((POOL, E, num_ranks), np.int64),
        limits=np.array([most_weight.denominator * scale, most_weight.numerator * scale, 0]),
        counters=np.zeros(2, np.int64),
    )


@compiled
def cost_at(prices: Prices, k: int, sets: Integers) -> int:
    """The bound by kept prices, in units of 1 / ``whole`` of those of the loads.

    Args:
        prices: what is kept.
        k: which of them.
        sets: [E] ranks that each expert may have, in its node; the first has the highest bit.
    """
    total = np.int64(0)
    for e in range(len(sets)):
        first, end = prices.ranks[e, 0], prices.ranks[e, 1]
        least = np.int64(-1)
        for g in range(first, end):
            if sets[e] >> (end - 1 - g) & 1 and (least < 0 or prices.kept[k, e, g] < least):
                least = prices.kept[k, e, g]
        total += least
    return int(total)


@compiled
def price_ranks(loads: Floats, most_weight: float, smooth: float, prices: Floats) -> float:
    """Prices that rise with the load of a rank; returns the objective of the loads, about.

    Args:
        loads: [T, G] in units of the mean.
        most_weight: of one step.
        smooth: prices fall by e for so much less load.
        prices: [T, G] whose sums over g are weights of the steps, about; written.
    """
    T, G = loads.shape
    top, weight = np.empty(T), np.empty(T)
    for t in range(T):
        top[t] = loads[t].max()
        weight[t] = most_weight
    if most_weight * T > 1:
        highest, total = top.max(), 0.0
        for t in range(T):
            weight[t] = np.exp((top[t] - highest) / smooth)
            total += weight[t]
        for t in range(T):
            weight[t] /= total
        for _ in range(T):  # cut at the largest weight, and share what is cut
            free = 0.0
            spare = 1.0
            for t in range(T):
                if weight[t] < most_weight:
                    free += weight[t]
                else:
                    weight[t] = most_weight
                    spare -= most_weight
            if free > 0 and spare > 0:
                for t in range(T):
                    if weight[t] < most_weight:
                        weight[t] *= spare / free
    cost = 0.0
    for t in range(T):
        cost += weight[t] * top[t]
        total = 0.0
        for g in range(G):
            prices[t, g] = np.exp((loads[t, g] - top[t]) / smooth)
            total += prices[t, g]
        for g in range(G):
            prices[t, g] *= weight[t] / total
    return cost


@compiled
def keep(prices: Prices, found: Floats) -> int:
    """Round prices so that the objective admits them, and keep them; returns their number.

    Args:
        prices: changed in place.
        found: [T, G] about what the objective admits.
    """
    (E, T), G = prices.loads.shape, found.shape[1]
    whole, most = prices.limits[0], prices.limits[1]
    k = prices.counters[NEXT]
    prices.counters[NEXT] = (k + 1) % len(prices.kept)
    for e in range(E):
        for g in range(G):
            prices.kept[k, e, g] = 0
    left = whole
    for t in range(T):
        room = min(most, left)
        for g in range(G):
            price = min(room, np.int64(found[t, g] * whole))
            room -= price
            left -= price
            for e in range(E):
                prices.kept[k, e, g] += price * prices.loads[e, t]
    return int(k)


@compiled
def excludes(prices: Prices, sets: Integers, level: int, stages: int) -> bool:
    """Whether prices were found under which no placement with these sets is of interest.

    Args:
        prices: changed in place.
        sets: [E] ranks that each expert may have, in its node; the first has the highest bit.
        level: how many experts have their ranks, 1 or more; shares start from those with one less.
        stages: of ever sharper prices.
    """
    (E, T), G = prices.loads.shape, prices.shares.shape[2]
    number = len(prices.kept)
    for i in range(number):
        k = (prices.counters[NEWEST] + i) % number
        if cost_at(prices, k, sets) > prices.limits[2]:
            prices.counters[NEWEST] = k
            return True
    shares, tokens = prices.shares[level], prices.tokens
    for e in range(E):
        first, end = prices.ranks[e, 0], prices.ranks[e, 1]
        total = 0.0
        for g in range(first, end):
            allowed = sets[e] >> (end - 1 - g) & 1
            shares[e, g] = max(RARE, prices.shares[level - 1, e, g]) if allowed else 0.0
            total += shares[e, g]
        for g in range(first, end):
            shares[e, g] /= total
    most_weight = prices.limits[1] / prices.limits[0]
    limit = prices.limits[2] / prices.limits[0] / prices.mean[0]
    loads, found, dear = np.empty((T, G)), np.empty((T, G)), np.empty(G)
    smooth, rate, best = SMOOTH, RATE, 0.0
    for i in range(stages * ROUNDS):
        if i > 0 and i % ROUNDS == 0:
            smooth, rate = smooth / 3, rate / 3
        for t in range(T):
            for g in range(G):
                loads[t, g] = 0
        for e in range(E):
            for g in range(prices.ranks[e, 0], prices.ranks[e, 1]):
                if shares[e, g] > 0:
                    for t in range(T):
                        loads[t, g] += shares[e, g] * tokens[e, t]
        if price_ranks(loads, most_weight, smooth, found) <= limit:
            return False  # shares that keep to it
        bound = 0.0
        for e in range(E):
            first, end = prices.ranks[e, 0], prices.ranks[e, 1]
            least = np.inf
            for g in range(first, end):
                if shares[e, g] > 0:
                    dear[g] = 0
                    for t in range(T):
                        dear[g] += found[t, g] * tokens[e, t]
                    least = min(least, dear[g])
            bound += least
            total = 0.0
            for g in range(first, end):
                if shares[e, g] > 0:
                    shares[e, g] = max(RARE, shares[e, g] * np.exp(rate * (least - dear[g])))
                    total += shares[e, g]
            for g in range(first, end):
                shares[e, g] /= total
        if bound < best:
            rate *= SLOWER
        best = max(best, bound)
        if bound > limit:
            k = keep(prices, found)
            if cost_at(prices, k, sets) > prices.limits[2]:
                prices.counters[NEWEST] = k
                return True
    return False
