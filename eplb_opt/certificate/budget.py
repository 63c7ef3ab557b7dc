"""How much work a check may do: one budget for a whole document, handed through every loop.

A unit is below a microsecond of plain Python (docs/theory/certificates.md). Units are
counted, not measured, so that a verdict is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

UNITS = 40_000_000
"""Of a document; the slowest one takes some 30 seconds."""


class TooLargeToCheckError(Exception):
    """The budget does not suffice to find out; this says nothing about the claim."""


class CheckBudget:
    """Units of work that are left.

    Attributes:
        left: never below 0. Work that does not fit is not begun and costs nothing.
    """

    def __init__(self, units: int = UNITS) -> None:
        self.left = units

    def charge(self, units: int) -> None:
        """Before so much work is done.

        Raises:
            TooLargeToCheckError: less is left.
        """
        if units > self.left:
            raise TooLargeToCheckError(
                f"needs over {self.left:,} units of work, and no more are left"
            )
        self.left -= units

    @contextmanager
    def part(self, parts: int) -> Iterator[CheckBudget]:
        """An equal part of what is left, for one of ``parts`` tasks; what it leaves comes back."""
        given = self.left // parts
        part = CheckBudget(given)
        try:
            yield part
        finally:
            self.left -= given - part.left


def product_cost(bits: int, other: int) -> int:
    """Units for one multiplication, division, or gcd of integers of so many bits."""
    return 1 + (bits * other >> 18)
