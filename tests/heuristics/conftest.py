from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.heuristics import interpreted


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What the kernels give in Triton's interpreter."""
    file = tmp_path_factory.mktemp("interpreted") / "found.pt"
    subprocess.run([sys.executable, "-m", interpreted.__name__, str(file)], check=True)
    return dict(torch.load(file))
