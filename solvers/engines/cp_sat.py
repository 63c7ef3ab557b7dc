"""Running a CP-SAT model: limits, Ctrl-C, and only those of its numbers that mean something."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction

from ortools.sat.python import cp_model

from eplb_opt.problem.result import Limit
from solvers.engines.outcome import Outcome
from solvers.options import Budget


def run(
    model: cp_model.CpModel, budget: Budget, parameters: Mapping[str, int] | None = None
) -> Outcome:
    """Solve a model. Ctrl-C stops the search and keeps what it found.

    CP-SAT reports an objective and a bound of no meaning when its status is UNKNOWN or the model is
    infeasible: they are dropped.

    Args:
        model: its objective is an integer.
        budget: charged with the deterministic time, in millionths.
        parameters: CP-SAT's own, beside those that follow from the budget.

    Raises:
        ValueError: CP-SAT refuses the model.
    """
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = budget.options.workers
    solver.parameters.random_seed = budget.options.seed
    solver.parameters.catch_sigint_signal = False
    solver.parameters.relative_gap_limit = _gap_limit(budget.options.tolerance)
    seconds, work = budget.seconds_left(), budget.work_left()
    if seconds is not None:
        solver.parameters.max_time_in_seconds = seconds
    if work is not None:
        solver.parameters.max_deterministic_time = work / WORK
    for name, setting in (parameters or {}).items():
        setattr(solver.parameters, name, setting)
    status, interrupted = _solve_interruptibly(solver, model)
    if interrupted:
        budget.interrupt()
    budget.charge(round(solver.response_proto.deterministic_time * WORK))
    if status == cp_model.MODEL_INVALID:
        raise ValueError(f"CP-SAT refuses the model: {model.validate()}")
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    ended = status in (cp_model.OPTIMAL, cp_model.INFEASIBLE)
    return Outcome(
        value=solver.value if found else None,
        # best_objective_bound is a float: 554283529594745.06 was seen to stand for ..745.
        bound=solver.response_proto.inner_objective_lower_bound if found else None,
        infeasible=status == cp_model.INFEASIBLE,
        limit=None if ended else _limit(budget),
    )


WORK = 1e6
"""Work in a unit of CP-SAT's deterministic time, about a second."""


def _gap_limit(tolerance: Fraction) -> float:
    """CP-SAT divides by the value, we by the bound; rounded down."""
    return max(0.0, math.nextafter(float(tolerance / (1 + tolerance)), -math.inf))


def _limit(budget: Budget) -> Limit:
    """What made CP-SAT stop: it does not say, but it stops for no other reason."""
    if budget.interrupted:
        return Limit.INTERRUPT
    out_of_work = budget.work is not None and not budget.work_left()
    return Limit.WORK if budget.seconds is None or out_of_work else Limit.TIME


def _solve_interruptibly(
    solver: cp_model.CpSolver, model: cp_model.CpModel
) -> tuple[cp_model.CpSolverStatus, bool]:
    """Solve in a thread, so that the main thread is free to receive Ctrl-C."""
    done, box = threading.Event(), []

    def work() -> None:
        try:
            box.append(solver.solve(model))
        finally:
            done.set()

    with _stop_on_interrupt(solver) as interrupted:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        # Waiting in slices lets Python run the signal handler; Thread.join() would not.
        while not done.wait(0.1):
            if interrupted.is_set():  # it may have come before the search could be stopped
                solver.stop_search()
    return box[0], interrupted.is_set()


@contextmanager
def _stop_on_interrupt(solver: cp_model.CpSolver) -> Iterator[threading.Event]:
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def stop(*_: object) -> None:
        interrupted.set()
        solver.stop_search()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
