"""The small sweep, complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from eplb_opt.sweep import Store, read_spec, run_sweep
from tests.eplb_opt.sweep.results import spec_file


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    output = folder / "results.jsonl"
    with Store(output) as store:
        assert run_sweep(read_spec(spec_file(folder)), store) == 0
    return output
