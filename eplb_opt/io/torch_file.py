"""PyTorch's ``.pt``: what SGLang's expert distribution recorder dumps, or a plain tensor.

Modes ``stat`` and ``stat_approx`` dump one file, already summed over ranks. Mode ``per_pass`` dumps
one file per rank with the tokens of that rank for each physical expert; put them in one directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.io.errors import FormatError, decoding
from eplb_opt.io.recording import RawLoads
from eplb_opt.problem.loads import exact_array
from eplb_opt.problem.rationals import widen

_Counts = dict[int, dict[tuple[int, str], NDArray[Any]]]


def read(path: Path) -> RawLoads:
    """Loads of one file, or of the per-pass files of all ranks in a directory."""
    if path.is_dir():
        return _read_passes(path, {file: _load(file) for file in sorted(path.glob("*.pt"))})
    content = _load(path)
    if isinstance(content, dict) and "records" in content:
        return _read_passes(path, {path: content})
    if isinstance(content, dict) and "logical_count" in content:
        return RawLoads(_array(path, content["logical_count"], "logical_count"), "logical_count")
    if isinstance(content, dict):
        raise FormatError(
            path, f"has the keys {sorted(map(str, content))[:8]}, expected logical_count or records"
        )
    return RawLoads(_array(path, content, "the content"))


def _load(path: Path) -> Any:
    import torch

    with decoding(path, ".pt file"):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            if "weights_only" not in str(error).lower() or "GLOBAL" not in str(error):
                raise
            raise FormatError(
                path,
                "holds other objects than tensors (NumPy arrays?), which safe loading refuses; "
                'save it again as torch.save({"logical_count": torch.as_tensor(counts)}, path)',
            ) from error


def _array(path: Path, value: Any, name: str) -> NDArray[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        with decoding(path, f"tensor {name}"):
            dense = value.detach().to_dense()
            return dense.to(torch.float64).numpy() if dense.is_floating_point() else dense.numpy()
    try:
        return exact_array(value, name)
    except ValueError as error:
        raise FormatError(path, f"{error}; expected a tensor") from None


def _read_passes(source: Path, files: dict[Path, Any]) -> RawLoads:
    """[T, L, E]: physical counts summed over ranks and over the replicas of each logical expert."""
    counts: _Counts = {}
    phy2log = None
    for path, content in files.items():
        if not isinstance(content, dict) or "records" not in content:
            raise FormatError(
                path, "has no records; in a directory every .pt file is one rank's per-pass dump"
            )
        previous, phy2log = phy2log, _map(path, content)
        if previous is not None and not np.array_equal(previous, phy2log):
            raise FormatError(
                path, "last_physical_to_logical_map differs from that of the file before it"
            )
        _collect(path, content["records"], phy2log, counts)
    if phy2log is None or not counts:
        raise FormatError(source, "records is empty: no forward pass was recorded")
    _require_all_ranks(source, counts)
    physical = np.stack([_total(counts[i]) for i in sorted(counts)])
    physical = widen(physical, physical.shape[2])
    logical = np.zeros((*physical.shape[:2], int(phy2log.max()) + 1), dtype=physical.dtype)
    steps, layers = np.ogrid[: physical.shape[0], : physical.shape[1]]
    np.add.at(logical, (steps[:, :, None], layers[:, :, None], phy2log[None]), physical)
    return RawLoads(logical, "records[].global_physical_count")


def _map(path: Path, content: dict[Any, Any]) -> NDArray[Any]:
    name = "last_physical_to_logical_map"
    if name not in content:
        raise FormatError(path, f"has no {name}, without which physical experts have no name")
    phy2log = _array(path, content[name], name)
    if (
        phy2log.dtype.kind not in "iu"
        or phy2log.ndim != 2
        or phy2log.size == 0
        or phy2log.min() < 0
    ):
        raise FormatError(
            path,
            f"{name} is {phy2log.dtype} {phy2log.shape}, expected logical experts [layers, slots]",
        )
    if phy2log.max() >= phy2log.shape[1]:
        raise FormatError(
            path,
            f"{name} names expert {phy2log.max()}, but there are only {phy2log.shape[1]} slots",
        )
    return phy2log


def _collect(path: Path, records: Any, phy2log: NDArray[Any], counts: _Counts) -> None:
    """Enter the records of one file under their forward pass and rank."""
    if not isinstance(records, list):
        raise FormatError(path, f"records is {type(records).__name__}, expected a list")
    for index, record in enumerate(records):
        name = f"records[{index}]"
        if not isinstance(record, dict) or "global_physical_count" not in record:
            raise FormatError(path, f"{name} has no global_physical_count")
        step, rank = record.get("forward_pass_id", index), record.get("rank", 0)
        if not isinstance(step, int) or not isinstance(rank, int):
            raise FormatError(
                path, f"{name}: forward_pass_id={step!r}, rank={rank!r}, expected integers"
            )
        count = _array(path, record["global_physical_count"], f"{name}.global_physical_count")
        if count.dtype.kind not in "iu" or count.shape != phy2log.shape:
            raise FormatError(
                path,
                f"{name}.global_physical_count is {count.dtype} {count.shape}, "
                f"expected integers {phy2log.shape}",
            )
        of_rank = counts.setdefault(step, {})
        key = (rank, str(record.get("gatherer_key", "")))
        if key in of_rank:
            raise FormatError(path, f"{name}: rank {rank} has recorded forward pass {step} before")
        of_rank[key] = count


def _total(of_rank: dict[tuple[int, str], NDArray[Any]]) -> NDArray[Any]:
    total: NDArray[Any] = sum(widen(count, len(of_rank)) for count in of_rank.values())  # type: ignore[assignment]
    return total


def _require_all_ranks(path: Path, counts: _Counts) -> None:
    everyone = {rank for of_rank in counts.values() for rank, _ in of_rank}
    for step, of_rank in sorted(counts.items()):
        missing = sorted(everyone - {rank for rank, _ in of_rank})
        if missing:
            raise FormatError(
                path,
                f"forward pass {step} has no record of rank {missing[0]}, so its load is partial",
            )
