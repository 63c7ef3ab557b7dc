"""TensorRT-LLM's expert statistic: a directory of ``meta_info.json`` and ``rank{r}.safetensors``.

Each rank file holds int64 [E] under ``{iteration}_{layer}``: that rank's tokens per expert.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.io import json_file
from eplb_opt.io.errors import FormatError, decoding
from eplb_opt.io.recording import RawLoads
from eplb_opt.problem.rationals import Integers, widen

META = "meta_info.json"
_KEY = re.compile(r"(\d{1,18})_(\d{1,18})", re.ASCII)


def read(path: Path) -> RawLoads:
    """The trace over iterations, summed over the ranks of a directory, or of one rank's file."""
    files = sorted(path.glob("rank*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise FormatError(path, "has no rank*.safetensors")
    total = _rank_counts(files[0], len(files))
    for file in files[1:]:
        counts = _rank_counts(file, len(files))
        if different := sorted(counts.keys() ^ total.keys()):
            raise FormatError(
                file, f"this rank and {files[0].name} do not both have key {_name(different[0])}"
            )
        for key, count in counts.items():
            if count.shape != total[key].shape:
                raise FormatError(
                    file, f"{_name(key)} has {count.size} experts, expected {total[key].size}"
                )
            total[key] = total[key] + count
    recorded = _grid(path, total)
    if path.is_dir():
        _check_meta(path / META, np.shape(recorded.values)[2])
    return recorded


def _name(key: tuple[int, int]) -> str:
    return f"'{key[0]}_{key[1]}'"


def _rank_counts(path: Path, ranks: int) -> dict[tuple[int, int], Integers]:
    """Counts [E] of one rank by (iteration, layer), of a type that a sum over the ranks fits."""
    from safetensors.numpy import load

    with decoding(path, ".safetensors file"):
        tensors: dict[str, NDArray[Any]] = load(path.read_bytes())
    counts = {}
    for key, count in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise FormatError(
                path, f"key {key[:40]!r} is not '{{iteration}}_{{layer}}' with two numbers"
            )
        if count.dtype.kind not in "iu" or count.ndim != 1 or count.size == 0:
            raise FormatError(
                path, f"{key!r} is {count.dtype} {count.shape}, expected integers [experts]"
            )
        counts[int(match[1]), int(match[2])] = widen(count, ranks)
    if not counts:
        raise FormatError(path, "holds no tensors: no iteration was recorded")
    return counts


def _grid(path: Path, counts: dict[tuple[int, int], Integers]) -> RawLoads:
    """[T, L, E] over the iterations and layers that occur; every pair of them must be there."""
    iterations = sorted({iteration for iteration, _ in counts})
    layers = sorted({layer for _, layer in counts})
    if len(counts) != len(iterations) * len(layers):
        missing = next((i, j) for i in iterations for j in layers if (i, j) not in counts)
        raise FormatError(
            path, f"key {_name(missing)} is missing: an iteration lacks one of the layers"
        )
    first = counts[iterations[0], layers[0]].size
    for key, count in counts.items():
        if count.size != first:
            raise FormatError(path, f"{_name(key)} has {count.size} experts, others {first}")
    values = np.array([[counts[i, j] for j in layers] for i in iterations])
    return RawLoads(values, "{iteration}_{layer}", tuple(layers))


def _check_meta(path: Path, num_experts: int) -> None:
    meta = json_file.parse(path)
    declared = meta.get("num_experts") if isinstance(meta, dict) else None
    if declared != num_experts:
        raise FormatError(
            path, f"num_experts={declared!r}, but the rank files hold {num_experts} experts"
        )
