"""The pipeline of expert-parallel load balancing, written once: groups to nodes, counts, packing.

With one node and one group it is the global rule. The stages are passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.replication import count_replicas

Maps = tuple[Tensor, Tensor, Tensor]
"""``phy2log [L, P]``, ``log2phy [L, E, X]`` padded with -1, ``logcnt [L, E]``; all int64."""

GroupPacking = Callable[[Tensor, "Shape"], Tensor]
"""(expert loads [L, K, E/K], shape) -> the group in each place [L, K], K/N places a node."""

Placing = Callable[[Tensor, int, int], Tensor]
"""(loads [B, E], number of slots P, number of ranks G) -> the expert in each slot [B, P]."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the machine, checked; nodes and groups are 1 under the global rule.

    Raises:
        ValueError: a size is not positive, or one that must divide another does not.
    """

    num_slots: int
    num_groups: int
    num_nodes: int
    num_ranks: int

    @staticmethod
    def resolve(
        weight: Tensor, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
    ) -> Shape:
        """Check the arguments of ``rebalance_experts``; hierarchical if ``num_groups % num_nodes
        == 0``.
        """
        sizes = {
            "num_replicas": num_replicas,
            "num_groups": num_groups,
            "num_nodes": num_nodes,
            "num_gpus": num_gpus,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be positive")
        _check_weight(weight)
        experts = weight.shape[1]
        if num_replicas < experts:
            raise ValueError(
                f"num_replicas={num_replicas} is less than {experts} experts: all need a slot"
            )
        _check_multiple("num_replicas", num_replicas, "num_gpus", num_gpus)
        if num_groups % num_nodes:
            return Shape(num_replicas, 1, 1, num_gpus)
        _check_multiple("num_gpus", num_gpus, "num_nodes", num_nodes)
        _check_multiple("the number of experts", experts, "num_groups", num_groups)
        return Shape(num_replicas, num_groups, num_nodes, num_gpus)


def _check_weight(weight: Tensor) -> None:
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"weight of shape {tuple(weight.shape)} is not [layers, experts]")
    if weight.is_complex() or weight.dtype == torch.bool:
        raise ValueError(f"weight must hold real numbers, not {weight.dtype}")
    # Elsewhere this test would make the host wait for the device; loads there are the caller's
    # word.
    if weight.device.type == "cpu" and not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError(
            "weight holds a load that is negative, NaN or infinite: clean the recording"
        )


def _check_multiple(name: str, value: int, by_name: str, by: int) -> None:
    if value % by:
        raise ValueError(f"{name}={value} is not a multiple of {by_name}={by}")


def place_hierarchically(
    loads: Tensor, shape: Shape, pack_groups: GroupPacking, place: Placing
) -> Tensor:
    """Pack groups to nodes, then place the experts of every node on its ranks, all nodes as one
    batch.

    Args:
        loads: [L, E] floating point.
        shape: the machine.
        pack_groups: stage 1.
        place: stages 2 and 3, from the loads of each node's experts.

    Returns:
        The expert in each slot, [L, P] int64.
    """
    layers, nodes = len(loads), shape.num_nodes
    experts = experts_by_node(loads, shape, pack_groups)
    node_loads = loads.gather(1, experts.view(layers, -1)).view_as(experts)
    local = place(node_loads, shape.num_slots // nodes, shape.num_ranks // nodes)
    return experts.gather(1, local).view(layers, shape.num_slots)


def experts_by_node(loads: Tensor, shape: Shape, pack_groups: GroupPacking) -> Tensor:
    """The experts of each node [L N, E/N], the nodes of a layer one after another; whole groups."""
    layers, size = len(loads), loads.shape[1] // shape.num_groups
    group_in_place = pack_groups(loads.view(layers, shape.num_groups, size), shape)
    within = torch.arange(size, device=loads.device)
    return (group_in_place[:, :, None] * size + within).view(layers * shape.num_nodes, -1)


def by_total(pack: Callable[[Tensor, int], Tensor]) -> GroupPacking:
    """Groups to nodes by their total loads, through a packing of items.

    In float32, as the baseline adds: no policy may start from other groups than it does.
    """
    return lambda loads, shape: pack(loads.float().sum(2), shape.num_nodes)


WIDE = 2**27
"""Elements (1 GB) above which ``log2phy`` is made no wider than the placement needs."""


def maps(phy2log: Tensor, num_experts: int) -> Maps:
    """``phy2log``, its inverse ``log2phy [L, E, X]`` (slots ascending, padded with -1) and
    ``logcnt [L, E]``.

    X is ``P - E + 1``, known without waiting for a device, as in DeepSeek EPLB; the largest count
    where that would take more than ``WIDE`` elements.
    """
    layers, num_slots = phy2log.shape
    logcnt = count_replicas(phy2log, num_experts)
    width = num_slots - num_experts + 1
    if layers * num_experts * width > WIDE:
        width = int(logcnt.max())
    expert, slot = torch.sort(phy2log, dim=1, stable=True)
    first = logcnt.cumsum(1) - logcnt
    replica_index = torch.arange(num_slots, device=phy2log.device) - first.gather(1, expert)
    log2phy = phy2log.new_full((layers, num_experts * width), -1)
    log2phy.scatter_(1, expert * width + replica_index, slot)
    return phy2log, log2phy.view(layers, num_experts, width), logcnt
