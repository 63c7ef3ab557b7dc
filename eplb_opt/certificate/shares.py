"""The cost of the best shares of a placement, the same at every step: an exact linear program.

Its dual: prices p[t, g] >= 0 of a token on rank g at step t, and a price v_e of each expert on
several ranks that is no more than ``sum over t of p[t, g] w[t, e]`` on any of them. With the tokens
``still[t, g]`` of experts on one rank the cost is the largest

    sum over t, g of p[t, g] still[t, g]  +  sum over e of v_e,

where prices sum to 1, and those of one step to no more than the objective weighs a step. The
simplex method raises it from 0; it is enough to see it reach a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError, product_cost

LARGEST_PROGRAM = 2**20
"""Numbers in a table of the simplex method."""
Row = list[int]


def prices_that_reach(
    limit: Fraction,
    loads: Sequence[Sequence[int]],
    ranks: Sequence[Sequence[int]],
    weights: Sequence[int],
    budget: CheckBudget,
) -> tuple[list[list[int]], int] | None:
    """Prices [T][G] over a divisor that show that no shares cost less than ``limit``: ``weights``
    [T] of the makespans from the largest on, times the makespans. None if some cost less.

    Args:
        limit: in the unit of ``loads``.
        loads: [T, E] tokens.
        ranks: [E] on which each expert is.
        weights: falling integers; prices are multiplied by their sum.
        budget: for all of it.
    """
    steps, num_ranks = len(loads), 1 + max(g for row in ranks for g in row)
    shared = [e for e, row in enumerate(ranks) if len(row) > 1]
    height = sum(len(ranks[e]) for e in shared) + steps + 2
    size = height * (height + steps * num_ranks + len(shared))
    if size > LARGEST_PROGRAM:
        raise TooLargeToCheckError(f"a linear program of {size:,} numbers")
    budget.charge(size // 8)
    gains = [0] * (steps * num_ranks) + [1] * len(shared)
    for e, row in enumerate(ranks):
        if len(row) == 1:
            for t in range(steps):
                gains[t * num_ranks + row[0]] += loads[t][e]
    rows: list[Row] = []
    for i, e in enumerate(shared):
        for g in ranks[e]:
            row = [0] * len(gains)
            row[g : steps * num_ranks : num_ranks] = [-loads[t][e] for t in range(steps)]
            row[steps * num_ranks + i] = 1
            rows.append([*row, 0])
    for t in range(steps):
        here = range(t * num_ranks, (t + 1) * num_ranks)
        rows.append([*(int(j in here) for j in range(len(gains))), weights[0]])
    rows.append([1] * (steps * num_ranks) + [0] * len(shared) + [sum(weights)])
    found = _solve(limit, rows, gains, budget)
    if found is None:
        return None
    x, divisor = found
    return [x[t * num_ranks : (t + 1) * num_ranks] for t in range(steps)], divisor


def _solve(
    limit: Fraction, rows: list[Row], gains: Row, budget: CheckBudget
) -> tuple[Row, int] | None:
    """Some x >= 0, over a divisor, with ``row[:-1] . x <= row[-1]`` for all rows and ``gains . x``
    of at least ``limit``; None if there is none. No ``row[-1]`` is negative.

    Integers over a common divisor, the last pivot (Edmonds). The column of largest gain enters: if
    that should ever go in circles, the budget ends it.
    """
    width = len(gains)
    table = [
        [*row[:-1], *(int(i == k) for k in range(len(rows))), row[-1]] for i, row in enumerate(rows)
    ]
    table.append([*(-gain for gain in gains), *[0] * (len(rows) + 1)])
    basis, divisor = list(range(width, width + len(rows))), 1
    while table[-1][-1] < limit * divisor:
        bits = divisor.bit_length()
        budget.charge(len(table) * len(table[0]) * product_cost(bits, bits) // 4)
        gain = min(table[-1][:-1])
        if gain >= 0:
            return None
        enter = table[-1].index(gain)
        ratios = [
            (Fraction(row[-1], row[enter]), basis[i], i)
            for i, row in enumerate(table[:-1])
            if row[enter] > 0
        ]
        leave = min(ratios)[2]
        pivot = table[leave]
        basis[leave] = enter
        for i, row in enumerate(table):
            if i != leave:
                factor = row[enter]
                table[i] = [
                    (a * pivot[enter] - factor * b) // divisor
                    for a, b in zip(row, pivot, strict=True)
                ]
        divisor = pivot[enter]
    x = [0] * (width + len(rows))
    for j, row in zip(basis, table, strict=False):
        x[j] = row[-1]
    return x[:width], divisor
