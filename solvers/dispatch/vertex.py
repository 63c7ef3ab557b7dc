"""Exact shares and prices from floats: the vertex of a linear program, solved in integers.

Which shares and prices are positive is read off the floats. Then all rows (t, g) with a price in a
group have the same load, where a group is a step of full weight, or all steps of part weight
together; and all ranks that serve an expert have the same price for its tokens, with that of
traffic where a limit of it is met exactly. Nothing else is taken from the floats, and whoever uses
the result evaluates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from solvers.dispatch.linear_program import Solution
from solvers.dispatch.program import SharesProgram

POSITIVE = 1e-7
"""Of shares, of prices in weights of a step, and of slacks in mean rank loads."""
ROUNDED = 2**40
"""Shares and prices that are rounded are multiples of 1 / this, of 1 and of the most weight."""
MOST_UNKNOWNS = 150
"""Elimination takes n^3 operations on numbers of n digits: some 5 s."""

Row = tuple[int, int]
Objects = Any
"""Arrays of Python's integers."""


@dataclass(frozen=True)
class _Group:
    """Rows (t, g) of one load; those of ``priced`` have ``total`` of prices together, in most
    weights of a step; ``tight`` are further ones.
    """

    total: Fraction
    priced: list[Row]
    tight: list[Row]


@dataclass(frozen=True)
class Vertex:
    """Shares and prices near a solution, each None if not found.

    Attributes:
        shares: [n] not negative, of sum 1 for each expert.
        prices: {(t, g): price}, not negative, of admitted weights.
        traffic_price: of a token off home, beside the prices.
    """

    shares: list[Fraction] | None = None
    prices: dict[Row, Fraction] | None = None
    traffic_price: Fraction = Fraction(0)


def solve_vertex(program: SharesProgram, solution: Solution) -> Vertex:
    """The vertex of the program that the solution is near."""
    served = [[i for i in own if solution.shares[i] > POSITIVE] for own in program.pairs_of]
    if sum(map(len, served)) - len(served) > MOST_UNKNOWNS:
        return Vertex()
    system, groups = _System(program, solution, served), _groups(program, solution)
    shares, (prices, traffic_price) = _shares(system, groups), _prices(system, groups)
    left = 1 / program.most_weight - sum(prices.values())
    weights = solution.prices.sum(axis=1)
    for t in np.flatnonzero(weights <= POSITIVE).tolist():  # of steps that cost nothing
        prices[t, int(solution.loads[t].argmax())] = given = min(Fraction(1), left)
        left -= given
    admitted = not left and min(prices.values()) >= 0 and traffic_price >= 0
    positive = {row: price * program.most_weight for row, price in prices.items() if price}
    return Vertex(
        shares if min(shares) >= 0 else None,
        positive if admitted else None,
        traffic_price * program.most_weight,
    )


def _groups(program: SharesProgram, solution: Solution) -> list[_Group]:
    weights = solution.prices.sum(axis=1)
    priced = solution.prices > POSITIVE
    tight = (solution.loads > solution.makespans[:, None] - POSITIVE) & ~priced
    full = (weights > 1 - POSITIVE) & (program.most_weight < 1)  # else tau counts alone
    found = [
        _Group(
            Fraction(1),
            [(t, g) for g in priced[t].nonzero()[0].tolist()],
            [(t, g) for g in tight[t].nonzero()[0].tolist()],
        )
        for t in full.nonzero()[0].tolist()
    ]
    part = ~full[:, None]
    rows, others = (
        [(t, g) for t, g in np.argwhere(kind & part).tolist()] for kind in (priced, tight)
    )
    if rows:
        found.append(_Group(1 / program.most_weight - int(full.sum()), rows, others))
    return found


@dataclass(frozen=True)
class _System:
    """Rows in terms of the unknown shares: of each expert all that are positive but the first,
    which has the rest.

    Attributes:
        solution: what is not determined is taken from it.
        served: indices of the positive pairs of each expert.
    """

    program: SharesProgram
    solution: Solution
    served: list[list[int]]

    @property
    def unknowns(self) -> list[tuple[int, int]]:
        """(first, other) pairs of an expert."""
        return [(own[0], i) for own in self.served for i in own[1:]]

    def coefficients(self, rows: Sequence[Row]) -> Objects:
        """[rows, n] of the unknowns in the load of each row."""
        t, g = np.array(rows, np.int64).reshape(-1, 2).T
        pairs = np.array(self.program.pairs)
        first, other = np.array(self.unknowns, np.int64).reshape(-1, 2).T
        sign = (g[:, None] == pairs[other, 1]).astype(int) - (g[:, None] == pairs[first, 1])
        loads: Objects = self.program.loads[t[:, None], pairs[other, 0]].astype(object)
        return loads * sign.astype(object)

    @property
    def away(self) -> list[int]:
        """[n] of the unknowns in the tokens off home."""
        away = self.program.away
        return [away[other] - away[first] for first, other in self.unknowns]

    def fill_limit(self) -> list[int]:
        """The equation that says that all tokens are off home that may be."""
        limit = self.program.most_away
        left = limit - sum(self.program.away[own[0]] for own in self.served)
        return [*(part * limit.denominator for part in self.away), int(left * limit.denominator)]

    @property
    def full(self) -> bool:
        """Whether no more tokens may be off home."""
        return self.priced or (any(self.program.away) and self.solution.room < POSITIVE)

    @property
    def priced(self) -> bool:
        """Whether tokens off home have a price."""
        return self.solution.traffic_price > POSITIVE

    def constants(self, rows: Sequence[Row]) -> list[int]:
        """[rows] load where all unknowns are 0."""
        t, g = np.array(rows, np.int64).reshape(-1, 2).T
        loads: Objects = self.program.base[t, g].astype(object)
        for first in (self.program.pairs[own[0]] for own in self.served):
            loads += self.program.loads[t, first[0]].astype(object) * (g == first[1]).astype(int)
        return [int(load) for load in loads]


def _shares(system: _System, groups: Sequence[_Group]) -> list[Fraction]:
    """[n] of all pairs: those with which the rows of each group have equal loads, and a limit of
    traffic is met exactly where it holds something up.
    """
    equations = []
    for rows in ([*group.priced, *group.tight] for group in groups):
        if len(rows) > 1:
            coefficients, constants = system.coefficients(rows), system.constants(rows)
            left = coefficients[1:] - coefficients[0]
            right = [constants[0] - constant for constant in constants[1:]]
            equations += [[*row, value] for row, value in zip(left.tolist(), right, strict=True)]
    if system.full:
        equations.append(system.fill_limit())
    near = [_rounded(system.solution.shares[i]) for _, i in system.unknowns]
    found = solve_integers(equations, near)
    shares = [Fraction(0)] * len(system.program.pairs)
    for own in system.served:
        shares[own[0]] = Fraction(1)
    for (first, other), share in zip(system.unknowns, found, strict=True):
        shares[other] = share
        shares[first] -= share
    return shares


def _prices(system: _System, groups: Sequence[_Group]) -> tuple[dict[Row, Fraction], Fraction]:
    """In most weights of a step, with which all ranks that serve an expert cost it the same; and
    the price of a token off home.
    """
    if not groups:
        return {}, Fraction(0)
    first = [group.priced[0] for group in groups]
    rows = [(i, row) for i, group in enumerate(groups) for row in group.priced[1:]]
    base = system.coefficients(first)
    common = groups[-1].total.denominator  # of the other groups it is 1
    totals = np.array([int(group.total * common) for group in groups], dtype=object)
    right = -(totals[:, None] * base).sum(axis=0)
    prices = {group.priced[0]: group.total for group in groups}
    left = (
        system.coefficients([row for _, row in rows])
        - base[np.array([i for i, _ in rows], np.int64)]
    )
    near = [_rounded(system.solution.prices[row]) * common for _, row in rows]
    if system.priced:
        left = np.vstack([left, np.array([system.away], dtype=object)])
        near.append(_rounded(system.solution.traffic_price) * common)
    if not near:
        return prices, Fraction(0)
    equations = [[*row, value] for row, value in zip(left.T.tolist(), right, strict=True)]
    found = solve_integers(equations, near)
    for (i, row), price in zip(rows, found, strict=False):
        prices[row] = price / common
        prices[first[i]] -= price / common
    return prices, found[-1] / common if system.priced else Fraction(0)


def _rounded(number: float) -> Fraction:
    return Fraction(round(number * ROUNDED), ROUNDED)


def solve_integers(equations: Sequence[Sequence[int]], near: Sequence[Fraction]) -> list[Fraction]:
    """X [n] with ``sum of row[i] x[i] = row[n]``; what is not determined is as in ``near`` [n].

    Equations that depend on those before are not looked at. Elimination keeps integers, each row
    divided by its greatest common divisor.
    """
    n = len(near)
    pivots: list[tuple[int, Objects]] = []
    for equation in equations:
        if len(pivots) == n:
            break
        row = np.array(equation, dtype=object)
        for column, known in pivots:
            if row[column]:
                row = row * known[column] - known * row[column]
                row //= np.gcd.reduce(row) or 1
        columns = row[:n].nonzero()[0]
        if len(columns):
            pivots.append((int(columns[0]), row))
    found = list(near)
    for column, row in reversed(pivots):
        others = sum((int(row[i]) * found[i] for i in range(n) if row[i] and i != column), 0)
        found[column] = (row[n] - others) / Fraction(row[column])
    return found
