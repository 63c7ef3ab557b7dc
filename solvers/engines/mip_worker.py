"""Solves programs that come in on standard input, with HiGHS (by scipy) or SCIP (by PuLP)."""

from __future__ import annotations

import math
import os
import pickle
import signal
import sys
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
    solve = _scipy if question.backend == "scipy" else _scip
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


def _scip(question: Question) -> Answer:
    import pulp

    problem, variables = _as_pulp(question.matrix)
    problem.solve(scip(question.seconds_left()))
    # PuLP's status says Optimal at a time limit too; only sol_status tells.
    proven = problem.sol_status == pulp.LpSolutionOptimal
    found = problem.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    values = np.array([v.value() if v.value() is not None else math.nan for v in variables])
    # PuLP passes on no bound.
    bound = pulp.value(problem.objective) if proven else problem.solverModel.getDualbound()
    return Answer(values if found else None, float(bound), ended=proven)


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


def scip(limit: float | None) -> Any:
    """PuLP's interface to SCIP, which may not be there."""
    import pulp

    return pulp.SCIP_PY(msg=False, timeLimit=limit, gapRel=0)


if __name__ == "__main__":
    main()
