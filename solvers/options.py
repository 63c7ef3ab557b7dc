"""What a caller asks of a solver, and the clock that goes with it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Options:
    """Limits and repeatability of one solve.

    Attributes:
        time_limit: seconds, None for none.
        seed: of the solver's randomness.
        workers: threads; 1 is repeatable.

    """

    time_limit: float | None = None
    seed: int = 0
    workers: int = 1


class Clock:
    """Seconds since a solve began, and how much of its time is left."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._start = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def remaining(self) -> Options:
        """The same options with only the time that is left."""
        limit = self._options.time_limit
        return (
            self._options
            if limit is None
            else replace(self._options, time_limit=max(0.0, limit - self.elapsed()))
        )

    def expired(self) -> bool:
        """Whether the time limit has passed."""
        limit = self._options.time_limit
        return limit is not None and self.elapsed() >= limit
