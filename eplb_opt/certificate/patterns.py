"""Check the evidence for a pattern bound: a second implementation that shares nothing with the one
that found it.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.certificate.budget import CheckBudget, product_cost
from eplb_opt.problem.evidence import Pattern
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.rationals import shown

NONE = np.iinfo(np.int64).max
LARGEST_GRID = 2**40
LARGEST_PRICE = 2**20
REPLICAS, ENTRIES = 40, 1024
"""Replicas, or entries of the dynamic program, that cost a unit."""
PASSES = 10
"""What making and reading a long table costs besides: as much as so many prices."""


def certified_pattern_bound(
    layer: Layer, evidence: Pattern, budget: CheckBudget | None = None
) -> Fraction:
    """The bound B in tokens that ``evidence`` proves: every placement has a makespan of at least
    B.

    Suppose that a makespan is below B. Then expert e has at least ``floor(w_e / B) + 1`` replicas,
    and at most the spare slots more. A replica (e, k) has the weight ``a = floor(grid * w_e / (k
    B))`` and the price u(a), the price of the last level at or below a. Whatever the counts, the
    replicas are worth at least ``D = sum_e min_k k (u(e, k) + m) - m P`` in total, so some rank is
    worth at least D / G. If no S replicas of total weight below ``grid`` are worth that much, the
    supposition is false.

    Integers only. O(E * spare + S^2 * levels * price). ``budget`` is that of a whole document if
    None.

    Raises:
        ValueError: a number is out of range, or the bound is not proven.
        TooLargeToCheckError: the budget does not suffice.
    """
    budget = CheckBudget() if budget is None else budget
    starts, worth = _levels(evidence)
    bound, grid, count_price = evidence.bound, evidence.grid, evidence.count_price
    P, G = layer.topology.num_physical_experts, layer.topology.num_ranks
    top, bottom = _in_units(bound, layer, budget)
    fewest = [load * bottom // top + 1 for load in layer.loads]
    spare = P - sum(fewest)
    if spare < 0:
        return bound
    budget.charge(len(fewest) * (20 + (spare + 1) // REPLICAS))
    demand, lightest = 0, np.full(len(worth), NONE)
    for load, least in zip(layer.loads, fewest, strict=True):
        counts = np.arange(least, least + spare + 1)
        weight = load * grid * bottom // top // counts
        level = np.searchsorted(starts, weight, side="right") - 1
        demand += int((counts * (worth[level] + count_price)).min())
        np.minimum.at(lightest, level, weight)
    demand -= count_price * P
    found = lightest < NONE
    richest = _richest_rank(lightest[found], worth[found], P // G, grid, budget)
    if G * richest >= demand:
        raise ValueError(
            f"bound={shown(bound)} is not proven: {G} ranks worth up to {richest} each can hold "
            f"replicas worth {demand}"
        )
    return bound


def _in_units(bound: Fraction, layer: Layer, budget: CheckBudget) -> tuple[int, int]:
    """Numerator and denominator of ``bound`` in units of the loads."""
    own, unit = max(map(int.bit_length, bound.as_integer_ratio())), layer.unit.denominator
    budget.charge(product_cost(own, unit.bit_length()))
    top, bottom = (bound / layer.unit).as_integer_ratio()
    longest = max(load.bit_length() for load in layer.loads) + 64
    budget.charge(len(layer.loads) * 2 * product_cost(longest, bottom.bit_length()))
    return top, bottom


def _richest_rank(
    weights: NDArray[np.int64],
    prices: NDArray[np.int64],
    num_items: int,
    grid: int,
    budget: CheckBudget,
) -> int:
    """The largest total price of ``num_items`` replicas of total weight below ``grid``, repeats
    allowed; -1 if none.

    ``least[v]`` is the least weight of j replicas worth v or more, for j = 1, 2, ...
    """
    distinct = np.unique(prices)
    lightest = np.full(len(distinct), NONE)
    np.minimum.at(lightest, np.searchsorted(distinct, prices), weights)
    top = int(distinct[-1])
    budget.charge(num_items * (len(distinct) + PASSES) * (5 + num_items * top // (2 * ENTRIES)))
    least = np.zeros(1, dtype=np.int64)
    for _ in range(num_items):
        longer = np.full(len(least) + top, 2**61, dtype=np.int64)
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
        raise ValueError(f"grid={shown(grid)} or count_price={shown(price)} is out of range")
    if not starts or starts != sorted(set(starts)) or starts[0] < 0 or starts[-1] > grid:
        raise ValueError("the weights of levels must ascend from 0 or more up to the grid")
    if not all(0 <= price <= LARGEST_PRICE for price in prices):
        raise ValueError(f"the prices of levels must be in 0..{LARGEST_PRICE}")
    if evidence.bound <= 0:
        raise ValueError(f"bound={shown(evidence.bound)} must be positive")
    # below the first level a replica is worth nothing
    return np.array([-1, *starts], dtype=np.int64), np.array([0, *prices], dtype=np.int64)
