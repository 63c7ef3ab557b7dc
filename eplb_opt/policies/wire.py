"""Messages between this program and a process that it doesn't trust: a JSON header and plain
arrays.

Nothing that arrives is executed, and nothing larger than expected is read.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from math import prod
from typing import Any

import numpy as np

MOST_HEADER_BYTES = 1 << 20
KINDS = "biuf"
"""Kinds of numbers that travel: booleans, integers, floats."""

Message = tuple[dict[str, Any], list[np.ndarray[Any, Any]]]


class WireError(Exception):
    """What arrived is no message; or the other side has closed."""


def send(fd: int, header: dict[str, Any], arrays: list[np.ndarray[Any, Any]] | None = None) -> None:
    """Write a header and arrays of numbers."""
    arrays = [np.ascontiguousarray(array) for array in arrays or []]
    described = [{"dtype": a.dtype.str, "shape": a.shape} for a in arrays]
    text = json.dumps({"header": header, "arrays": described}).encode()
    for part in (struct.pack("<Q", len(text)), text, *(a.tobytes() for a in arrays)):
        _write(fd, part)


def receive(fd: int, *, deadline: float | None = None, most_bytes: int | None = None) -> Message:
    """Read a message.

    Args:
        fd: file descriptor of a pipe.
        deadline: on the clock of ``time.monotonic``; None waits.
        most_bytes: largest size of an array that is accepted; None takes any.

    Raises:
        TimeoutError: the deadline passed.
        WireError: no message, or the end of the pipe.
    """
    (size,) = struct.unpack("<Q", _read(fd, 8, deadline))
    if size > MOST_HEADER_BYTES:
        raise WireError(f"a header of {size} bytes")
    try:
        text = json.loads(_read(fd, size, deadline))
        header, described = text["header"], text["arrays"]
        kinds = [(np.dtype(a["dtype"]), tuple(int(n) for n in a["shape"])) for a in described]
    except (ValueError, TypeError, KeyError) as error:
        raise WireError("a header that is no header") from error
    arrays = []
    for dtype, shape in kinds:
        size = prod(shape) * dtype.itemsize
        if dtype.kind not in KINDS or min(shape, default=0) < 0:
            raise WireError(f"an array of {dtype} {shape}")
        if most_bytes is not None and size > most_bytes:
            raise WireError(f"an array of shape {shape}, which is too large")
        arrays.append(np.frombuffer(_read(fd, size, deadline), dtype).reshape(shape))
    return header, arrays


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read(fd: int, size: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise TimeoutError
        part = os.read(fd, min(size - len(data), 1 << 20))
        if not part:
            raise WireError("nothing more")
        data += part
    return bytes(data)
