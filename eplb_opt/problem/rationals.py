"""Exact numbers: floats are rationals, and how exact values are written for people and files."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64] | NDArray[np.object_]
"""Integers of 64 bits, or Python's own of any size."""

FRACTION_BITS = 53
"""Bits of a float's significand."""
LARGEST_FLOAT = sys.float_info.max
LONGEST_SHOWN = 60
"""Characters of a value in a message."""


def exact_integers(steps: NDArray[Any]) -> tuple[Integers, Fraction]:
    """Integers and a unit such that ``steps == integers * unit`` exactly.

    Args:
        steps: [T, E] int64 or float64, finite and not negative.

    Returns:
        Integers of the same shape, int64 where T times the largest fits, and the unit: 1 where all
        are whole, else the largest power of 1/2 that does.
    """
    if steps.dtype.kind == "i":
        return widen(steps, len(steps)), Fraction(1)
    significand, exponent = np.frexp(steps)
    digits = np.ldexp(significand, FRACTION_BITS).astype(np.int64)
    exponent = exponent.astype(np.int64) - FRACTION_BITS  # steps == digits * 2**exponent
    trailing = np.frexp((digits & -digits).astype(np.float64))[1] - 1  # zeros; -1 for a digit 0
    lowest = np.where(digits == 0, 0, exponent + trailing)
    unit = min(0, int(lowest.min(initial=0)))
    bits = int((exponent + FRACTION_BITS - unit).max(initial=0, where=digits > 0))
    if bits + len(steps).bit_length() > 62:
        ratio = Fraction(2) ** -unit
        return integer_array([[int(Fraction(v) * ratio) for v in row] for row in steps.tolist()]), (
            1 / ratio
        )
    shift = np.where(digits == 0, 0, exponent - unit)
    # A left shift of what has been shifted right: no digit is lost, and nothing overflows.
    shifted = np.left_shift(np.right_shift(digits, np.maximum(-shift, 0)), np.maximum(shift, 0))
    return shifted, Fraction(1, 2**-unit)


def integer_array(rows: Sequence[Sequence[int]]) -> Integers:
    """[T, E] int64, or dtype object where a sum over T might exceed 64 bits."""
    largest = max((max(row, default=0) for row in rows), default=0)
    fits = largest * len(rows) < 2**63
    return np.array(rows, dtype=np.int64) if fits else np.array(rows, dtype=object)


def widen(integers: NDArray[Any], terms: int) -> Integers:
    """The same integers, Python's own (dtype object) where a sum of ``terms`` may exceed int64."""
    largest = max(int(integers.max(initial=0)), -int(integers.min(initial=0)))
    return integers.astype(np.int64 if largest * terms < 2**63 else object, copy=False)


def relative_gap(value: Fraction, lower_bound: Fraction) -> float:
    """``(value - lower_bound) / lower_bound``, computed exactly and then rounded to a float; the
    largest one where it is beyond their range.

    Raises:
        ValueError: the bound is not positive, as for a layer without load: it has no gap.
    """
    if lower_bound <= 0:
        raise ValueError(f"no gap over a lower bound of {lower_bound}")
    gap = nearest_float((value - lower_bound) / lower_bound)
    return LARGEST_FLOAT if gap is None else gap


def float_below(value: Fraction) -> float:
    """The largest float that is not above ``value``: how a lower bound is printed."""
    if value >= LARGEST_FLOAT:
        return LARGEST_FLOAT
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)


def float_above(value: Fraction) -> float | None:
    """The smallest float that is not below ``value``; None beyond the range of floats."""
    return None if value > LARGEST_FLOAT else 0.0 - float_below(-value)  # no -0.0


def exact_text(value: Fraction) -> str:
    """``num/den``, the exact value in a JSON document; ``num/1`` for an integer."""
    return f"{value.numerator}/{value.denominator}"


def nearest_float(value: Fraction | None) -> float | None:
    """How a value stands in a JSON document beside its exact text: None where there is no value, or
    none near it, since it is beyond the range of floats.
    """
    return None if value is None or abs(value) > LARGEST_FLOAT else float(value) + 0.0  # no -0.0


def decimal_text(value: Fraction | None) -> str:
    """How a value stands in a table: three decimals, ``-`` for None, and beyond the range of
    floats its power of ten, as ``1.234e+400``.
    """
    if value is None:
        return "-"
    near = nearest_float(value)
    return f"{near:.3f}" if near is not None else f"{Decimal(math.floor(value)):.3e}"


def shown(value: object) -> str:
    """The beginning of a number or other value from a file, for a message of one line."""
    try:
        text = str(value)
    except ValueError:  # Python writes no integers of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}.."
