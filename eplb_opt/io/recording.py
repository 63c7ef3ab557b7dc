"""What the reader of a format hands over, before it is checked."""

from __future__ import annotations

import math
import re
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


NUMBER = re.compile(r"[+-]?(?=\.?\d)\d*(?P<fraction>\.\d*)?(?P<exponent>[eE][+-]?\d+)?", re.ASCII)
"""As JSON writes numbers, but for a sign, leading zeros, and a point at either end."""


def number(text: str) -> int | float | Decimal | None:
    """What a literal means, exactly: an integer where it is written as one, else as
    :func:`decimal`; None if it is no number.
    """
    match = NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    return decimal(match[0]) if match["fraction"] or match["exponent"] else int(match[0])


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
