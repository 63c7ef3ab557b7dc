"""The traffic that reports show beside a makespan: the part of tokens served off home."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from eplb_opt.problem.homes import traffic
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost, Dispatch
from eplb_opt.problem.topology import Rule
from solvers import dispatch


def traffic_of(
    layer: Layer, phy2log: Sequence[int], cost: Cost, shares: Sequence[Fraction] | None = None
) -> Fraction | None:
    """Of a valid placement, on the loads of all steps together.

    Under another rule than ``home`` groups are at home where that makes the traffic least, whether
    or not all of their experts have a replica there; None with one node, and where nodes cannot
    share the groups alike.

    Args:
        layer: as it is served.
        phy2log: [P].
        cost: objective, and how replicas share tokens; under ``optimal`` dispatch it is the least
            of all shares with the least makespans.
        shares: [P] under ``fixed`` dispatch.
    """
    machine, home = layer.topology, layer.rule == Rule.HOME
    groups, nodes = machine.num_groups, machine.num_nodes
    if groups % nodes or layer.num_logical_experts % groups or (nodes == 1 and not home):
        return None
    if layer.rule == Rule.HIERARCHICAL or nodes == 1:
        return Fraction(0)
    if cost.dispatch == Dispatch.OPTIMAL:
        return dispatch.traffic(layer, phy2log, cost)
    return traffic(layer, phy2log, shares, present=home)
