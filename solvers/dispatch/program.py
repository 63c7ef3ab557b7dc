"""The program of shares that are the same at every step, and what shares and prices prove of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.evidence import Prices
from eplb_opt.problem.objective import Objective
from eplb_opt.problem.rationals import Integers, widen


@dataclass(frozen=True)
class SharesProgram:
    """Minimize over x[e, g], the parts of the tokens of e that rank g serves at every step, the
    objective of the makespans ``m_t = max over g of L[t, g](x)``.

    Attributes:
        loads: [T, E].
        held: [E, G] bool, which ranks hold each expert; a load is held somewhere.
        objective: over the steps.
        off_home: [E, G] bool, under a limit of traffic.
        limit: the part of the tokens of all steps that may be off home.
    """

    loads: Integers
    held: NDArray[np.bool_]
    objective: Objective
    off_home: NDArray[np.bool_] | None = None
    limit: Fraction = Fraction(1)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """(expert, rank) of the variables: experts with load on two or more ranks; ascending."""
        choice = (self.held.sum(axis=1) > 1) & (self.loads != 0).any(axis=0)
        return [(e, g) for e, g in np.argwhere(self.held & choice[:, None]).tolist()]

    @cached_property
    def pairs_of(self) -> list[list[int]]:
        """Indices of the pairs of each expert that has some."""
        found: dict[int, list[int]] = {}
        for i, (e, _) in enumerate(self.pairs):
            found.setdefault(e, []).append(i)
        return list(found.values())

    @cached_property
    def base(self) -> Integers:
        """[T, G] load of the experts that each rank alone holds."""
        alone = self.held.sum(axis=1) == 1
        loads = widen(self.loads, self.loads.shape[1])
        found: Integers = np.stack(
            [loads[:, alone & on_rank].sum(axis=1) for on_rank in self.held.T], axis=1
        )
        return found

    @property
    def most_weight(self) -> Fraction:
        """Of a step, in the objective."""
        return self.objective.most_weight(len(self.loads))

    @cached_property
    def away(self) -> list[int]:
        """[n] tokens of the expert, in all steps, if the rank is off its home; else 0."""
        if self.off_home is None:
            return [0] * len(self.pairs)
        totals = self.loads.astype(object).sum(axis=0)
        return [int(totals[e]) if self.off_home[e, g] else 0 for e, g in self.pairs]

    @cached_property
    def most_away(self) -> Fraction:
        """Tokens that may be off home."""
        return self.limit * int(self.loads.astype(object).sum())

    def within_limit(self, shares: Sequence[Fraction]) -> list[Fraction]:
        """Shares [n] with no more off home than may be: each part off home is cut by the same
        factor, and the ranks at home of an expert take alike what it loses.
        """
        total = sum(share * away for share, away in zip(shares, self.away, strict=True))
        found = list(shares)
        if total <= self.most_away:
            return found
        factor = self.most_away / total
        for own in self.pairs_of:
            home = [i for i in own if not self.away[i]]
            lost = sum((found[i] for i in own if self.away[i]), Fraction(0)) * (1 - factor)
            for i in own:
                found[i] = found[i] * factor if self.away[i] else found[i] + lost / len(home)
        return found

    def even_shares(self) -> list[Fraction]:
        """[n] all ranks of an expert alike, as far as the limit allows."""
        number = self.held.sum(axis=1).tolist()
        return self.within_limit([Fraction(1, number[e]) for e, _ in self.pairs])

    def cost(self, shares: Sequence[Fraction]) -> Fraction:
        """What shares [n], which sum to 1 for each expert, cost; in units of load."""
        common = math.lcm(*(share.denominator for share in shares))
        loads: Any = self.base.astype(object) * common
        for (e, g), share in zip(self.pairs, shares, strict=True):
            loads[:, g] += self.loads[:, e].astype(object) * int(share * common)
        makespans = [Fraction(load, common) for load in loads.max(axis=1).tolist()]
        return self.objective.over(makespans)

    def prices(self, table: Any, scale: int, traffic_price: int = 0) -> Prices:
        """What prices ``table[t, g] / scale`` prove, with ``traffic_price / scale`` of a token off
        home: table [T, G] of Python's integers.
        """
        bound = int((table * self.base).sum()) - traffic_price * self.most_away
        for own in self.pairs_of:
            bound += min(
                self._price(table, *self.pairs[i]) + traffic_price * self.away[i] for i in own
            )
        rows = tuple(tuple(int(price) for price in row) for row in table)
        return Prices(scale, rows, Fraction(bound) / scale, traffic_price)

    def _price(self, table: Any, expert: int, rank: int) -> int:
        """Of all tokens of the expert on the rank."""
        used = table[:, rank].nonzero()[0]
        return int((table[used, rank] * self.loads[used, expert]).sum())

    def fraction_prices(
        self, prices: dict[tuple[int, int], Fraction], traffic_price: Fraction = Fraction(0)
    ) -> Prices:
        """What prices {(step, rank): price} prove; the others are 0."""
        scale = math.lcm(
            traffic_price.denominator, *(price.denominator for price in prices.values())
        )
        table = np.zeros(self.base.shape, dtype=object)
        for at, price in prices.items():
            table[at] = int(price * scale)
        return self.prices(table, scale, int(traffic_price * scale))
