"""Check the evidence for a pattern bound: a second implementation that shares nothing with the one
that found it.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.evidence import Pattern
from eplb_opt.problem.layer import Layer

LARGEST_GRID = 2**40
LARGEST_PRICE = 2**20
LARGEST_TABLE = 2**28
"""Entries (replicas, or states times items) above which evidence is refused rather than checked."""


def certified_pattern_bound(layer: Layer, evidence: Pattern) -> Fraction:
    """The bound B in tokens that ``evidence`` proves: every placement has a makespan of at least
    B.

    Suppose that a makespan is below B. Then expert e has at least ``floor(w_e / B) + 1`` replicas,
    and at most the spare slots more. A replica (e, k) has the weight ``a = floor(grid * w_e / (k
    B))`` and the price u(a), the price of the last level at or below a. Whatever the counts, the
    replicas are worth at least ``D = sum_e min_k k (u(e, k) + m) - m P`` in total, so some rank is
    worth at least D / G. If no S replicas of total weight below ``grid`` are worth that much, the
    supposition is false.

    Fractions and 64-bit integers only. O(E * spare + S^2 * levels * price).

    Raises:
        ValueError: a number is out of range, too large to check, or the bound is not proven.
    """
    levels = _levels(evidence)
    bound, grid, count_price = evidence.bound, evidence.grid, evidence.count_price
    P, G = layer.topology.num_physical_experts, layer.topology.num_ranks
    makespan = bound / layer.unit
    fewest = [int(Fraction(load) / makespan) + 1 for load in layer.loads]
    spare = P - sum(fewest)
    if spare < 0:
        return bound
    if (spare + 1) * len(fewest) > LARGEST_TABLE:
        raise ValueError(f"{spare} spare slots leave too many replicas to check")
    demand, weights, prices = 0, [], []
    for load, least in zip(layer.loads, fewest, strict=True):
        counts = np.arange(least, least + spare + 1)
        weight = int(Fraction(load * grid) / makespan) // counts
        price = levels[1][np.searchsorted(levels[0], weight, side="right") - 1]
        demand += int((counts * (price + count_price)).min())
        weights.append(weight)
        prices.append(price)
    demand -= count_price * P
    richest = _richest_rank(np.concatenate(weights), np.concatenate(prices), P // G, grid)
    if G * richest >= demand:
        raise ValueError(
            f"bound={bound} is not proven: {G} ranks worth up to {richest} each can hold replicas "
            f"worth {demand}"
        )
    return bound


def _richest_rank(
    weights: NDArray[np.int64], prices: NDArray[np.int64], size: int, grid: int
) -> int:
    """The largest total price of ``size`` replicas of total weight below ``grid``, repeats allowed;
    -1 if none.

    ``least[v]`` is the least weight of j replicas worth v or more, for j = 1, 2, ...
    """
    distinct = np.unique(prices)
    lightest = np.full(len(distinct), np.iinfo(np.int64).max)
    np.minimum.at(lightest, np.searchsorted(distinct, prices), weights)
    if size**2 * len(distinct) * int(distinct[-1]) > LARGEST_TABLE * 64:
        raise ValueError(f"{len(distinct)} prices up to {distinct[-1]} are too many to check")
    least = np.zeros(1, dtype=np.int64)
    for _ in range(size):
        longer = np.full(len(least) + int(distinct[-1]), 2**61, dtype=np.int64)
        for price, weight in zip(distinct.tolist(), lightest.tolist(), strict=True):
            part = longer[price : price + len(least)]
            np.minimum(part, least + weight, out=part)
        least = np.minimum.accumulate(longer[::-1])[::-1]
    return int(np.searchsorted(least, grid)) - 1


def _levels(evidence: Pattern) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the price changes and what it is then, if all numbers are in range."""
    grid, price = evidence.grid, evidence.count_price
    starts = [weight for weight, _ in evidence.levels]
    prices = [price for _, price in evidence.levels]
    if not 1 <= grid <= LARGEST_GRID or abs(price) > LARGEST_PRICE:
        raise ValueError(f"grid={grid} or count_price={price} is out of range")
    if not starts or starts != sorted(set(starts)) or starts[-1] > grid:
        raise ValueError("the weights of levels must ascend and stay within the grid")
    if not all(0 <= price <= LARGEST_PRICE for price in prices):
        raise ValueError(f"the prices of levels must be in 0..{LARGEST_PRICE}")
    if evidence.bound <= 0:
        raise ValueError(f"bound={evidence.bound} must be positive")
    # below the first level a replica is worth nothing
    return np.array([-1, *starts], dtype=np.int64), np.array([0, *prices], dtype=np.int64)
