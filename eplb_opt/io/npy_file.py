"""NumPy's ``.npy``: one array [L, E] or [T, L, E]."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from eplb_opt.io.errors import FormatError, decoding
from eplb_opt.io.recording import RawLoads

_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read(path: Path) -> RawLoads:
    """The array of a ``.npy`` file."""
    with path.open("rb") as stream:
        return RawLoads(read_array(path, stream, path.stat().st_size))


def encode(loads: NDArray[np.generic]) -> bytes:
    """The bytes of a ``.npy`` file."""
    stream = io.BytesIO()
    npy.write_array(stream, loads, allow_pickle=False)
    return stream.getvalue()


def read_array(path: Path, stream: IO[bytes], size: int, name: str = "the array") -> NDArray[Any]:
    """The array in ``stream``; nothing is allocated unless its header fits ``size`` bytes."""
    with decoding(path, ".npy array"):
        version = npy.read_magic(stream)
        if version not in _READ_HEADER:
            raise FormatError(
                path, f"{name} has .npy version {version}, which only structured arrays need"
            )
        shape, _, dtype = _READ_HEADER[version](stream)
        if dtype.hasobject:
            raise FormatError(
                path,
                f"{name} holds Python objects, refused as unsafe; save it as integers or floats",
            )
        declared, stored = math.prod(shape) * dtype.itemsize, size - stream.tell()
        if declared != stored or min(shape, default=0) < 0:
            raise FormatError(
                path,
                f"{name} declares shape {shape} of {dtype}, {declared} bytes, but holds {stored}",
            )
        stream.seek(0)
        return npy.read_array(stream, allow_pickle=False)
