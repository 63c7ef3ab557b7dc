"""Mixed-integer programs, apart from who solves them: HiGHS (by scipy) or SCIP (by PuLP).

These solvers compute in floats. So nothing of theirs is taken as exact: values are rounded and the
placement is checked and valued by the caller, and a bound is lowered by :data:`TOLERANCE` before it
is rounded up to an integer. It still rests on the solver's arithmetic. They work in a process of
their own (:mod:`solvers.engines.mip_process`), which a time limit and Ctrl-C end.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.result import Limit
from solvers.engines import mip_process
from solvers.engines.mip_process import Matrix, Question
from solvers.engines.outcome import Outcome
from solvers.model_size import require_size
from solvers.options import Budget

LARGEST_SUM = 2**20
"""Scaled weight of a placement at most: with 2^30 HiGHS was seen to prove a bound 12 % too high,
its feasibility tolerance times such coefficients being hundreds of units."""
TOLERANCE = 1e-3
"""Scaled units by which a float bound may be too high: 359.9999999992 stands for 360."""
ENGINES = ("scipy", "scip")
"""Two, to check each other and the rest. Of 18 packings and 18 joint problems of 6 to 32 slots with
10 s each, ``scipy`` proves 12 and 18, ``scip`` 15 and 17. PuLP's CBC (9 and 14) and HiGHS (10 and
17) prove nothing beyond that (docs/results/exact.md)."""
INTEGRALITY = 1e-4
"""Distance from an integer at which a value is still taken for it."""


@dataclass
class Program:
    """Minimize the variable ``objective``, over integer variables mostly; built row by row.

    Row i has the coefficients ``data[starts[i]:starts[i + 1]]`` in those ``columns``. The optimum
    is a multiple of 1 / ``grid``; None if it may be anything.
    """

    lower: list[int] = field(default_factory=list)
    upper: list[int] = field(default_factory=list)
    integral: list[bool] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    columns: list[int] = field(default_factory=list)
    data: list[float] = field(default_factory=list)
    objective: int = 0
    grid: int | None = 1

    def variable(self, lower: int, upper: int, *, integral: bool = True) -> int:
        """A new variable; returns its index."""
        self.lower.append(lower)
        self.upper.append(upper)
        self.integral.append(integral)
        return len(self.lower) - 1

    def add(self, terms: list[tuple[int, float]], low: float, high: float) -> None:
        """``low <= sum of coefficient * variable <= high`` for terms (variable, coefficient)."""
        self.low.append(low)
        self.high.append(high)
        self.columns += [j for j, _ in terms]
        self.data += [a for _, a in terms]
        self.starts.append(len(self.columns))

    @property
    def nonzeros(self) -> int:
        """Coefficients in all rows."""
        return len(self.columns)

    def matrix(self) -> Matrix:
        """As arrays."""
        return Matrix(
            np.array(self.lower, np.int64),
            np.array(self.upper, np.int64),
            np.array(self.integral, np.bool_),
            np.array(self.starts, np.int64),
            np.array(self.columns, np.int64),
            np.array(self.data, np.float64),
            np.array(self.low, np.float64),
            np.array(self.high, np.float64),
            self.objective,
        )


def run(program: Program, backend: str, budget: Budget) -> Outcome:
    """Solve with one of :data:`ENGINES`; the caller charges the building.

    Raises:
        ValueError: the program is too large, or the solver is not installed.
        RuntimeError: the solver ended its process.
    """
    require_size(backend, len(program.lower), program.nonzeros)
    if not is_installed(backend):
        raise ValueError(f"backend={backend!r} is not installed: pip install 'eplb-opt[milp]'")
    if not budget.chunk():
        return Outcome(None, None, infeasible=False, limit=budget.limit)
    seconds = budget.seconds_left()
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        answer = mip_process.ask(Question(program.matrix(), backend, deadline))
    except KeyboardInterrupt:
        budget.interrupt()
        return Outcome(None, None, infeasible=False, limit=Limit.INTERRUPT)
    if answer is None:
        return Outcome(None, None, infeasible=False, limit=Limit.TIME)
    values = _integers(answer.values, program.integral)
    read = None if values is None else lambda j: int(values[j])
    limit = None if answer.ended else Limit.TIME
    return Outcome(read, _lower_bound(answer.bound, program.grid), answer.infeasible, limit)


def is_installed(backend: str) -> bool:
    """Whether a backend can be used here."""
    from solvers.engines.mip_worker import scip

    return backend == "scipy" or bool(scip(None).available())


def _integers(
    values: NDArray[np.float64] | None, integral: list[bool] | None = None
) -> NDArray[np.int64] | None:
    """The nearest integers (truncation would turn 0.9999999 into 0); None if any that must be an
    integer is not close.
    """
    if values is None:
        return None
    rounded: NDArray[np.float64] = np.rint(values)
    distance = np.abs(rounded - values)
    must = np.ones(len(values), np.bool_) if integral is None else np.array(integral)
    if np.isnan(distance).any() or np.any(distance[must] > INTEGRALITY):
        return None
    return rounded.astype(np.int64)


def _lower_bound(bound: float | None, grid: int | None) -> Fraction | None:
    """A float bound less the tolerance, raised to the next multiple of 1 / ``grid``."""
    if bound is None or not math.isfinite(bound):
        return None
    lowered = Fraction(bound - TOLERANCE)
    return lowered if grid is None else Fraction(math.ceil(lowered * grid), grid)
