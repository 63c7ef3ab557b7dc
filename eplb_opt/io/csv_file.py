"""Comma-separated values: a line per layer, a column per expert, no header."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eplb_opt.io.errors import FormatError, decoding
from eplb_opt.io.recording import RawLoads, number


def read(path: Path) -> RawLoads:
    """The matrix; integers if every entry is written as one. Empty lines are skipped."""
    with decoding(path, "CSV file in UTF-8"):
        lines = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
        rows: list[list[int | float | Decimal]] = []
        for line in lines:
            if not line:
                continue
            rows.append([_number(path, text, lines.line_num, i) for i, text in enumerate(line, 1)])
            if len(rows[-1]) != len(rows[0]):
                found, wanted = len(rows[-1]), len(rows[0])
                raise FormatError(
                    path, f"line {lines.line_num} has {found} columns, the first has {wanted}"
                )
    return RawLoads(rows)


def encode(loads: NDArray[np.generic]) -> bytes:
    """The matrix, floats with as many digits as they need."""
    if loads.ndim != 2:
        raise ValueError(
            f"a .csv file holds [layers, experts], not shape {loads.shape}; choose another suffix"
        )
    return "".join(",".join(map(repr, row)) + "\n" for row in loads.tolist()).encode()


def _number(path: Path, text: str, line: int, column: int) -> int | float | Decimal:
    value = number(text)
    if value is None:
        hint = "; a header line is not expected" if line == 1 else ""
        raise FormatError(
            path, f"line {line}, column {column}: {text[:40]!r} is not a number{hint}"
        )
    return value
