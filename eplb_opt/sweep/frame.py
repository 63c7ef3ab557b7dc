"""Results as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from eplb_opt.io.atomic import replace_file
from eplb_opt.sweep.store import rows

if TYPE_CHECKING:
    import pandas as pd

LISTS = ("layer_gaps", "layer_makespans")


def load(path: str | Path, *, layers: bool = False) -> pd.DataFrame:
    """The results in a file of JSON lines, one row a unit; a torn last line is left out.

    Columns: ``unit``, ``policy``, ``status``, ``message``, ``runtime_s``, ``gap_mean``,
    ``gap_max``, ``balancedness_mean``, ``loss_mean``, ``traffic``, ``num_optimal``,
    ``num_layers``, ``seed``, and with a dot the fields of ``instance``, ``reference`` and
    ``versions``; the lists by layer if ``layers``.

    Raises:
        ImportError: pandas is missing (extra ``frame``).
        StoreError: a line is no row of a sweep.
        OSError: the file can't be read.
    """
    try:
        import pandas as pd
    except ImportError:
        raise ImportError("tables need the extra 'frame': pip install 'eplb-opt[frame]'") from None
    return pd.DataFrame([_flat(row, layers) for row in rows(Path(path))])


def _flat(row: dict[str, Any], layers: bool) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": entry for name, entry in value.items()}
        elif (layers or key not in LISTS) and not (key == "instance" and value is None):
            flat[key] = value
    return flat


def export(source: Path, target: Path) -> int:
    """Write the table as ``.csv`` or ``.parquet`` (with the lists); the number of rows.

    Raises:
        ValueError: another suffix.
        OSError: the file can't be written.
    """
    if target.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{target}: the suffix must be .csv or .parquet")
    frame = load(source, layers=target.suffix == ".parquet")
    if target.suffix == ".csv":
        content = frame.to_csv(index=False).encode()
    else:
        content = frame.to_parquet(None, index=False)
    replace_file(target, content)
    return len(frame)
