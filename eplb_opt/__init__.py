"""Proven optimality gaps for expert-parallel load balancing of Mixture-of-Experts models.

This package exports the problem and what can be said about a placement. Solving is in ``solvers``,
the production heuristics are in ``heuristics``, measuring is ``eplb_opt.gap``.
"""

from eplb_opt.instance import Instance, Layer, Rule, Topology
from eplb_opt.placement import Placement
from eplb_opt.result import Result, SolveStatus
from eplb_opt.validity import Violation, find_violations

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
]
