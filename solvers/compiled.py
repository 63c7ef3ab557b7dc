"""``compiled``: numba's ``njit`` where numba is installed, else the function as it is.

The bodies use integers and numpy arrays only, so both give the same answers; without numba they are
about a hundred times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

HAVE_NUMBA = find_spec("numba") is not None


def compiled(function: Function) -> Function:
    """Compile ``function`` on its first call, if numba is there, and keep the code on disk."""
    if not HAVE_NUMBA:
        return function
    return cast(Function, import_module("numba").njit(cache=True)(function))
