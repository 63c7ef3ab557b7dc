"""Packages with the names of engines, written to a folder and importable, our plugins installed.

So plugins are found and hooks set as in an engine.
"""

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.heuristics import fake_sglang, fake_vllm

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
ENGINES = {"sglang": fake_sglang.FILES, "vllm": fake_vllm.FILES}
GROUPS = {"sglang": "sglang.srt.plugins", "vllm": "vllm.general_plugins"}
METADATA = "Metadata-Version: 2.1\nName: eplb-opt\nVersion: 0\n"


@contextmanager
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While it lasts ``import sglang`` and ``import vllm`` find what is written to ``folder``."""
    plugins = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]
    distribution = folder / "eplb_opt-0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text(METADATA)
    lines = []
    for package, files in ENGINES.items():
        for name, text in files.items():
            path = folder / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        group = GROUPS[package]
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in plugins[group].items())]
    (distribution / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(folder)
    _forget()
    yield
    _forget()


def _forget() -> None:
    for name in list(sys.modules):
        if name.split(".")[0] in ENGINES:
            del sys.modules[name]
