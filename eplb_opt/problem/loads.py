"""Numbers as they are given, held exactly as int64 or float64, or refused: never rounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eplb_opt.problem.rationals import Integers, exact_integers, widen

Loads = NDArray[np.int64] | NDArray[np.float64]
AXES = ("step", "layer", "expert")
_LONGEST = 40
STEP_BITS = 40
"""Bits of a normalised step's total."""
LEAST_FLOAT_BITS = 1074
"""No float is less than 2^-1074."""


def exact_array(values: ArrayLike, name: str = "loads", axes: Sequence[str] = AXES) -> Loads:
    """``values`` as int64 or float64 of the same shape, every entry exactly.

    Integers alone stay integers. Beside floats they become floats, if a float holds them (all up to
    2^53). A decimal such as 0.1 is the float that Python makes of it. NaN and infinity are floats.

    Args:
        values: an array of integers or floats of any width, or nested sequences of such numbers.
        name: of the values, for messages.
        axes: what their last axes are called.

    Raises:
        ValueError: ragged, an entry that is no number (a truth value is none), or one that neither
            type holds exactly; the message names the first such entry, and the remedy.
    """
    try:
        nested = isinstance(values, list | tuple)  # NumPy would round what is in them
        array = np.array(values, dtype=object) if nested else np.asarray(values)
    except ValueError:
        raise _ragged(name) from None
    if array.dtype == object:
        array = _plain(array, name, axes)
    if array.dtype.kind not in "Oiuf":
        raise ValueError(f"{name} must hold integers or floats, not {array.dtype}")
    floats = array.dtype.kind == "f" or (array.dtype == object and float in map(type, array.flat))
    return _convert(array, np.dtype(np.float64 if floats else np.int64), name, axes)


def check_loads(given: ArrayLike) -> Loads:
    """Loads [L, E] or [T, L, E], exact, finite and not negative, read-only.

    Raises:
        ValueError: they are not; the message names the first value and its place.
    """
    loads = exact_array(given)
    if loads.ndim not in (2, 3) or 0 in loads.shape:
        raise ValueError(
            f"loads of shape {loads.shape} are neither [layers, experts] "
            "nor [steps, layers, experts]"
        )
    for problem, bad in (("not finite", ~np.isfinite(loads)), ("negative", loads < 0)):
        if bad.any():
            where = _first(bad)
            raise ValueError(f"the load of {place(where)} is {loads[where]}: {problem}")
    return freeze(loads)


def sum_over_time(trace: Loads) -> Loads:
    """[L, E] from [T, L, E]: integers exactly, floats rounded; read-only.

    Raises:
        ValueError: a sum exceeds 64-bit integers or the largest float; the message names its place.
    """
    if trace.dtype.kind == "i":
        return freeze(exact_array(widen(trace, len(trace)).sum(axis=0), "the sum over time"))
    with np.errstate(over="ignore"):
        total = trace.sum(axis=0)
    if not np.isfinite(total).all():
        where = _first(~np.isfinite(total))
        raise ValueError(f"the sum over time of {place(where)} is not finite")
    return freeze(total)


def normalize_steps(trace: Loads) -> NDArray[np.float64]:
    """Every step of every layer with the same total, [T, L, E] float64, read-only.

    The total of a layer's steps becomes the largest of them, ``m``, and steps weigh alike. In exact
    numbers: with the largest k for which ``M = floor(m 2^k) < 2^40``, a load w of a step with the
    total s becomes ``n / 2^k`` for an integer n next to ``w M / s``, by largest remainders (earlier
    experts first), so that every step has the total ``M / 2^k``. A step without load stays, and so
    does every step where the rounding has nothing to do, such as the largest one of integers below
    2^40. To normalise twice changes nothing.
    """
    layers = [_normalize_layer(*exact_integers(layer)) for layer in np.moveaxis(trace, 1, 0)]
    found: NDArray[np.float64] = np.stack(layers, axis=1)
    found.setflags(write=False)
    return found


def _normalize_layer(steps: Integers, unit: Fraction) -> NDArray[np.float64]:
    """[T, E] of one layer, whose loads are ``steps * unit``."""
    totals = steps.sum(axis=1, keepdims=True)
    largest = int(totals.max()) * unit
    if largest == 0:
        return np.zeros(steps.shape)
    shift = min(STEP_BITS - _bit_length(largest), LEAST_FLOAT_BITS)
    total = math.floor(largest * Fraction(2) ** shift)
    scaled = widen(steps, total) * total
    divisor = np.where(totals > 0, totals, 1)
    whole, remainder = scaled // divisor, scaled % divisor
    missing = np.where(totals > 0, total, 0) - whole.sum(axis=1, keepdims=True)
    order = np.argsort(-remainder, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(steps.shape[1])[None], axis=1)
    with np.errstate(over="ignore"):  # the sum over time refuses what is infinite
        found: NDArray[np.float64] = np.ldexp((whole + (rank < missing)).astype(float), -shift)
    return found


def _bit_length(value: Fraction) -> int:
    """B with ``2^(b-1) <= value < 2^b``."""
    length = value.numerator.bit_length() - value.denominator.bit_length()
    return length + (value >= Fraction(2) ** length)


def place(where: Sequence[int], axes: Sequence[str] = AXES) -> str:
    """``layer 0, expert 3``: indices by the names of the last axes, or bare."""
    if len(where) > len(axes):
        return f"entry {tuple(where)}"
    return ", ".join(f"{a} {i}" for a, i in zip(axes[-len(where) :], where, strict=True))


def freeze(array: Loads) -> Loads:
    """The array itself, read-only."""
    array.setflags(write=False)
    return array


def _plain(objects: NDArray[Any], name: str, axes: Sequence[str]) -> NDArray[Any]:
    """The objects as Python's own ints and floats."""
    if set(map(type, objects.flat)) <= {int, float}:
        return objects
    plain = np.empty_like(objects)
    for where, value in np.ndenumerate(objects):
        found: Any = value
        if isinstance(found, list | tuple) or (hasattr(found, "ndim") and found.ndim):
            raise _ragged(name)
        found = found.item() if hasattr(found, "item") else found  # NumPy's and torch's scalars
        if type(found) not in (int, float):
            raise ValueError(
                f"{name}: {place(where, axes)} is {_shown(found)}, which is neither an integer nor "
                "a float64: give a number that is one"
            )
        plain[where] = found
    return plain


def _convert(array: NDArray[Any], dtype: np.dtype[Any], name: str, axes: Sequence[str]) -> Loads:
    try:
        with np.errstate(over="ignore"):
            found: Loads = array.astype(dtype)
        # uint64 wraps, and compared with int64 it would become a float.
        wrong = array > np.uint64(2**63 - 1) if array.dtype == np.uint64 else found != array
    except OverflowError:
        wrong = np.array([not _holds(dtype, x) for x in array.flat]).reshape(array.shape)
    wrong &= array == array  # NaN
    if not wrong.any():
        return found
    where = _first(wrong)
    remedy = (
        "which is beyond 64 bits: divide all loads by one number"
        if dtype == np.int64
        else "which is no float64: give integers alone, or round it"
    )
    raise ValueError(f"{name}: {place(where, axes)} is {_shown(array[where])}, {remedy}")


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    try:
        return bool(dtype.type(value) == value)
    except OverflowError:
        return False


def _first(mask: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])


def _ragged(name: str) -> ValueError:
    return ValueError(f"{name} is ragged: every row needs the same number of entries")


def _shown(value: object) -> str:
    """A value for a message; Python refuses to print integers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    return (str if isinstance(value, np.generic | Decimal) else repr)(value)[:_LONGEST]
