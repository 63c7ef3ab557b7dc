"""Check the evidence for a pattern bound: a second implementation that shares nothing with the one
that found it.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.instance import Layer

FIELDS = {"kind", "bound", "grid", "count_price", "levels"}
NUMBER = re.compile("[0-9]{1,2000}(/[1-9][0-9]{0,2000})?")
LARGEST_GRID = 2**40
LARGEST_PRICE = 2**20
LARGEST_TABLE = 2**28
"""Entries (replicas, or states times items) above which evidence is refused rather than checked."""


def certified_pattern_bound(layer: Layer, certificate: dict[str, Any]) -> Fraction:
    """The bound B in tokens that ``certificate`` proves: every placement has a makespan of at least
    B.

    Suppose that a makespan is below B. Then expert e has at least ``floor(w_e / B) + 1`` replicas,
    and at most the spare slots more. A replica (e, k) has the weight ``a = floor(grid * w_e / (k
    B))`` and the price u(a), the price of the last level at or below a. Whatever the counts, the
    replicas are worth at least ``D = sum_e min_k k (u(e, k) + m) - m P`` in total, so some rank is
    worth at least D / G. If no S replicas of total weight below ``grid`` are worth that much, the
    supposition is false.

    Fractions and 64-bit integers only. O(E * spare + S^2 * levels * price).

    Raises:
        ValueError: the evidence is malformed, too large to check, or does not prove its bound.
    """
    bound, grid, count_price, levels = _read(certificate)
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


def _read(
    certificate: dict[str, Any],
) -> tuple[Fraction, int, int, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Bound, grid, price of every replica, and the levels as (weights, prices)."""
    if set(certificate) != FIELDS or certificate["kind"] != "pattern":
        raise ValueError(
            f"a pattern certificate has the fields {sorted(FIELDS)} and kind 'pattern'"
        )
    grid, count_price, levels = (certificate[f] for f in ("grid", "count_price", "levels"))
    if not isinstance(levels, list) or not all(isinstance(x, list) and len(x) == 2 for x in levels):
        raise ValueError("levels must be a list of [weight, price] pairs")
    numbers = [grid, count_price, *(n for level in levels for n in level)]
    if not all(type(n) is int for n in numbers):
        raise ValueError("grid, count_price and the pairs of levels must be integers")
    starts, prices = [level[0] for level in levels], [level[1] for level in levels]
    if not 1 <= grid <= LARGEST_GRID or abs(count_price) > LARGEST_PRICE:
        raise ValueError(f"grid={grid} or count_price={count_price} is out of range")
    if not levels or starts != sorted(set(starts)) or starts[-1] > grid:
        raise ValueError("the weights of levels must ascend and stay within the grid")
    if not all(0 <= price <= LARGEST_PRICE for price in prices):
        raise ValueError(f"the prices of levels must be in 0..{LARGEST_PRICE}")
    if not isinstance(certificate["bound"], str) or not NUMBER.fullmatch(certificate["bound"]):
        raise ValueError(f"bound={certificate['bound']!r} must be a string 'num' or 'num/den'")
    bound = Fraction(certificate["bound"])
    if bound <= 0:
        raise ValueError(f"bound={bound} must be positive")
    # below the first level a replica is worth nothing
    table = (np.array([-1, *starts], dtype=np.int64), np.array([0, *prices], dtype=np.int64))
    return bound, grid, count_price, table
