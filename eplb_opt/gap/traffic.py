"""The traffic that reports show beside a makespan: the part of tokens served off home, and both in
one number, a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from eplb_opt.gap.travel import Travel, drawn_visits, most_visits, seconds, served_by_nodes
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


def check_travel(cost: Cost) -> None:
    """Whether traffic and makespan can be added to a time.

    Raises:
        ValueError: the objective is no sum over steps, or shares by node are not known.
    """
    if cost.objective.name not in ("sum", "mean") or cost.dispatch == Dispatch.OPTIMAL:
        raise ValueError(
            f"{cost}: a time needs objective 'sum' or 'mean' with dispatch 'even' or 'fixed'"
        )


def crossing_time(
    layer: Layer,
    phy2log: Sequence[int],
    travel: Travel,
    shares: Sequence[Fraction] | None = None,
) -> tuple[float, float]:
    """What the tokens' way costs, in parts of the expert work of a rank with the mean load: if the
    experts of a token are drawn independently, by load; and if so are those at home, and every
    other one is a visit more.

    The fullest node counts. Where experts of a token stand together, as a router that limits groups
    makes them, hierarchical placements cost less than the first and global ones more. 0 with one
    node, and where nodes cannot share the groups alike.

    Args:
        layer: with load.
        phy2log: [P].
        travel: the model.
        shares: as of :func:`traffic_of`.
    """
    machine, k = layer.topology, travel.experts_per_token
    groups, nodes = machine.num_groups, machine.num_nodes
    if nodes == 1 or groups % nodes or len(layer.loads) % groups:
        return 0.0, 0.0
    home = layer.rule == Rule.HOME
    served = served_by_nodes(layer, phy2log, shares, present=home)
    if served is None:
        return 0.0, 0.0
    at_home = zip(drawn_visits(k, served.home), most_visits(k, served.away), strict=True)
    most = [min(1.0, home + away) for home, away in at_home]
    # One token: k / G of expert work on each rank at the mean.
    scale = machine.num_ranks / (k * travel.seconds_per_token)
    drawn = seconds(travel, 1.0, 0, drawn_visits(k, served.all))
    return drawn * scale, seconds(travel, 1.0, 0, most) * scale
