"""What makes a placement valid for an instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from eplb_opt.problem.homes import find_homes, traffic
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.topology import Rule


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    Attributes:
        kind: ``shape``, ``missing-expert``, ``group-split``, ``groups-per-node``, ``no-home`` or
            ``shared-rank``.
        message: one line that names layer, slot or expert, and what was expected.
        layer: None where the whole placement is concerned.
    """

    kind: str
    message: str
    layer: int | None = None


def find_violations(placement: Placement, instance: Instance) -> list[Violation]:
    """All broken rules of ``placement``, empty if it is valid.

    Checked: the shape [L, P]; at least one replica of every expert; under the hierarchical rule
    all replicas of a group on one node and K/N groups on each node; under the rule ``home`` homes
    of all groups, K/N on each node, with every expert at home; if the instance has
    ``spread_replicas``, no rank that holds an expert twice. A limit of traffic is one of the
    shares: see :func:`over_limit`.
    """
    expected = (instance.num_layers, instance.topology.num_physical_experts)
    if placement.phy2log.shape != expected:
        message = f"phy2log has shape {placement.phy2log.shape}, expected {expected}"
        return [Violation("shape", message)]
    if placement.num_logical_experts != instance.num_logical_experts:
        given, wanted = placement.num_logical_experts, instance.num_logical_experts
        return [Violation("shape", f"{given} logical experts, expected {wanted}")]
    violations = _missing_experts(placement)
    if instance.rule == Rule.HIERARCHICAL:
        violations += _group_violations(placement, instance)
    if instance.rule == Rule.HOME and not violations:
        violations += _homeless(placement, instance)
    if instance.spread_replicas:
        violations += _shared_ranks(placement, instance)
    return violations


def layer_violation(layer: Layer, phy2log: Sequence[int]) -> str | None:
    """What is wrong with ``phy2log`` [P] of one layer, None if they are a valid placement."""
    topology, experts = layer.topology, range(len(layer.loads))
    if len(phy2log) != topology.num_physical_experts or set(phy2log) != set(experts):
        return "the slots do not hold every expert, and no other"
    slots_per_rank, slots_per_node = topology.slots_per_rank, topology.slots_per_node
    ranks = [phy2log[i : i + slots_per_rank] for i in range(0, len(phy2log), slots_per_rank)]
    if layer.spread_replicas and any(len(set(rank)) < slots_per_rank for rank in ranks):
        return "a rank holds an expert twice"
    if layer.rule == Rule.HIERARCHICAL:
        group_size = len(experts) // topology.num_groups
        nodes = [phy2log[i : i + slots_per_node] for i in range(0, len(phy2log), slots_per_node)]
        groups = [{e // group_size for e in held} for held in nodes]
        if any(len(found) != topology.groups_per_node for found in groups):
            return "a node does not hold K/N whole groups"
    if layer.rule == Rule.HOME and find_homes(layer, phy2log) is None:
        return NO_HOME
    return None


NO_HOME = "no homes of the groups, K/N on each node, have every expert at home"


def over_limit(
    layer: Layer, phy2log: Sequence[int], shares: Sequence[Fraction] | None = None
) -> str | None:
    """How a placement exceeds the layer's limit of traffic, None if it does not; ``shares`` [P] as
    of :func:`eplb_opt.problem.homes.traffic`.
    """
    if layer.rule != Rule.HOME or layer.traffic_limit == 1:
        return None
    found = traffic(layer, phy2log, shares)
    if found is None or found <= layer.traffic_limit:
        return None
    return (
        f"layer {layer.index}: {float(found):.4%} of the tokens are served off home, and the limit "
        f"is {float(layer.traffic_limit):.4%}"
    )


def _homeless(placement: Placement, instance: Instance) -> list[Violation]:
    return [
        Violation("no-home", f"layer {index}: {NO_HOME}", index)
        for index, (layer, row) in enumerate(
            zip(instance.layers(), placement.phy2log.tolist(), strict=True)
        )
        if find_homes(layer, row) is None
    ]


def _missing_experts(placement: Placement) -> list[Violation]:
    return [
        Violation("missing-expert", f"layer {layer}: expert {expert} has no replica", layer)
        for layer, expert in np.argwhere(placement.logcnt == 0).tolist()
    ]


def _group_violations(placement: Placement, instance: Instance) -> list[Violation]:
    topology = instance.topology
    group_size = instance.num_logical_experts // topology.num_groups
    group = placement.phy2log // group_size
    node = np.arange(topology.num_physical_experts) // topology.slots_per_node
    on_node = np.zeros((instance.num_layers, topology.num_groups, topology.num_nodes), dtype=bool)
    on_node[np.arange(instance.num_layers)[:, None], group, node] = True
    split = [
        Violation(
            "group-split",
            f"layer {layer}: group {k} has replicas on nodes "
            f"{np.flatnonzero(on_node[layer, k]).tolist()}, expected one node",
            layer,
        )
        for layer, k in np.argwhere(on_node.sum(axis=2) > 1).tolist()
    ]
    per_node = on_node.sum(axis=1)
    uneven = [
        Violation(
            "groups-per-node",
            f"layer {layer}: node {n} holds {per_node[layer, n]} groups, "
            f"expected {topology.groups_per_node}",
            layer,
        )
        for layer, n in np.argwhere(per_node != topology.groups_per_node).tolist()
    ]
    return split + uneven


def _shared_ranks(placement: Placement, instance: Instance) -> list[Violation]:
    ranks = placement.phy2log.reshape(instance.num_layers, instance.topology.num_ranks, -1)
    ordered = np.sort(ranks, axis=2)
    twice = np.argwhere(ordered[:, :, 1:] == ordered[:, :, :-1])
    return [
        Violation(
            "shared-rank",
            f"layer {layer}: rank {rank} holds expert {ordered[layer, rank, i]} more than once",
            layer,
        )
        for layer, rank, i in twice.tolist()
    ]
