"""A loss that is the sum of terms, where some terms are known as intervals only. All exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many steps are done and how many there are."""


@dataclass(frozen=True)
class Interval:
    """A number between ``low`` and ``high``, both included.

    Raises:
        ValueError: ``low`` is above ``high``.
    """

    low: Fraction
    high: Fraction

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")

    @property
    def exact(self) -> bool:
        """Whether the number is known."""
        return self.low == self.high

    def __contains__(self, value: Fraction) -> bool:
        return self.low <= value <= self.high

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def __sub__(self, other: Interval) -> Interval:
        return Interval(self.low - other.high, self.high - other.low)

    def __truediv__(self, positive: Fraction | int) -> Interval:
        return Interval(self.low / positive, self.high / positive)


def point(value: Fraction | int) -> Interval:
    """A number that is known."""
    return Interval(Fraction(value), Fraction(value))


def not_negative(interval: Interval) -> Interval:
    """Where a number of ``interval`` lies that is known to be at least 0."""
    return Interval(max(Fraction(0), interval.low), interval.high)


DECIMALS = 2
"""Of points, percent of the mean rank load."""


def points(value: Fraction) -> str:
    """The nearest decimal: ``0.2279`` is ``22.79``."""
    return f"{float(100 * value):z.{DECIMALS}f}"  # z: no -0.00


def interval_in_points(interval: Interval) -> str:
    """``22.79 .. 22.80``, rounded outwards, so that the number lies in between for sure."""
    if interval.exact:
        return points(interval.low)
    scale = 10**DECIMALS
    ends = math.floor(100 * scale * interval.low), math.ceil(100 * scale * interval.high)
    return " .. ".join(dict.fromkeys(f"{end / scale:.{DECIMALS}f}" for end in ends))


@dataclass(frozen=True)
class Split:
    """A loss and its terms, ratios to the mean rank load: 0.01 is one point.

    Attributes:
        total: the loss, exact.
        terms: where each term lies.
        shown: one number in each of these intervals; they add up to ``total`` exactly.
        sums: sums of several terms by name, narrower than the intervals of those terms added up.
        beside: other differences that are of interest, and no part of the loss.

    Raises:
        ValueError: the numbers shown do not add up, or one is outside of its interval.
    """

    total: Fraction
    terms: Mapping[str, Interval]
    shown: Mapping[str, Fraction]
    sums: Mapping[str, Interval]
    beside: Mapping[str, Interval] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if sum(self.shown.values()) != self.total:
            raise ValueError(f"shown={dict(self.shown)} does not add up to total={self.total}")
        for name, value in self.shown.items():
            if value not in self.terms[name]:
                raise ValueError(f"shown[{name!r}]={value} is not in {self.terms[name]}")


def mean_split(splits: Sequence[Split]) -> Split:
    """The mean of splits with the same terms, term by term; at least one is needed."""
    number, first = len(splits), splits[0]
    return Split(
        sum((s.total for s in splits), Fraction(0)) / number,
        {k: sum((s.terms[k] for s in splits), point(0)) / number for k in first.terms},
        {k: sum((s.shown[k] for s in splits), Fraction(0)) / number for k in first.shown},
        {k: sum((s.sums[k] for s in splits), point(0)) / number for k in first.sums},
        {k: sum((s.beside[k] for s in splits), point(0)) / number for k in first.beside},
    )


@dataclass(frozen=True)
class LayerSplit:
    """The split of one placement's loss on one layer with load, by the layer's number."""

    layer: int
    split: Split


@dataclass(frozen=True)
class PolicySplit:
    """A policy's losses on the layers with load, at least one."""

    policy: str
    layers: tuple[LayerSplit, ...]

    @property
    def mean(self) -> Split:
        """Over the layers, all weighing alike."""
        return mean_split([layer.split for layer in self.layers])


def collect(
    what: str,
    split_row: Callable[[int], Mapping[str, LayerSplit]],
    rows: Sequence[int],
    progress: Progress,
) -> tuple[tuple[PolicySplit, ...], bool]:
    """Split the losses of the same policies on each of ``rows``.

    Returns the splits by policy, none without a row, and whether Ctrl-C ended the work early, which
    keeps the rows that are done.
    """
    found: list[Mapping[str, LayerSplit]] = []
    interrupted = False
    try:
        for row in rows:
            progress(what, len(found), len(rows))
            found.append(split_row(row))
    except KeyboardInterrupt:
        interrupted = True
    policies = found[0] if found else ()
    splits = (PolicySplit(p, tuple(layer[p] for layer in found)) for p in policies)
    return tuple(splits), interrupted
