"""What a caller asks of a solver, and the clock that goes with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

Progress = Callable[[Fraction, Fraction], None]
"""Told the value of the incumbent and the lower bound, in tokens."""


@dataclass(frozen=True)
class Options:
    """Limits and repeatability of one solve.

    Attributes:
        time_limit: seconds, None for none.
        work_limit: the repeatable limit, None for none: nodes of a tree search, millionths of
            CP-SAT's deterministic time. With it, without a time limit and with one worker, the
            same seed gives the same result on any machine.
        seed: of the solver's randomness.
        workers: threads; 1 is repeatable.
        tolerance: stop at this relative distance of value and bound; 0 asks for the optimum.
        progress: told of the joint search's progress, layer or node by node.
        target: tokens; a placement with at most this makespan is good enough.
    """

    time_limit: float | None = None
    seed: int = 0
    workers: int = 1
    tolerance: Fraction = Fraction(0)
    target: Fraction | None = None
    work_limit: int | None = None
    progress: Progress | None = None

    def satisfied(self, value: Fraction, lower_bound: Fraction) -> bool:
        """Whether a placement of this ``value`` ends the search."""
        enough = lower_bound * (1 + self.tolerance)
        return value <= (enough if self.target is None else max(enough, self.target))


class Clock:
    """Seconds since a solve began, and how much of its time is left."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._start = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def remaining(self, share: float = 1.0) -> Options:
        """The same options with ``share`` of the time that is left."""
        limit = self._options.time_limit
        if limit is None:
            return self._options
        return replace(self._options, time_limit=share * max(0.0, limit - self.elapsed()))

    def expired(self) -> bool:
        """Whether the time limit has passed."""
        limit = self._options.time_limit
        return limit is not None and self.elapsed() >= limit
