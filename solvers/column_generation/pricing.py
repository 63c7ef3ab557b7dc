"""The most valuable patterns: a knapsack with exactly S items, by dynamic programming over values.

States are values, not loads: ``f_j[v]`` is the least weight of j items worth v or more, and
``f_j = f_{j-1} (min,+) f_1``. Weights stay exact 64-bit integers however fine they are, and one
table answers every capacity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solvers.arrays import Integers
from solvers.options import Budget

FAR = np.int64(2**61)
ENTRIES = 64
"""Entries of a table that are as much work as a step of a tree search."""


@dataclass(frozen=True, eq=False)
class Pricing:
    """Patterns of S items whose weight stays within the capacity.

    Attributes:
        best: the largest value of such a pattern, exact; -1 if there is none.
        patterns: [n, S], for each item the most valuable pattern that contains it, as item indices.
    """

    best: int
    patterns: Integers


@dataclass(frozen=True, eq=False)
class _Table:
    """f_j with, for each v, where its minimum is attained and which item was added there."""

    lightest: Integers
    attained: Integers
    item: Integers


def price(
    weights: Integers, values: Integers, num_items: int, capacity: int, budget: Budget | None = None
) -> Pricing:
    """Most valuable patterns of exactly ``num_items`` items, repeats allowed, of weight at most
    ``capacity``.

    Exact for integer weights and values >= 0. O(size^2 * F * max(values)), where F is the number of
    items that are not dominated by a lighter one of at least the same value; charged to ``budget``.

    Raises:
        OutOfBudgetError: the budget does not suffice.
    """
    tables = _tables(weights, values, num_items - 1, budget or Budget())
    rest = tables[-1].lightest if tables else np.zeros(1, dtype=np.int64)
    value = np.searchsorted(rest, capacity - weights, side="right") - 1
    items = np.flatnonzero(value >= 0)
    if not len(items):
        return Pricing(-1, np.empty((0, num_items), dtype=np.int64))
    best = int((values[items] + value[items]).max())
    patterns = np.empty((len(items), num_items), dtype=np.int64)
    patterns[:, 0] = items
    v = value[items]
    for column, table in enumerate(reversed(tables), start=1):
        v = table.attained[v]
        patterns[:, column] = table.item[v]
        v = v - values[patterns[:, column]]
    return Pricing(best, patterns)


def undominated(weights: Integers, values: Integers) -> Integers:
    """Indices of the items that no other beats: lighter or equal, and worth more or equal."""
    order = np.lexsort((weights, -values))
    running = np.minimum.accumulate(weights[order])
    lighter: Integers = order[np.concatenate([[True], running[1:] < running[:-1]])]
    return lighter


def _tables(weights: Integers, values: Integers, num_items: int, budget: Budget) -> list[_Table]:
    items = undominated(weights, values)
    top = int(values.max())
    tables: list[_Table] = []
    previous = np.zeros(1, dtype=np.int64)
    for _ in range(num_items):
        lightest = np.full(len(previous) + top, FAR)
        item = np.zeros(len(lightest), dtype=np.int64)
        for i in items.tolist():
            budget.spend(len(previous) // ENTRIES)
            reach = slice(int(values[i]), int(values[i]) + len(previous))
            weight = previous + weights[i]
            better = weight < lightest[reach]
            np.copyto(lightest[reach], weight, where=better)
            np.copyto(item[reach], i, where=better)
        previous = np.minimum.accumulate(lightest[::-1])[::-1]
        attained = np.where(lightest == previous, np.arange(len(lightest)), len(lightest))
        attained = np.minimum.accumulate(attained[::-1])[::-1]
        tables.append(_Table(previous, attained, item))
    return tables
