"""The restricted master problem: mix known patterns and counts so that few replicas stay without a
slot.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import pywraplp

from solvers.column_generation.replicas import Bins, ReplicaWindow

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prices:
    """Dual values, in floats: only a guess until the pricing problem is solved for them in
    integers.

    Attributes:
        replica: [B], nondecreasing in [0, 1]: what a slot for a replica of this bin is worth.
        count: what every replica is worth besides, of either sign.
        rank: what a rank is worth.
        uncovered: the optimum, replicas without a slot; 0 means that the trial cannot be excluded.
    """

    replica: Floats
    count: float
    rank: float
    uncovered: float


class Master:
    """Minimize the replicas without a slot over ranks' patterns x_p >= 0 and counts y_ek >= 0.

    ``sum_k y_ek = 1`` for each expert, ``sum_ek k y_ek = P``, ``sum_p x_p <= G``, and for each bin
    at least as many slots as replicas; a slot for a heavy replica may hold a lighter one. Columns
    are added as they are found, and GLOP goes on from the last basis.
    """

    def __init__(self, window: ReplicaWindow, bins: Bins, num_slots: int, num_ranks: int) -> None:
        self._window, self._bins = window, bins
        self._solver = solver = pywraplp.Solver.CreateSolver("GLOP")
        self._many = solver.infinity()
        self._cover = [solver.RowConstraint(0, self._many, "") for _ in bins.lightest]
        self._convex = [solver.RowConstraint(1, 1, "") for _ in window.fewest]
        self._count = solver.RowConstraint(num_slots, num_slots, "")
        self._ranks = solver.RowConstraint(-self._many, num_ranks, "")
        self._known: set[tuple[int, ...]] = set()
        self._add_slack()
        for expert in range(len(window.fewest)):
            self.add_count(expert, 0)
            self.add_count(expert, window.spare)

    def _add_slack(self) -> None:
        solver = self._solver
        solver.Objective().SetMinimization()
        for b, row in enumerate(self._cover):
            missing = solver.NumVar(0, self._many, "")
            row.SetCoefficient(missing, 1)
            solver.Objective().SetCoefficient(missing, 1)
            if b:
                lighter = solver.NumVar(0, self._many, "")
                row.SetCoefficient(lighter, -1)
                self._cover[b - 1].SetCoefficient(lighter, 1)

    def add_count(self, expert: int, extra: int) -> bool:
        """Allow ``fewest + extra`` replicas of ``expert``; False if that was known."""
        key = (-1, expert, extra)
        if key in self._known:
            return False
        self._known.add(key)
        count = float(self._window.fewest[expert] + extra)
        variable = self._solver.NumVar(0, self._many, "")
        self._cover[int(self._bins.of[expert, extra])].SetCoefficient(variable, -count)
        self._convex[expert].SetCoefficient(variable, 1)
        self._count.SetCoefficient(variable, count)
        return True

    def add_pattern(self, bins: list[int]) -> bool:
        """Allow ranks with replicas of these bins; False if that was known."""
        key = tuple(sorted(bins))
        if key in self._known:
            return False
        self._known.add(key)
        variable = self._solver.NumVar(0, self._many, "")
        self._ranks.SetCoefficient(variable, 1)
        for b, times in Counter(key).items():
            self._cover[b].SetCoefficient(variable, times)
        return True

    def solve(self) -> Prices | None:
        """Optimal prices for the known columns, None if the solver fails."""
        if self._solver.Solve() != pywraplp.Solver.OPTIMAL:
            return None
        replica = np.array([row.dual_value() for row in self._cover])
        return Prices(
            replica.clip(0, 1),
            -self._count.dual_value(),
            -self._ranks.dual_value(),
            self._solver.Objective().Value(),
        )
