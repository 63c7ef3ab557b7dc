"""What the reader of a format hands over, before it is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.instance import Loads


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


def numeric(values: object, name: str) -> Loads:
    """``values`` as int64 or float64 of the same shape; integers stay integers.

    Raises:
        ValueError: ragged, not numbers, or integers beyond 64 bits.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} is ragged: every row needs the same number of entries") from None
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    if array.dtype.kind not in "iu" or (
        array.dtype == np.uint64 and array.size and array.max() >= 2**63
    ):
        raise ValueError(
            f"{name} must hold floats or integers below 2^63, not {array.dtype}{_example(array)}"
        )
    return array.astype(np.int64)


def _example(array: NDArray[Any]) -> str:
    return (
        f" such as {str(array.flat[0])[:40]!r}" if array.size and array.dtype.kind in "OUSb" else ""
    )
