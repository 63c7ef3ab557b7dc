"""Proven optimality gaps for expert-parallel load balancing of Mixture-of-Experts models.

This package exports the problem and what can be said about a placement, and, imported when first
used, what people run: ``measure_gap``, ``solve`` and ``replay``. Solving is in ``solvers``, the
production heuristics are in ``heuristics``.

>>> import eplb_opt
>>> instance = eplb_opt.Instance([[3, 1, 2]], eplb_opt.Topology(4, 2))
>>> str(eplb_opt.solve(instance.layer(0)).objective)
'3'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.result import Result, SolveStatus
from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.problem.validity import Violation, find_violations

if TYPE_CHECKING:
    from eplb_opt.gap import measure_gap
    from eplb_opt.serving.replay import replay
    from solvers import solve

__all__ = [
    "Instance",
    "Layer",
    "Placement",
    "Result",
    "Rule",
    "SolveStatus",
    "Topology",
    "Violation",
    "find_violations",
    "measure_gap",
    "replay",
    "solve",
]


def __getattr__(name: str) -> Any:
    """What people run, imported when it is first used: solvers take a second to load (PEP 562)."""
    if name == "measure_gap":
        from eplb_opt.gap import measure_gap

        return measure_gap
    if name == "replay":
        from eplb_opt.serving.replay import replay

        return replay
    if name == "solve":
        from solvers import solve

        return solve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
