"""The process that solves mixed-integer programs, and the parent's end of it.

No solver here can be stopped from Python, and while one works it keeps Ctrl-C waiting. A process of
its own can be ended whenever its time is over; it stays for the next program otherwise.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRACE = 1.0
"""Seconds over its time limit before a solver is ended: it may still hand over what it found."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """Minimize one of the variables ``x`` within ``lower <= x <= upper``, ``low <= A x <= high``.

    Row i of A has the coefficients ``data[starts[i]:starts[i + 1]]`` in those ``columns``.
    """

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    integral: NDArray[np.bool_]
    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    data: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    objective: int


@dataclass(frozen=True)
class Question:
    """A program, who is to solve it, and until when on the system's monotonic clock."""

    matrix: Matrix
    backend: str
    deadline: float | None

    def seconds_left(self) -> float | None:
        """None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True, eq=False)
class Answer:
    """In the solver's floats: variables and bound, None where there are none; ``ended`` unless a
    limit came first.
    """

    values: NDArray[np.float64] | None = None
    bound: float | None = None
    infeasible: bool = False
    ended: bool = False


class _Child:
    """One process, which answers one question after another, and ends when this one does."""

    def __init__(self) -> None:
        lifeline, self._lifeline = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "solvers.engines.mip_worker", str(lifeline)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(lifeline,),
        )
        os.close(lifeline)

    def ask(self, question: Question) -> Answer | None:
        """The answer; None if there was none in time.

        Raises:
            RuntimeError: the process ended.
        """
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            raise RuntimeError("the process has no pipes")
        try:
            pickle.dump(question, requests)
            requests.flush()
            left = question.seconds_left()
            if not select.select([answers], [], [], None if left is None else left + GRACE)[0]:
                return None
            answer: Answer = pickle.load(answers)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            raise RuntimeError(
                f"backend={question.backend!r} ended its process with exit code "
                f"{self._process.wait()}"
            ) from None
        return answer

    def kill(self) -> None:
        """End the process and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._lifeline)


_idle: list[_Child] = []


def ask(question: Question) -> Answer | None:
    """The answer of a process that is free, or of a new one; None if there was none in time.

    Raises:
        RuntimeError: the process ended, for instance for want of memory.
    """
    child = _idle.pop() if _idle else _Child()
    answer = None
    try:
        answer = child.ask(question)
    finally:
        if answer is None:
            child.kill()
        else:
            _idle.append(child)
    return answer


@atexit.register
def _end() -> None:
    while _idle:
        _idle.pop().kill()


# A forked process must not answer its parent's questions, nor end its children.
os.register_at_fork(after_in_child=_idle.clear)
