"""NumPy's ``.npz``: a zip of named arrays."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.io import npy_file
from eplb_opt.io.errors import FormatError, decoding
from eplb_opt.io.recording import RawLoads

_KEYS = ("loads", "logical_count")


def read(path: Path, wanted: str = "") -> RawLoads:
    """The array that is ``wanted``; else ``loads`` or ``logical_count``, or the only one."""
    with decoding(path, ".npz archive"), zipfile.ZipFile(path) as archive:
        names = array_names(archive)
        only = names[0] if len(names) == 1 else None
        key = wanted or next((k for k in _KEYS if k in names), only)
        if key not in names:
            missing = f", not {wanted!r}" if wanted else ""
            raise FormatError(
                path, f"holds the arrays {names}{missing}: choose one as {path.name}:{names[0]}"
            )
        return RawLoads(read_member(path, archive, key), key)


def array_names(archive: zipfile.ZipFile) -> list[str]:
    """Names of the arrays, in the archive's order."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_member(path: Path, archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    """The array under ``key``."""
    member = archive.getinfo(f"{key}.npy")
    with archive.open(member) as stream:
        return npy_file.read_array(path, stream, member.file_size, f"array {key!r}")


def encode(loads: NDArray[np.generic]) -> bytes:
    """A ``.npz`` file with the one array ``loads``."""
    return encode_arrays({"loads": loads})


def encode_arrays(arrays: Mapping[str, NDArray[Any]], comment: bytes = b"") -> bytes:
    """A compressed ``.npz`` file; unlike ``np.savez`` it takes any name, ``file`` too."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = comment
        for name, array in arrays.items():
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy"), npy_file.encode(array), zipfile.ZIP_DEFLATED
            )
    return stream.getvalue()
