"""What a search hands back, and what may stop it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

CHUNK = 1 << 20
"""Nodes between two looks at the clock, and at Ctrl-C: some 50 ms when compiled."""


@dataclass(frozen=True)
class SearchOutcome:
    """Result of a search in scaled integers.

    Attributes:
        value: makespan of the best packing known.
        lower_bound: proven, valid for whatever reason the search stopped.
        ranks: [G, S] expert in each slot of the best packing.
        nodes: nodes searched.
        limit: ``time``, ``nodes`` or ``interrupt`` if that stopped the search, else None.
    """

    value: int
    lower_bound: int
    ranks: Integers
    nodes: int = 0
    limit: str | None = None

    @property
    def optimal(self) -> bool:
        """The best packing known meets the lower bound."""
        return self.value == self.lower_bound


@dataclass
class Budget:
    """Seconds and nodes that a search may use; ``limit`` says what ended it."""

    seconds: float | None = None
    nodes: int | None = None
    used: int = 0
    limit: str | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Seconds since the budget was made."""
        return time.perf_counter() - self.started

    def chunk(self, share: float = 1.0) -> int:
        """Nodes that may be searched next; 0 once ``share`` of a limit is used up."""
        if self.limit == "interrupt":
            return 0
        if self.seconds is not None and self.elapsed >= share * self.seconds:
            self.limit = "time"
            return 0
        if self.nodes is None:
            return CHUNK
        left = int(share * self.nodes) - self.used
        if left <= 0:
            self.limit = "nodes"
        return max(0, min(CHUNK, left))
