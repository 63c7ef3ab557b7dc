"""Running a CP-SAT model: limits, Ctrl-C, and only those of its numbers that mean something."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from ortools.sat.python import cp_model

from solvers.bracket import Known
from solvers.options import Options
from solvers.scaling import Scale


@dataclass(frozen=True)
class Outcome:
    """What CP-SAT found.

    Attributes:
        value: reads a variable in the best solution; None if no solution was found.
        bound: proven lower bound on the integers minimized; None if nothing was proven. CP-SAT
            reports an objective and a bound of no meaning when its status is UNKNOWN or the model
            is
            infeasible: they are dropped here.
        infeasible: proven that the model has no solution.
        limit: ``time`` or ``interrupt`` if that ended the search.
    """

    value: Callable[[cp_model.IntVar], int] | None
    bound: int | None
    infeasible: bool
    limit: str | None


def run(
    model: cp_model.CpModel, options: Options, parameters: Mapping[str, int] | None = None
) -> Outcome:
    """Solve a model. Ctrl-C stops the search and keeps what it found.

    ``parameters`` are CP-SAT's own, beside those that ``options`` set.
    """
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = options.workers
    solver.parameters.random_seed = options.seed
    solver.parameters.catch_sigint_signal = False
    if options.time_limit is not None:
        solver.parameters.max_time_in_seconds = options.time_limit
    if options.work_limit is not None:
        solver.parameters.max_deterministic_time = options.work_limit / 1e6
    for name, setting in (parameters or {}).items():
        setattr(solver.parameters, name, setting)
    status, interrupted = _solve_interruptibly(solver, model)
    if status == cp_model.MODEL_INVALID:
        raise ValueError(f"CP-SAT refuses the model: {model.validate()}")
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    ended = status in (cp_model.OPTIMAL, cp_model.INFEASIBLE)
    return Outcome(
        value=solver.value if found else None,
        # best_objective_bound is a float: 554283529594745.06 was seen to stand for ..745.
        bound=solver.response_proto.inner_objective_lower_bound if found else None,
        infeasible=status == cp_model.INFEASIBLE,
        limit=None if ended else "interrupt" if interrupted else "time",
    )


class PlacementModel(Protocol):
    """A model whose objective is the makespan in scaled units."""

    model: cp_model.CpModel

    def slots(self, value: Callable[[cp_model.IntVar], int]) -> tuple[int, ...]:
        """The placement [P] of a solution."""


def improved(known: Known, model: PlacementModel, scale: Scale, options: Options) -> Known:
    """What is known after ``model`` has been solved; its bound rests on CP-SAT's word."""
    outcome = run(model.model, options)
    known = replace(known, limit=outcome.limit)
    if outcome.value is not None:
        known = known.with_placement(model.slots(outcome.value))
    if outcome.bound is not None:
        known = known.with_bound(outcome.bound * scale.unit, "cp-sat")
    return known


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
            pass
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
