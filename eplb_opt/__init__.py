"""Proven optimality gaps for expert-parallel load balancing of Mixture-of-Experts models.

This package exports the problem and what can be said about a placement. Solving is in ``solvers``,
the production heuristics are in ``heuristics``, measuring is ``eplb_opt.gap``.
"""

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.result import Result, SolveStatus
from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.problem.validity import Violation, find_violations

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
