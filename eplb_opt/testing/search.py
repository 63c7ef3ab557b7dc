"""Searching for bad loads: random starts, local search, then shrinking; the same for all that is
attacked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

LARGEST = 1000
"""No expert gets more tokens."""
SLACK = Fraction(1, 100)
"""So much of the worst ratio found may be given up for simpler loads."""

Loads = NDArray[np.int64]


class Ratio(Protocol):
    """What was found, by its exact ratio to the optimum."""

    @property
    def ratio(self) -> Fraction:
        """At least 1."""
        ...


Found = TypeVar("Found", bound=Ratio)


class Hunt(Protocol[Found]):
    """A search; an interrupt leaves what it knows as it is."""

    worst: Found | None

    def step(self) -> None:
        """Try a batch, and keep the worst."""
        ...

    def shrink(self, least_ratio: Fraction) -> bool:
        """Take something simpler whose ratio is large enough; whether there was any."""
        ...


def search(
    hunt: Hunt[Found], seconds: float, progress: Callable[[float, Found | None], None]
) -> bool:
    """Search, then shrink what is within ``SLACK`` of the worst; whether Ctrl-C ended it early."""
    start = time.monotonic()
    try:
        while (spent := time.monotonic() - start) < 0.85 * seconds:
            progress(spent / seconds, hunt.worst)
            hunt.step()
        worst = hunt.worst.ratio if hunt.worst else Fraction(1)
        least_ratio = max(worst * (1 - SLACK), (worst + 1) / 2)  # half of a small excess stays
        while time.monotonic() - start < seconds and hunt.shrink(least_ratio):
            progress((time.monotonic() - start) / seconds, hunt.worst)
    except KeyboardInterrupt:
        return True
    return False


def random_loads(num_experts: int, chance: np.random.Generator) -> Loads:
    """Small numbers, powers of two, a few heavy experts beside ones, or lognormal."""
    n, kind = num_experts, chance.integers(4)
    if kind == 0:
        return chance.integers(0, 30, n)
    if kind == 1:
        return 2 ** chance.integers(0, 9, n)
    if kind == 2:
        heavy = np.ones(n, dtype=np.int64)
        some = chance.integers(1, n) if n > 1 else 1
        heavy[:some] = chance.integers(2, 100, some)
        return heavy
    return chance.lognormal(3, 1.5, n).astype(np.int64)


def change_loads(loads: Loads, chance: np.random.Generator) -> Loads:
    """One to three small changes."""
    loads = loads.copy()
    for _ in range(1 + chance.integers(3)):
        e, f = chance.integers(len(loads), size=2)
        kind = chance.integers(5)
        if kind == 0:
            loads[e] += chance.integers(-3, 4)
        elif kind == 1:
            loads[e] = loads[f]
        elif kind == 2:
            loads[e] = round(float(loads[e]) * chance.uniform(0.6, 1.6))
        elif kind == 3:
            loads[e] = 1
        else:
            loads[e], loads[f] = loads[e] + loads[f] // 2, loads[f] - loads[f] // 2
    return loads


def size_of(loads: tuple[int, ...]) -> tuple[int, int, int]:
    """What shrinking makes small: the sum, how many differ, the order."""
    disorder = sum(a < b for a, b in pairwise(loads))
    return sum(loads), len(set(loads)), disorder


def simpler_loads(loads: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Candidates that are simpler, as they come."""
    ordered = tuple(sorted(loads, reverse=True))
    if ordered != loads:
        yield ordered
    for divisor in (10, 5, 3, 2):
        yield tuple(-(-load // divisor) for load in loads)
        yield tuple(load // divisor for load in loads)
    for e, load in enumerate(loads):
        for smaller in {0, 1, load // 2, load - 5, load - 2, load - 1} - {load}:
            if 0 <= smaller < load:
                yield (*loads[:e], smaller, *loads[e + 1 :])
