"""Versions of this program and of what its figures depend on."""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib.metadata import version

DEPENDENCIES = ("eplb-opt", "torch", "numpy", "scipy", "ortools")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """By name, for documents that should be reproducible."""
    return {"python": platform.python_version()} | {name: version(name) for name in DEPENDENCIES}
