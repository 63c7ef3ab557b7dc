"""``compiled``: numba's ``njit`` where numba is installed (extra ``compiled``), else the function.

What is compiled stands behind a torch form that gives the same, and is used on a CPU only.
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
