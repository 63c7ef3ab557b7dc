"""Reading and writing recorded loads: the table of formats, and how one is recognised."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from eplb_opt.io import csv_file, json_file, npy_file, npz_file
from eplb_opt.io.atomic import replace_file
from eplb_opt.io.errors import FormatError, decoding
from eplb_opt.io.recording import RawLoads
from eplb_opt.io.safetensors_file import META
from eplb_opt.problem.loads import Loads, exact_array

FORMATS = {
    "json": "eplb_opt.io.json_file",
    "npy": "eplb_opt.io.npy_file",
    "npz": "eplb_opt.io.npz_file",
    "csv": "eplb_opt.io.csv_file",
    "pt": "eplb_opt.io.torch_file",
    "safetensors": "eplb_opt.io.safetensors_file",
}
"""Format name -> module whose ``read(path)`` reads it; imported when used."""

ENCODERS = {
    ".json": json_file.encode,
    ".npy": npy_file.encode,
    ".npz": npz_file.encode,
    ".csv": csv_file.encode,
}
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_SNIFFED_BYTES = 4096


@dataclass(frozen=True, eq=False)
class RecordedLoads:
    """Loads as a file holds them.

    Attributes:
        loads: tokens per logical expert, [L, E] or a trace [T, L, E], int64 or float64.
        source: the path that was read.
        format: one of :data:`FORMATS`.
        layers: the model's layer number of each row, None where the format does not record it.
    """

    loads: Loads
    source: str
    format: str
    layers: tuple[int, ...] | None = None


def read_loads(
    path: str | Path,
    *,
    format: str | None = None,
    steps: tuple[int | None, int | None] | None = None,
) -> RecordedLoads:
    """Read recorded loads.

    Numbers that neither int64 nor float64 holds exactly are refused. Signs, NaN and sums over time
    are the business of :class:`eplb_opt.Instance`.

    Args:
        path: a file, or a directory (TensorRT-LLM's statistic, SGLang's per-pass files). One of
            several arrays of a ``.npz`` is ``FILE.npz:NAME``.
        format: one of :data:`FORMATS`; found by the content if None, never by the suffix.
        steps: ``a:b`` of a trace, as in a Python slice.

    Returns:
        The loads; a trace keeps its time axis, cut to the steps.

    Raises:
        FormatError: the content is not what it should be, or the steps do not fit.
        OSError: the file is missing or cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_loads(Path(folder) / "loads.csv", [[3, 1, 2]])
        ...     read_loads(Path(folder) / "loads.csv").loads.tolist()
        [[3, 1, 2]]
    """
    source, (path, array) = str(path), split_array(path)
    if format is None:
        format = detect_format(path)
    elif format not in FORMATS:
        raise FormatError(path, f"format={format!r} is unknown; choose one of {', '.join(FORMATS)}")
    if array and format != "npz":
        raise FormatError(path, f"is {format}, which has no array {array!r}: leave it out")
    read = cast(Callable[..., RawLoads], importlib.import_module(FORMATS[format]).read)
    raw = read(path, array) if array else read(path)
    loads = _check(path, raw)
    return RecordedLoads(_cut(path, loads, steps), source, format, raw.layers)


def split_array(path: str | Path) -> tuple[Path, str]:
    """The file in ``FILE.npz:NAME`` and the name; the path itself and nothing if it is no such."""
    file, colon, name = str(path).rpartition(".npz:")
    if not colon or "/" in name or Path(path).exists():
        return Path(path), ""
    return Path(f"{file}.npz"), name


def join_steps(recordings: Sequence[RecordedLoads]) -> Loads:
    """The steps of all recordings after each other, [T, L, E]; loads [L, E] are one step.

    Raises:
        FormatError: one has other layers or experts than the first.
        ValueError: they hold integers and floats that no float64 holds exactly.
    """
    first = recordings[0]
    for found in recordings:
        if found.loads.shape[-2:] != first.loads.shape[-2:]:
            here, there = (
                f"{x.loads.shape[-2]} layers of {x.loads.shape[-1]} experts" for x in (found, first)
            )
            raise FormatError(Path(found.source), f"has {here}, but {first.source} has {there}")
    traces = [x.loads.reshape(-1, *x.loads.shape[-2:]) for x in recordings]
    if len({trace.dtype for trace in traces}) > 1:
        traces = [trace.astype(object) for trace in traces]
    return exact_array(np.concatenate(traces))


def write_loads(path: str | Path, loads: ArrayLike) -> None:
    """Write loads [L, E] or [T, L, E] in the format of the suffix.

    ``.json`` (SGLang's ``logical_count``), ``.npy``, ``.npz`` (array ``loads``), or ``.csv``
    ([L, E] only). The file appears whole or not at all.

    Raises:
        ValueError: an unknown suffix, loads that are not finite numbers or cannot be held exactly,
            or a trace as ``.csv``.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in ENCODERS:
        raise ValueError(f"{path}: suffix {path.suffix!r} is not one of {', '.join(ENCODERS)}")
    exact = exact_array(loads)
    if not np.isfinite(exact).all():
        raise ValueError(f"{path}: loads with NaN or infinity are not written")
    replace_file(path, ENCODERS[path.suffix](exact))


def detect_format(path: Path) -> str:
    """Which of :data:`FORMATS` the content is.

    Raises:
        FormatError: none of them.
        OSError: the file is missing or cannot be read.
    """
    if path.is_dir():
        found = _format_of_directory(path)
    else:
        with path.open("rb") as stream:
            head = stream.read(_SNIFFED_BYTES)
        if not head:
            raise FormatError(path, "the file is empty")
        found = _format_of_bytes(head) or (_format_of_zip(path) if head[:2] == b"PK" else None)
    if found is None:
        raise FormatError(path, f"the format is not recognised; give one of {', '.join(FORMATS)}")
    return found


def _format_of_directory(path: Path) -> str | None:
    if (path / META).exists():
        return "safetensors"
    return "pt" if any(path.glob("*.pt")) else None


def _format_of_bytes(head: bytes) -> str | None:
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(_LEGACY_TORCH):
        return "pt"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"["):
        return "json"
    first_line = text.split(b"\n", 1)[0]
    is_number = text[:1] in (b"-", b"+", b".", *(b"%d" % digit for digit in range(10)))
    return "csv" if b"\0" not in head and (is_number or b"," in first_line) else None


def _format_of_zip(path: Path) -> str | None:
    with decoding(path, "zip archive"), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return "pt"
    return "npz" if any(name.endswith(".npy") for name in names) else None


def _check(path: Path, raw: RawLoads) -> Loads:
    name = raw.field or "the array"
    try:
        loads = exact_array(raw.values, name)
    except ValueError as error:
        raise FormatError(path, str(error)) from None
    if loads.ndim not in (2, 3) or 0 in loads.shape:
        raise FormatError(
            path,
            f"{name} has shape {loads.shape}, not [layers, experts] or [steps, layers, experts]",
        )
    return loads


def _cut(path: Path, loads: Loads, steps: tuple[int | None, int | None] | None) -> Loads:
    if steps is None:
        return loads
    shown = f"steps={':'.join('' if bound is None else str(bound) for bound in steps)}"
    if loads.ndim == 2:
        raise FormatError(path, f"{shown} needs a time axis, but the loads are [layers, experts]")
    number = len(loads)
    if any(bound is not None and not -number <= bound <= number for bound in steps):
        raise FormatError(path, f"{shown} reaches beyond the {number} steps of the trace")
    cut: Loads = loads[slice(*steps)]
    if not len(cut):
        raise FormatError(path, f"{shown} holds none of the {number} steps of the trace")
    return cut
