"""Exact optimization of expert placement: every stage and the joint problem, with proven bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solvers.api import Stages, solve
    from solvers.backends import BACKENDS

__all__ = ["BACKENDS", "Stages", "solve"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: the engines take a second to load, and valuing a placement needs
    none of them (PEP 562).
    """
    if name == "BACKENDS":
        from solvers.backends import BACKENDS

        return BACKENDS
    if name in ("Stages", "solve"):
        from solvers import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
