"""The replicas that a placement below a trial makespan can use, in integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from solvers.arrays import Integers
from solvers.model_size import require_table

GRID = 2**40
"""Replica loads are floored to multiples of T / GRID; the floor loses at most S / GRID of T."""


@dataclass(frozen=True, eq=False)
class ReplicaWindow:
    """Counts and replica loads left by the assumption that the makespan is below T.

    Attributes:
        fewest: [E], ``floor(w_e / T) + 1``: with fewer, one replica alone weighs T or more.
        spare: ``P - sum(fewest)``; negative proves that no makespan is below T.
        weights: [E, spare + 1], ``floor(GRID * w_e / (k * T))`` for ``k = fewest_e .. fewest_e +
            spare``.
    """

    fewest: Integers
    spare: int
    weights: Integers

    @property
    def counts(self) -> Integers:
        """[E, spare + 1], the k of each weight."""
        return self.fewest[:, None] + np.arange(self.spare + 1)


def replica_window(
    loads: Sequence[int],
    num_slots: int,
    makespan: Fraction,
    given: Sequence[int] | None = None,
) -> ReplicaWindow:
    """The window below ``makespan`` (in the unit of ``loads``), exactly; O(E * spare).

    With ``given`` counts [E] the window holds these alone, or is empty.

    Raises:
        TooLargeError: the window has too many kinds of replicas.
    """
    num, den = makespan.numerator, makespan.denominator
    fewest = [load * den // num + 1 for load in loads]
    if given is not None and all(k <= c for k, c in zip(fewest, given, strict=True)):
        fewest = list(given)
    spare = num_slots - sum(fewest) if given is None or fewest == list(given) else -1
    require_table("a pattern bound", len(fewest), spare + 1)
    scaled = [load * den * GRID // num for load in loads] if spare >= 0 else []
    first = np.array(fewest[: len(scaled)], dtype=np.int64)
    # floor(floor(x) / k) == floor(x / k), so the division by k may come after the first floor
    counts = first[:, None] + np.arange(max(spare, 0) + 1)
    return ReplicaWindow(first, spare, np.array(scaled, dtype=np.int64)[:, None] // counts)


@dataclass(frozen=True, eq=False)
class Bins:
    """Replicas of nearly equal load, treated as one kind.

    Attributes:
        of: [E, spare + 1], the bin of each replica; bins ascend with the load.
        lightest: [B], the weight of the lightest replica of each bin, which stands for the bin.
    """

    of: Integers
    lightest: Integers


def bins_of(weights: Integers, num_bins: int) -> Bins:
    """Bins of width T / num_bins; empty ones are left out."""
    cell = weights * num_bins // GRID  # below num_bins, as weights are below GRID
    filled = np.zeros(num_bins, np.bool_)
    filled[cell] = True
    of = (np.cumsum(filled) - 1)[cell]
    lightest = np.full(int(filled.sum()), GRID, np.int64)
    np.minimum.at(lightest, of.ravel(), weights.ravel())
    return Bins(of, lightest)
