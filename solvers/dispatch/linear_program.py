"""The shares program as a linear program in floats (HiGHS).

With the most weight of a step q and a budget B = 1 / q of weights,

    min   B tau + sum of u_t
    with  L[t, g](x) <= tau + u_t,   sum over g of x[e, g] = 1,   x, tau, u >= 0

is B times the objective (Rockafellar, Uryasev, J. of Risk 2 (2000) 21); ``mean`` needs no tau, and
``worst`` no u. Rows (t, g) are added where the last solution breaks them. A limit of traffic is one
more row.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.rationals import widen
from solvers.dispatch.program import SharesProgram

Floats = NDArray[np.float64]

NEW_ROWS = 4
"""The fullest ranks of each step get a row in a round."""
TOLERANCE = 1e-9
"""Of a rank's load, in mean rank loads."""
SECONDS = 20.0
"""For all rounds; then there are no shares and prices."""


@dataclass(frozen=True)
class Solution:
    """About an optimum.

    Attributes:
        shares: [n] of the pairs.
        prices: [T, G] in units of the most weight of a step.
        loads: [T, G] of the ranks under these shares, in mean rank loads.
        makespans: [T] the fullest rank, at least what it must be to count.
        traffic_price: of a token off home, in the unit of ``prices``.
        room: tokens that might still be off home, in mean rank loads.
    """

    shares: Floats
    prices: Floats
    loads: Floats
    makespans: Floats
    traffic_price: float
    room: float


def solve_program(program: SharesProgram) -> Solution | None:
    """None where HiGHS finds no optimum in its time."""
    model = _Model.of(program)
    rows = np.zeros(model.base.shape, dtype=bool)
    shares = np.array([float(share) for share in program.even_shares()])
    prices, limit, traffic_price = np.zeros(rows.shape), np.zeros(len(rows)), 0.0
    end = time.perf_counter() + SECONDS
    while True:
        loads = model.rank_loads(shares)
        new = np.zeros_like(rows)
        fullest = np.argpartition(-loads, min(NEW_ROWS, loads.shape[1]) - 1)[:, :NEW_ROWS]
        np.put_along_axis(new, fullest, True, axis=1)
        new &= (loads > limit[:, None] + TOLERANCE) & ~rows
        if not new.any():
            makespans = np.maximum(limit, loads.max(axis=1))
            room = model.most_away - float(model.away @ shares)
            return Solution(shares, prices, loads, makespans, traffic_price, room)
        rows |= new
        found = model.solve(rows, end - time.perf_counter())
        if found is None:
            return None
        shares, prices, limit, traffic_price = found


@dataclass(frozen=True)
class _Model:
    """Loads in mean rank loads: ``base`` [T, G] and of each pair ``column`` [T, n]; with a limit,
    ``away`` [n] of tokens off home, else 0, and ``most_away``.
    """

    base: Floats
    column: Floats
    rank: NDArray[np.int64]
    expert: NDArray[np.int64]
    budget: float
    away: Floats
    most_away: float

    @classmethod
    def of(cls, program: SharesProgram) -> _Model:
        total = int(widen(program.loads, program.loads.size).sum())
        base, loads = (x.astype(object) / total for x in (program.base, program.loads))
        experts = [e for e, _ in program.pairs]
        return cls(
            base.astype(np.float64) * base.size,
            loads[:, experts].astype(np.float64) * base.size,
            np.array([g for _, g in program.pairs]),
            np.unique(experts, return_inverse=True)[1],
            float(1 / program.most_weight),
            np.array([away / total for away in program.away]) * base.size,
            float(program.limit) * base.size,
        )

    def rank_loads(self, shares: Floats) -> Floats:
        """[T, G]."""
        loads = self.base.copy()
        np.add.at(loads.T, self.rank, (self.column * shares).T)
        return loads

    def solve(
        self, rows: NDArray[np.bool_], seconds: float
    ) -> tuple[Floats, Floats, Floats, float] | None:
        """Shares [n], prices [T, G], limits tau + u [T] and the price of traffic with these rows of
        the program.
        """
        from scipy.optimize import linprog
        from scipy.sparse import csr_array, vstack

        T, n = len(rows), len(self.rank)
        t, g = np.nonzero(rows)
        row, pair = np.nonzero(self.rank == g[:, None])
        i, ones = np.arange(len(t)), np.ones(len(t))
        data = np.r_[self.column[t[row], pair], -ones, -ones]
        where = np.r_[row, i, i], np.r_[pair, np.full(len(t), n), n + 1 + t]
        upper = csr_array((data, where), shape=(len(t), n + 1 + T))
        upper = vstack([upper, csr_array(np.r_[self.away, np.zeros(1 + T)][None])])
        once = np.ones(n), (self.expert, np.arange(n))
        equal = csr_array(once, shape=(int(self.expert.max()) + 1, n + 1 + T))
        bounds = np.zeros((n + 1 + T, 2))
        bounds[:n, 1] = 1
        bounds[n, 1] = np.inf if self.budget < T else 0
        bounds[n + 1 :, 1] = np.inf if self.budget > 1 else 0
        found: Any = linprog(  # type: ignore[call-overload]
            np.r_[np.zeros(n), self.budget, np.ones(T)],
            A_ub=upper,
            b_ub=np.r_[-self.base[t, g], self.most_away],
            A_eq=equal,
            b_eq=np.ones(equal.shape[0]),
            bounds=bounds,
            method="highs-ipm",
            options={"time_limit": max(seconds, 0.1)},
        )
        if found.status != 0:
            return None
        prices = np.zeros(rows.shape)
        *of_rows, of_traffic = -found.ineqlin.marginals
        prices[t, g] = of_rows
        return found.x[:n], prices, found.x[n] + found.x[n + 1 :], float(of_traffic)
