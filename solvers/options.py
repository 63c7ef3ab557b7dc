"""What a caller asks of a search, and what is left of it while the search runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real

from eplb_opt.problem.result import Limit
from solvers.given import number, ratio

SearchProgress = Callable[[Fraction, Fraction], None]
"""Told the value of the incumbent and the lower bound, in tokens."""

LARGEST_SEED = 2**31 - 1
"""What CP-SAT takes."""
MOST_WORKERS = 1024
ENDLESS = 1e9
"""Seconds beyond which a limit is none: 30 years."""
ENDLESS_WORK = 2**60
CHUNK = 1 << 20
"""Work between two looks at the clock, and at Ctrl-C: some 50 ms of compiled search."""


@dataclass(frozen=True)
class SearchOptions:
    """Limits and repeatability of one search.

    Attributes:
        time_limit: seconds, the building of models and the compilation of searches included; 0 for
            no search, None for no limit.
        work_limit: the repeatable limit, None for none. A unit is a step of a tree search, a
            millionth of CP-SAT's deterministic time, a nonzero of a model that is built. With it,
            without a time limit and with one worker, the same seed gives the same result on any
            machine. MILP engines know no such limit: of them only building the model counts.
        tolerance: stop at this relative distance of value and bound; 0 asks for the optimum.
        seed: of the solver's randomness, below 2^31.
        workers: threads; 1 is repeatable.
        progress: told of the search's progress, method by method.

    Raises:
        ValueError: a limit is negative or no number; the message names it.
    """

    time_limit: float | None = None
    work_limit: int | None = None
    tolerance: Fraction = Fraction(0)
    seed: int = 0
    workers: int = 1
    progress: SearchProgress | None = None

    def __post_init__(self) -> None:
        seconds, work = self.time_limit, self.work_limit
        if seconds is not None:
            if not (isinstance(seconds, Real) and seconds >= 0):
                raise ValueError(f"time_limit={seconds!r} must be seconds, 0 or more")
            seconds = None if seconds > ENDLESS else float(seconds)
        if work is not None:
            work = number("work_limit", work, least=0)
            work = None if work > ENDLESS_WORK else work
        if not (self.progress is None or callable(self.progress)):
            raise ValueError(f"progress={self.progress!r} is no function")
        object.__setattr__(self, "time_limit", seconds)
        object.__setattr__(self, "work_limit", work)
        object.__setattr__(self, "tolerance", ratio("tolerance", self.tolerance))
        object.__setattr__(self, "seed", number("seed", self.seed, least=0, most=LARGEST_SEED))
        object.__setattr__(
            self, "workers", number("workers", self.workers, least=1, most=MOST_WORKERS)
        )

    def asks_for(self, value: Fraction, lower_bound: Fraction) -> bool:
        """Whether there is something to search for, and time to do it."""
        return self.time_limit != 0 and value > lower_bound * (1 + self.tolerance)


class OutOfBudgetError(Exception):
    """Raised by :meth:`Budget.spend` where no more may be done; the budget says why."""


class Budget:
    """Seconds and work that a search may still use; every loop charges it.

    A :meth:`part` has a share of what is left. What it uses is charged to the whole as well, and
    Ctrl-C in a part ends the whole.

    Attributes:
        options: as asked by the caller.
        seconds: allowed from the start of this budget on; None without a limit.
        work: allowed in all; None without a limit.
        target: tokens; a placement with at most this makespan is good enough.
        used: work charged so far.
        limit: what ended the search, None as long as it may go on.
    """

    def __init__(
        self,
        options: SearchOptions | None = None,
        *,
        target: Fraction | None = None,
        whole: Budget | None = None,
    ) -> None:
        """The budget of ``options``; by default without limits. ``whole`` is charged too."""
        self.options = options or SearchOptions()
        self.seconds, self.work = self.options.time_limit, self.options.work_limit
        self.target, self.used = target, 0
        self.limit: Limit | None = None
        self._whole = whole
        self._start = time.perf_counter()

    def part(
        self, share: float = 1.0, *, work: int | None = None, target: Fraction | None = None
    ) -> Budget:
        """A share of what is left, and of work no more than ``work``."""
        part = Budget(self.options, target=self.target if target is None else target, whole=self)
        seconds, left = self.seconds_left(), self.work_left()
        part.seconds = None if seconds is None else share * seconds
        if self.interrupted:
            part.limit, part.seconds = self.limit, 0.0
        limits = [n for n in (work, None if left is None else int(share * left)) if n is not None]
        part.work = min(limits, default=None)
        return part

    @property
    def limited(self) -> bool:
        """Whether there is a limit on time or work."""
        return self.seconds is not None or self.work is not None

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def seconds_left(self) -> float | None:
        """None without a limit."""
        return None if self.seconds is None else max(0.0, self.seconds - self.elapsed())

    def work_left(self) -> int | None:
        """None without a limit."""
        return None if self.work is None else max(0, self.work - self.used)

    def charge(self, work: int) -> None:
        """Use so much work, here and in the whole."""
        self.used += work
        if self._whole is not None:
            self._whole.charge(work)

    def chunk(self, share: float = 1.0) -> int:
        """Work that may be done next; 0 once ``share`` of a limit is used up, or after Ctrl-C."""
        if self.limit == Limit.INTERRUPT:
            return 0
        if self.seconds is not None and self.elapsed() >= share * self.seconds:
            self.limit = Limit.TIME
            return 0
        if self.work is None:
            return CHUNK
        left = int(share * self.work) - self.used
        if left <= 0:
            self.limit = Limit.WORK
        return max(0, min(CHUNK, left))

    def spend(self, work: int) -> None:
        """Charge so much work, or give up: for loops that cannot go on where they stopped.

        Raises:
            OutOfBudgetError: the limit is reached, or Ctrl-C came.
        """
        if not self.chunk():
            raise OutOfBudgetError
        self.charge(work)

    def interrupt(self) -> None:
        """Ctrl-C: nothing more is to be done, here and in the whole."""
        self.limit = Limit.INTERRUPT
        if self._whole is not None:
            self._whole.interrupt()

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return self.limit == Limit.INTERRUPT

    def accepts(self, value: Fraction, lower_bound: Fraction) -> bool:
        """Whether a placement of this ``value`` ends the search."""
        enough = lower_bound * (1 + self.options.tolerance)
        return value <= (enough if self.target is None else max(enough, self.target))

    def better_than(self, value: int) -> int:
        """The largest integer makespan that is worth a search, with ``value`` at hand: less by more
        than the tolerance.
        """
        return min(value - 1, math.ceil(value / (1 + self.options.tolerance)) - 1)

    def tell(self, value: Fraction, lower_bound: Fraction) -> None:
        """Report progress to the caller."""
        if self.options.progress is not None:
            self.options.progress(value, lower_bound)
