"""Writing placements: all policies' in one file, or one in the form that a serving engine takes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.io import json_file, npz_file
from eplb_opt.io.atomic import replace_file
from eplb_opt.io.errors import FormatError, decoding
from eplb_opt.io.placed_for import PlacedFor
from eplb_opt.problem.loads import exact_array
from eplb_opt.problem.placement import Placement

SCHEMA = "eplb-opt/placements/1"
SGLANG_KEY = "physical_to_logical_map"
LONGEST_COMMENT = zipfile.ZIP_MAX_COMMENT
"""Bytes; of a few thousand layers, placed one by one, a ``.npz`` does not tell the numbers."""


def write_placements(
    path: str | Path, placements: Mapping[str, Placement], *, placed_for: PlacedFor | None = None
) -> None:
    """Write ``phy2log`` [L, P] of each policy; the file appears whole or not at all.

    ``.npz`` holds an int64 array per policy; ``.json`` holds
    ``{"schema": "eplb-opt/placements/1", "phy2log": {policy: [[...]]}}``. With
    ``placed_for`` (``PlacedFor.of(instance)``) machine, rule and layers are written too, under
    ``"instance"``; in ``.npz`` in the comment of the archive, where readers of arrays do not look.

    Raises:
        ValueError: another suffix.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_placements(f"{folder}/p.npz", {"trivial": Placement([[0, 1, 0]], 2)})
        ...     read_placements(f"{folder}/p.npz")["trivial"].tolist()
        [[0, 1, 0]]
    """
    path = Path(path)
    maps = {policy: placement.phy2log for policy, placement in placements.items()}
    about: dict[str, Any] = {"schema": SCHEMA}
    if placed_for is not None:
        about["instance"] = placed_for.document()
    if path.suffix == ".npz":
        comment = json.dumps(about).encode()
        content = npz_file.encode_arrays(maps, comment if len(comment) <= LONGEST_COMMENT else b"")
    elif path.suffix == ".json":
        lists = {policy: phy2log.tolist() for policy, phy2log in maps.items()}
        content = json.dumps(about | {"phy2log": lists}).encode()
    else:
        raise ValueError(f"{path}: suffix {path.suffix!r} is not one of .json, .npz")
    replace_file(path, content)


def read_placements(path: str | Path) -> dict[str, NDArray[np.int64]]:
    """What :func:`write_placements` wrote: ``phy2log`` [L, P] int64 by policy, in the same order.

    A file for SGLang holds one placement, which is called ``sglang`` here.

    The file does not know the number of experts: :class:`eplb_opt.Placement` checks the ids.

    Raises:
        FormatError: the content is not what it should be.
        OSError: the file is missing or cannot be read.
    """
    path = Path(path)
    maps = _npz_maps(path) if _is_zip(path) else _json_maps(path)
    return {policy: _check_map(path, policy, phy2log) for policy, phy2log in maps.items()}


def read_placed_for(path: str | Path) -> PlacedFor | None:
    """Machine, rule and layers of the placements in a file; None if it does not say.

    Raises:
        FormatError: it says something else.
        OSError: the file is missing or cannot be read.
    """
    path = Path(path)
    try:
        if _is_zip(path):
            with decoding(path, ".npz archive"), zipfile.ZipFile(path) as archive:
                about = json.loads(archive.comment)
        else:
            about = json_file.parse(path)
    except FormatError:
        return None
    document = about.get("instance") if isinstance(about, dict) else None
    return None if document is None else PlacedFor.parse(path, document)


def write_sglang_placement(path: str | Path, placement: Placement) -> None:
    """Write ``{"physical_to_logical_map": [L][P]}`` for SGLang's ``--init-expert-location``.

    SGLang numbers rows by the model's layers, dense ones included, and takes no other key.

    Raises:
        ValueError: the suffix is not ``.json``, by which SGLang knows the format.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise ValueError(f"{path}: SGLang reads placements from .json only, not {path.suffix!r}")
    document = {SGLANG_KEY: placement.phy2log.tolist()}
    replace_file(path, json.dumps(document).encode())


def write_trtllm_placement(
    path: str | Path, placement: Placement, *, layers: Sequence[int] | None = None
) -> None:
    """Write the yaml that TensorRT-LLM's ``moe_config.load_balancer`` names.

    Args:
        path: the file.
        placement: L rows of P slots; slot ``p`` is on rank ``p // slots_per_rank``.
        layers: the model's layer number of each row (``RecordedLoads.layers``); None is 0..L-1.

    Raises:
        ValueError: ``layers`` are not L different numbers.
        OSError: the file cannot be written.
    """
    import yaml

    num_layers, num_slots = placement.phy2log.shape
    numbers = [int(layer) for layer in (range(num_layers) if layers is None else layers)]
    if len(numbers) != num_layers or len(set(numbers)) != num_layers:
        raise ValueError(
            f"layers={numbers} must be {num_layers} different layer numbers, one per row"
        )
    config = {
        "num_slots": num_slots,
        "initial_global_assignments": dict(zip(numbers, placement.phy2log.tolist(), strict=True)),
        "layer_updates_per_iter": 0,
    }
    text = yaml.safe_dump(config, default_flow_style=None, sort_keys=False, width=float("inf"))
    replace_file(Path(path), text.encode())


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"PK"


def _npz_maps(path: Path) -> dict[str, Any]:
    with decoding(path, ".npz archive"), zipfile.ZipFile(path) as archive:
        names = npz_file.array_names(archive)
        return {name: npz_file.read_member(path, archive, name) for name in names}


def _json_maps(path: Path) -> dict[str, Any]:
    document = json_file.parse(path)
    if isinstance(document, dict) and SGLANG_KEY in document:
        return {"sglang": document[SGLANG_KEY]}
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise FormatError(path, f"is no file of placements: expected schema {SCHEMA!r}")
    maps = document.get("phy2log")
    if not isinstance(maps, dict):
        raise FormatError(path, "phy2log is not a mapping of policies to slots")
    return maps


def _check_map(path: Path, policy: str, values: Any) -> NDArray[np.int64]:
    try:
        phy2log = exact_array(values, f"phy2log of {policy!r}", ("layer", "slot"))
    except ValueError as error:
        raise FormatError(path, str(error)) from None
    if phy2log.dtype != np.int64 or phy2log.ndim != 2 or 0 in phy2log.shape:
        found = f"{phy2log.dtype} {phy2log.shape}"
        raise FormatError(
            path, f"phy2log of {policy!r} is {found}, expected integers [layers, slots]"
        )
    return phy2log.astype(np.int64)
