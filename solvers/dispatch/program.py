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
    """

    loads: Integers
    held: NDArray[np.bool_]
    objective: Objective

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

    def even_shares(self) -> list[Fraction]:
        """[n] all ranks of an expert alike."""
        number = self.held.sum(axis=1).tolist()
        return [Fraction(1, number[e]) for e, _ in self.pairs]

    def cost(self, shares: Sequence[Fraction]) -> Fraction:
        """What shares [n], which sum to 1 for each expert, cost; in units of load."""
        common = math.lcm(*(share.denominator for share in shares))
        loads: Any = self.base.astype(object) * common
        for (e, g), share in zip(self.pairs, shares, strict=True):
            loads[:, g] += self.loads[:, e].astype(object) * int(share * common)
        makespans = [Fraction(load, common) for load in loads.max(axis=1).tolist()]
        return self.objective.over(makespans)

    def prices(self, table: Any, scale: int) -> Prices:
        """What prices ``table[t, g] / scale`` prove: table [T, G] of Python's integers."""
        bound = int((table * self.base).sum())
        for own in self.pairs_of:
            bound += min(self._price(table, *self.pairs[i]) for i in own)
        rows = tuple(tuple(int(price) for price in row) for row in table)
        return Prices(scale, rows, Fraction(bound, scale))

    def _price(self, table: Any, expert: int, rank: int) -> int:
        """Of all tokens of the expert on the rank."""
        used = table[:, rank].nonzero()[0]
        return int((table[used, rank] * self.loads[used, expert]).sum())

    def fraction_prices(self, prices: dict[tuple[int, int], Fraction]) -> Prices:
        """What prices {(step, rank): price} prove; the others are 0."""
        scale = math.lcm(*(price.denominator for price in prices.values()))
        table = np.zeros(self.base.shape, dtype=object)
        for at, price in prices.items():
            table[at] = int(price * scale)
        return self.prices(table, scale)
