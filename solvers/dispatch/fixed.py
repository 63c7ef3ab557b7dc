"""Shares that are the same at every step: the best known, and prices that bound all of them.

Prices p[t, g] >= 0 of a token on a rank, whose sums over g are weights that the objective admits,
prove that no shares cost less than ``sum over e of min over the ranks g of e of sum over t of
p[t, g] w[t, e]``. Under a limit of traffic tokens off home have a price besides. Floats find shares
and prices; what they prove is evaluated in integers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from eplb_opt.problem.evidence import Prices
from solvers.dispatch.classes import classes_of
from solvers.dispatch.linear_program import Floats, Solution, solve_program
from solvers.dispatch.optimal import optimal_makespans
from solvers.dispatch.program import SharesProgram
from solvers.dispatch.vertex import ROUNDED, solve_vertex


@dataclass(frozen=True)
class FixedValue:
    """``prices.bound <= least cost <= value``, in units of load.

    Attributes:
        value: what ``shares`` cost.
        shares: [n] of the program's pairs.
        prices: integers over a scale, and the bound that they prove.
    """

    value: Fraction
    shares: list[Fraction]
    prices: Prices

    @property
    def closed(self) -> bool:
        """Whether the least cost is known."""
        return self.value == self.prices.bound

    def with_shares(self, program: SharesProgram, shares: list[Fraction]) -> FixedValue:
        """With these, cut to the limit of traffic, if they cost less."""
        shares = program.within_limit(shares)
        value = program.cost(shares)
        return replace(self, value=value, shares=shares) if value < self.value else self

    def with_prices(self, prices: Prices) -> FixedValue:
        """With these, if they prove more."""
        return replace(self, prices=prices) if prices.bound > self.prices.bound else self


def fixed_value(program: SharesProgram) -> FixedValue:
    """The best shares known and the best prices; both are optimal where the linear program's
    vertex is found exactly.
    """
    even = program.even_shares()
    best = FixedValue(program.cost(even), even, cut_prices(program))
    if best.closed or (solution := solve_program(program)) is None:
        return best
    vertex = solve_vertex(program, solution)
    if vertex.shares is not None:
        best = best.with_shares(program, vertex.shares)
    if vertex.prices is not None:
        best = best.with_prices(program.fraction_prices(vertex.prices, vertex.traffic_price))
    if best.closed:
        return best
    best = best.with_shares(program, _round_shares(program, solution.shares))
    rounded = _round_prices(program, solution)
    return best if rounded is None else best.with_prices(rounded)


def cut_prices(program: SharesProgram) -> Prices:
    """Equal prices on the critical ranks of each step: at least the cost of optimal dispatch."""
    found = optimal_makespans(classes_of(program.loads, program.held))
    weights = program.objective.weights(found.values)
    number = found.critical.sum(axis=1).tolist()
    on_cuts = np.argwhere(found.critical).tolist()
    return program.fraction_prices({(t, g): weights[t] / number[t] for t, g in on_cuts})


def _round_shares(program: SharesProgram, shares: Floats) -> list[Fraction]:
    """Multiples of 1 / ``ROUNDED`` that sum to 1: the largest of an expert has the rest."""
    parts = (np.clip(shares, 0, 1) * ROUNDED).astype(np.int64).tolist()
    for own in program.pairs_of:
        largest = max(own, key=parts.__getitem__)
        parts[largest] += ROUNDED - sum(parts[i] for i in own)
    return [Fraction(part, ROUNDED) for part in parts]


def _round_prices(program: SharesProgram, solution: Solution) -> Prices | None:
    """Prices, given in most weights of a step, as admitted integers; or None.

    A step with too much weight gives from its dearest rank; what is then missing in all goes to the
    dearest ranks of steps with room, first those that weigh most.
    """
    most = ROUNDED * program.most_weight.numerator
    scale = ROUNDED * program.most_weight.denominator
    parts = (np.clip(solution.prices, 0, 1) * ROUNDED).astype(np.int64)
    table = parts.astype(object) * program.most_weight.numerator
    dearest = parts.argmax(axis=1).tolist()
    weights = [sum(row) for row in table]
    missing = scale - sum(min(most, weight) for weight in weights)
    for t in np.argsort(-parts.sum(axis=1), kind="stable").tolist():
        given = min(most - weights[t], max(missing, 0))
        table[t, dearest[t]] += given
        missing -= max(given, 0)
    if missing or (table < 0).any():
        return None
    traffic_price = round(max(solution.traffic_price, 0.0) * ROUNDED)
    return program.prices(table, scale, traffic_price * program.most_weight.numerator)
