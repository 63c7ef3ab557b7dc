"""A small sweep, and what it writes."""

from __future__ import annotations

from pathlib import Path

from eplb_opt.sweep import rows

SMALL = """
time_limit: 120
blocks:
  - instances: [{family: lognormal, layers: 2, experts: 12, tokens: 4096, seeds: [0, 1, 2, 3]}]
    machines: [{redundant: 4, gpus: 4}, {redundant: 4, gpus: 8}]
    policies: [deepseek, refined]
    solvers: [{time_limit: 120}]
"""


def spec_file(folder: Path, text: str = SMALL) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text)
    return path


def untimed(row: dict) -> dict:
    return {key: value for key, value in row.items() if key != "runtime_s"}


def by_unit(path: Path) -> dict[str, dict]:
    found = list(rows(path))
    units = {row["unit"]: untimed(row) for row in found}
    assert len(units) == len(found), "a unit stands there twice"
    return units
