"""The traffic that reports show beside a makespan: the part of tokens served off home."""

from __future__ import annotations

from fractions import Fraction

from eplb_opt.problem.homes import traffic
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Dispatch
from eplb_opt.problem.topology import Rule
from solvers.bracket import Bracket


def traffic_of(layer: Layer, placed: Bracket, dispatch: Dispatch) -> Fraction | None:
    """Of a placement and the shares that it is valued with, on the loads of all steps together.

    Under another rule than ``home`` groups are at home where that makes the traffic least, whether
    or not all of their experts have a replica there; None with one node, where nodes cannot share
    the groups alike, and where the shares are not known.

    Args:
        layer: as it is served.
        placed: a placement of it, valued.
        dispatch: how its replicas share tokens.
    """
    machine, home = layer.topology, layer.rule == Rule.HOME
    groups, nodes = machine.num_groups, machine.num_nodes
    if groups % nodes or layer.num_logical_experts % groups or (nodes == 1 and not home):
        return None
    if layer.rule == Rule.HIERARCHICAL or nodes == 1:
        return Fraction(0)
    if dispatch == Dispatch.OPTIMAL:
        return None
    return traffic(layer, placed.phy2log, placed.shares, present=home)
