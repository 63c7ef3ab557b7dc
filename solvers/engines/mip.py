"""Mixed-integer programs, apart from who solves them: scipy (HiGHS), or CBC, HiGHS, SCIP by PuLP.

These solvers compute in floats. So nothing of theirs is taken as exact: values are rounded and the
placement is checked and valued by the caller, and a bound is lowered by :data:`TOLERANCE` before it
is rounded up to an integer. It still rests on the solver's arithmetic. None of them can be stopped
from Python: Ctrl-C is seen when they return, at the time limit at the latest.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.result import Limit
from solvers.engines.model_size import require_size
from solvers.engines.outcome import Outcome
from solvers.options import Budget

LARGEST_SUM = 2**20
"""Scaled weight of a placement at most: with 2^30 HiGHS was seen to prove a bound 12 % too high,
its feasibility tolerance times such coefficients being hundreds of units."""
TOLERANCE = 1e-3
"""Scaled units by which a float bound may be too high: 359.9999999992 stands for 360."""
ENGINES = ("scipy", "cbc", "highs", "scip")
INTEGRALITY = 1e-4
"""Distance from an integer at which a value is still taken for it."""


@dataclass(frozen=True)
class Row:
    """``low <= sum of coefficient * variable <= high``."""

    terms: tuple[tuple[int, float], ...]
    low: float
    high: float


@dataclass
class Program:
    """Minimize the variable ``objective``, over integer variables mostly; built row by row."""

    lower: list[int] = field(default_factory=list)
    upper: list[int] = field(default_factory=list)
    integral: list[bool] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    objective: int = 0

    def variable(self, lower: int, upper: int, *, integral: bool = True) -> int:
        """A new variable; returns its index."""
        self.lower.append(lower)
        self.upper.append(upper)
        self.integral.append(integral)
        return len(self.lower) - 1

    def add(self, terms: list[tuple[int, float]], low: float, high: float) -> None:
        """A new constraint."""
        self.rows.append(Row(tuple(terms), low, high))

    @property
    def nonzeros(self) -> int:
        """Coefficients in all rows."""
        return sum(len(row.terms) for row in self.rows)


def run(program: Program, backend: str, budget: Budget) -> Outcome:
    """Solve with ``scipy``, ``cbc``, ``highs`` or ``scip``.

    Raises:
        ValueError: the program is too large, or the solver is not installed.
    """
    require_size(backend, len(program.lower), program.nonzeros)
    budget.charge(program.nonzeros)
    if budget.work_left() == 0:
        return Outcome(None, None, infeasible=False, limit=Limit.WORK)
    seconds = budget.seconds_left()
    if backend == "scipy":
        return _run_scipy(program, seconds)
    return _run_pulp(program, backend, seconds)


def installed(backend: str) -> bool:
    """Whether a backend can be used here."""
    if backend == "scipy":
        return True
    return bool(_pulp_solver(backend, None).available())


def _run_scipy(program: Program, seconds: float | None) -> Outcome:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    columns = [j for row in program.rows for j, _ in row.terms]
    data = [a for row in program.rows for _, a in row.terms]
    starts = np.cumsum([0, *(len(row.terms) for row in program.rows)])
    matrix = csr_array((data, columns, starts), shape=(len(program.rows), len(program.lower)))
    low, high = (np.array([getattr(row, side) for row in program.rows]) for side in ("low", "high"))
    cost = np.zeros(len(program.lower))
    cost[program.objective] = 1
    settings: Any = {"mip_rel_gap": 0.0}
    if seconds is not None:
        settings["time_limit"] = seconds
    result = milp(
        cost,
        integrality=np.array(program.integral, dtype=np.int64),
        bounds=Bounds(program.lower, program.upper),
        constraints=LinearConstraint(matrix, low, high),
        options=settings,
    )
    # At a limit, success is False while x may hold a usable solution.
    return _outcome(
        _integers(result.x, program.integral),
        getattr(result, "mip_dual_bound", None),
        infeasible=result.status == 2,
        ended=result.status != 1,
    )


def _run_pulp(program: Program, backend: str, seconds: float | None) -> Outcome:
    import pulp

    problem = pulp.LpProblem("placement", pulp.LpMinimize)
    variables = [
        pulp.LpVariable(f"v{j}", low, high, cat="Integer" if whole else "Continuous")
        for j, (low, high, whole) in enumerate(
            zip(program.lower, program.upper, program.integral, strict=True)
        )
    ]
    problem += variables[program.objective]
    for row in program.rows:
        total = pulp.LpAffineExpression([(variables[j], a) for j, a in row.terms])
        if row.low == row.high:
            problem += total == row.low
        elif math.isfinite(row.high):
            problem += total <= row.high
        else:
            problem += total >= row.low
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        solver = _pulp_solver(backend, seconds, log)
        if not solver.available():
            raise ValueError(f"backend={backend!r} is not installed: pip install 'eplb-opt[milp]'")
        problem.solve(solver)
        bound = BOUNDS[backend](problem, log)
    # PuLP's status says Optimal at a time limit too; only sol_status tells.
    proven = problem.sol_status == pulp.LpSolutionOptimal
    found = problem.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    values = np.array([v.value() if v.value() is not None else math.nan for v in variables])
    if proven:
        bound = pulp.value(problem.objective)
    integers = _integers(values if found else None, program.integral)
    return _outcome(integers, bound, infeasible=False, ended=proven)


def _outcome(
    values: NDArray[np.int64] | None, bound: float | None, *, infeasible: bool, ended: bool
) -> Outcome:
    """``values`` of all variables by index; ``ended`` unless a limit came first."""
    read = None if values is None else lambda j: int(values[j])
    return Outcome(read, _integer_bound(bound), infeasible, None if ended else Limit.TIME)


def _pulp_solver(backend: str, limit: float | None, log: Path | None = None) -> Any:
    import pulp

    if backend == "cbc":
        path = None if log is None else str(log)
        return pulp.PULP_CBC_CMD(msg=False, timeLimit=limit, gapRel=0, logPath=path)
    if backend == "highs":
        return pulp.HiGHS(msg=False, timeLimit=limit, gapRel=0)
    return pulp.SCIP_PY(msg=False, timeLimit=limit, gapRel=0)


def _cbc_bound(_problem: Any, log: Path) -> float | None:
    found = re.findall(r"Lower bound:\s+(\S+)", log.read_text()) if log.exists() else []
    return float(found[-1]) if found else None


BOUNDS: dict[str, Callable[[Any, Path], float | None]] = {
    "cbc": _cbc_bound,
    "highs": lambda problem, _: float(problem.solverModel.getInfo().mip_dual_bound),
    "scip": lambda problem, _: float(problem.solverModel.getDualbound()),
}
"""Where each solver tells its bound, which PuLP does not pass on."""


def _integers(values: Any, integral: list[bool] | None = None) -> NDArray[np.int64] | None:
    """The nearest integers (truncation would turn 0.9999999 into 0); None if any that must be an
    integer is not close.
    """
    if values is None:
        return None
    rounded: NDArray[np.float64] = np.rint(values)
    distance = np.abs(rounded - values)
    must = np.ones(len(distance), dtype=bool) if integral is None else np.array(integral)
    if np.isnan(distance).any() or np.any(distance[must] > INTEGRALITY):
        return None
    return rounded.astype(np.int64)


def _integer_bound(bound: float | None) -> int | None:
    if bound is None or not math.isfinite(bound):
        return None
    return math.ceil(bound - TOLERANCE)
