"""Proven optimality gaps for expert-parallel load balancing of Mixture-of-Experts models.

This package exports, imported when first used, the problem, what can be said about a placement, and
what people run: ``measure_gap``, ``measure_frontier``, ``solve`` and ``replay``. Solving is in
``solvers``, the production heuristics are in ``heuristics``.

>>> import eplb_opt
>>> instance = eplb_opt.Instance([[3, 1, 2]], eplb_opt.Topology(4, 2))
>>> str(eplb_opt.solve(instance.layer(0)).objective)
'3'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eplb_opt.gap import measure_frontier, measure_gap
    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.layer import Layer
    from eplb_opt.problem.placement import Placement
    from eplb_opt.problem.result import Result, SolveStatus
    from eplb_opt.problem.topology import Rule, Topology
    from eplb_opt.problem.validity import Violation, find_violations
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
    "measure_frontier",
    "measure_gap",
    "replay",
    "solve",
]


_HOME = {
    "Instance": "eplb_opt.problem.instance",
    "Layer": "eplb_opt.problem.layer",
    "Placement": "eplb_opt.problem.placement",
    "Result": "eplb_opt.problem.result",
    "Rule": "eplb_opt.problem.topology",
    "SolveStatus": "eplb_opt.problem.result",
    "Topology": "eplb_opt.problem.topology",
    "Violation": "eplb_opt.problem.validity",
    "find_violations": "eplb_opt.problem.validity",
    "measure_frontier": "eplb_opt.gap",
    "measure_gap": "eplb_opt.gap",
    "replay": "eplb_opt.serving.replay",
    "solve": "solvers",
}


def __getattr__(name: str) -> Any:
    """Every name is imported when it is first used (PEP 562): solvers take a second to load, and
    the command line heeds signals before anything does.
    """
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
