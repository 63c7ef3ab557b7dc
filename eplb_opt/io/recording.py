"""What the reader of a format hands over, before it is checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from numpy.typing import NDArray

FLOAT_INTEGERS = 2**53
"""All integers below are floats."""


@dataclass(frozen=True, eq=False)
class RawLoads:
    """Content of one file.

    Attributes:
        values: an array, or nested lists that may still turn out to be ragged.
        field: the key it stood under, for messages; empty if the format has none.
        layers: the model's layer number of each row, None where the format does not record it.
    """

    values: NDArray[Any] | list[Any]
    field: str = ""
    layers: tuple[int, ...] | None = None


def decimal(text: str) -> float | Decimal:
    """The float nearest to a decimal literal, which is what 0.1 means.

    Where no such float is meant (1e400, or all digits of 9007199254740993.0), the decimal itself,
    which :func:`eplb_opt.problem.loads.exact_array` refuses by its place.
    """
    value = float(text)
    if abs(value) < FLOAT_INTEGERS:
        return value
    exact = Decimal(text)
    written_out = "e" not in text.lower()
    return exact if math.isinf(value) or (written_out and exact != Decimal(value)) else value
