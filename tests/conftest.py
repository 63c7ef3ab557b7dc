"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from eplb_opt import Instance, Layer, Topology

# The tensors of the tests are small: more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No example has a time limit: a machine may be busy.
settings.register_profile("eplb-opt", deadline=None)
settings.load_profile("eplb-opt")

LONGEST = ("test_check.py", "test_processes.py", "test_runner.py", "test_interrupts.py", "runtime")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first, so that two workers end together."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONGEST))


@pytest.fixture
def published_layer() -> Layer:
    """The field's small published example: 8 experts, 16 slots, 8 ranks."""
    loads = [[600, 560, 120, 120, 20, 10, 10, 10]]
    return Instance(loads, Topology(num_physical_experts=16, num_ranks=8)).layer(0)


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The folder of recorded loads; tests that use it are skipped where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EPLB_RECORDED_LOADS", default))
    if not folder.is_dir():
        pytest.skip(f"no recorded loads in {folder}: set EPLB_RECORDED_LOADS")
    return folder
