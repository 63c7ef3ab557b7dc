"""``compiled``: numba's ``njit`` where numba is installed, else the function as it is.

Compiling takes some 15 s on a machine that has not done it before, and nothing can stop it. So a
search is rehearsed in a thread first, on a toy, and whoever has no time to wait for that goes
without the search.

The bodies use integers and numpy arrays only, so both give the same answers; without numba they are
about a hundred times slower.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

HAVE_NUMBA = find_spec("numba") is not None

_rehearsals: dict[Callable[[], object], threading.Event] = {}


def compiled(function: Function) -> Function:
    """Compile ``function`` on its first call, if numba is there, and keep the code on disk."""
    if not HAVE_NUMBA:
        return function
    return cast(Function, import_module("numba").njit(cache=True)(function))


def compile_within(seconds: float | None, rehearsal: Callable[[], object]) -> bool:
    """Whether what ``rehearsal`` compiles is ready after at most so many seconds; None waits.

    It is called once in a process, and goes on if it is not waited for.
    """
    if not HAVE_NUMBA:
        return True
    if rehearsal not in _rehearsals:
        if seconds == 0:
            return False
        _rehearsals[rehearsal] = done = threading.Event()
        threading.Thread(target=_rehearse, args=(rehearsal, done), daemon=True).start()
    return _rehearsals[rehearsal].wait(seconds)


def _rehearse(rehearsal: Callable[[], object], done: threading.Event) -> None:
    try:
        rehearsal()
    finally:
        done.set()
