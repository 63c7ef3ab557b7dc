"""``compiled``: numba's ``njit`` where numba is installed, else the function as it is.

The bodies use integers and numpy arrays only, so both give the same answers; without numba they are about
a hundred times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

try:
    import numba

    HAVE_NUMBA = True
except ImportError:
    HAVE_NUMBA = False


def compiled(function: Function) -> Function:
    """Compile ``function`` on its first call and keep the machine code on disk, if numba is there."""
    return numba.njit(cache=True)(function) if HAVE_NUMBA else function
