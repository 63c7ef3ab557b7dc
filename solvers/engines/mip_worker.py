"""Solves programs that come in on standard input: scipy (HiGHS), or CBC, HiGHS, SCIP by PuLP."""

from __future__ import annotations

import math
import os
import pickle
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from solvers.engines.mip_process import Answer, Matrix, Question


def main() -> None:
    """Answer until the input ends. What a solver prints goes to standard error."""
    end_with_parent(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            question = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(answer(question), answers)
        answers.flush()


def end_with_parent(lifeline: int) -> None:
    """Watch a pipe that nobody writes to: when its other end is gone, so is the parent, and nobody
    waits for this process and what it has started. It cannot watch by itself while a solver works.
    """
    if os.fork():
        os.close(lifeline)
        return
    os.closerange(0, lifeline)
    os.read(lifeline, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def answer(question: Question) -> Answer:
    """What the solver says."""
    solve = _scipy if question.backend == "scipy" else _pulp
    return solve(question)


def _scipy(question: Question) -> Answer:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    m = question.matrix
    rows: Any = csr_array((m.data, m.columns, m.starts), shape=(len(m.low), len(m.lower)))
    cost = np.zeros(len(m.lower))
    cost[m.objective] = 1
    settings: Any = {"mip_rel_gap": 0.0}
    seconds = question.seconds_left()
    if seconds is not None:
        settings["time_limit"] = seconds
    result = milp(
        cost,
        integrality=m.integral.astype(np.int64),
        bounds=Bounds(m.lower, m.upper),
        constraints=LinearConstraint(rows, m.low, m.high),
        options=settings,
    )
    # At a limit, success is False while x may hold a usable solution.
    return Answer(
        result.x,
        getattr(result, "mip_dual_bound", None),
        infeasible=result.status == 2,
        ended=result.status != 1,
    )


def _pulp(question: Question) -> Answer:
    import pulp

    problem, variables = _as_pulp(question.matrix)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        problem.solve(pulp_solver(question.backend, question.seconds_left(), log))
        bound = BOUNDS[question.backend](problem, log)
    # PuLP's status says Optimal at a time limit too; only sol_status tells.
    proven = problem.sol_status == pulp.LpSolutionOptimal
    found = problem.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    values = np.array([v.value() if v.value() is not None else math.nan for v in variables])
    if proven:
        bound = pulp.value(problem.objective)
    return Answer(values if found else None, bound, ended=proven)


def _as_pulp(m: Matrix) -> tuple[Any, list[Any]]:
    import pulp

    problem = pulp.LpProblem("placement", pulp.LpMinimize)
    variables = [
        pulp.LpVariable(f"v{j}", low, high, cat="Integer" if whole else "Continuous")
        for j, (low, high, whole) in enumerate(
            zip(m.lower.tolist(), m.upper.tolist(), m.integral.tolist(), strict=True)
        )
    ]
    problem += variables[m.objective]
    columns, data = m.columns.tolist(), m.data.tolist()
    for i, (low, high) in enumerate(zip(m.low.tolist(), m.high.tolist(), strict=True)):
        row = slice(m.starts[i], m.starts[i + 1])
        terms = [(variables[j], a) for j, a in zip(columns[row], data[row], strict=True)]
        total = pulp.LpAffineExpression(terms)
        if low == high:
            problem += total == low
        elif math.isfinite(high):
            problem += total <= high
        else:
            problem += total >= low
    return problem, variables


def pulp_solver(backend: str, limit: float | None, log: Path | None = None) -> Any:
    """PuLP's solver; it may not be there."""
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

if __name__ == "__main__":
    main()
