"""JSON: SGLang's ``logical_count``, the ``load_history`` of ADRS, or plain nested lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.io.errors import FormatError, decoding
from eplb_opt.io.recording import RawLoads, decimal


def read(path: Path) -> RawLoads:
    """Loads of a JSON document; numbers without a point or exponent are integers."""
    document = parse(path)
    if isinstance(document, list):
        return RawLoads(document)
    if isinstance(document, dict) and "logical_count" in document:
        return RawLoads(document["logical_count"], "logical_count")
    if isinstance(document, dict) and "load_history" in document:
        return RawLoads(
            _history(path, document["load_history"]), "load_history[].logical_expert_load"
        )
    raise FormatError(path, _name_what_is_there(document))


def parse(path: Path) -> Any:
    """The document, whatever it is; decimals that no float is near are ``Decimal``."""
    with decoding(path, "JSON document in UTF-8"):
        return json.loads(path.read_bytes().decode("utf-8-sig"), parse_float=decimal)


def encode(loads: NDArray[np.generic]) -> bytes:
    """SGLang's form, which ``--init-expert-location`` takes."""
    return json.dumps({"logical_count": loads.tolist()}).encode()


def _history(path: Path, history: Any) -> list[Any]:
    if not isinstance(history, list):
        raise FormatError(
            path, f"load_history is {type(history).__name__}, expected a list of records"
        )
    for index, record in enumerate(history):
        if not isinstance(record, dict) or "logical_expert_load" not in record:
            raise FormatError(path, f"load_history[{index}] has no logical_expert_load")
    return [record["logical_expert_load"] for record in history]


def _name_what_is_there(document: Any) -> str:
    wanted = "expected logical_count, load_history or nested lists of loads"
    if not isinstance(document, dict):
        return f"holds {str(document)[:40]!r}, {wanted}"
    if "physical_to_logical_map" in document:
        return f"physical_to_logical_map is a placement, not loads; {wanted}"
    return f"has the keys {sorted(document)[:8]}, {wanted}"
