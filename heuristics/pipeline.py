"""The pipeline: groups -> counts -> packing -> refinement -> maps, all layers at once.

:meth:`Pipeline.place` is the whole of it; a policy is a choice of the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.replication import count_replicas
from heuristics.shape import Shape

GroupPacking = Callable[[Tensor, Shape], Tensor]
"""(expert loads [L, K, E/K], shape) -> the group in each place [L, K], K/N places a node."""

Counting = Callable[[Tensor, int], Tensor]
"""(loads [B, E], number of slots P) -> the expert of each replica [B, P]."""

Placing = Callable[[Tensor, Tensor, int], Tensor]
"""(loads [B, E], the expert of each replica or in each slot [B, P], number of ranks G) -> the
expert in each slot [B, P].
"""

Maps = tuple[Tensor, Tensor, Tensor]
"""``phy2log [L, P]``, ``log2phy [L, E, X]`` padded with -1, ``logcnt [L, E]``; all int64."""


@dataclass(frozen=True)
class Pipeline:
    """A policy made of stages; called as ``rebalance_experts``, it runs in float32."""

    pack_groups: GroupPacking
    count: Counting
    pack: Placing
    refinements: Sequence[Placing] = ()

    def __call__(
        self, weight: Tensor, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
    ) -> Tensor:
        """The expert in each slot, [L, P] int64."""
        shape = Shape.resolve(weight, num_replicas, num_groups, num_nodes, num_gpus)
        return self.place(weight.float(), shape)

    def place(self, loads: Tensor, shape: Shape) -> Tensor:
        """The expert in each slot, [L, P] int64, from loads [L, E].

        Under the global rule there is one node, which takes the one group of all experts.
        """
        layers, nodes = len(loads), shape.num_nodes
        slots, ranks = shape.num_slots // nodes, shape.num_ranks // nodes

        # Groups to nodes. From here on each of the B = L N nodes is a row, with its own experts.
        group_size = loads.shape[1] // shape.num_groups
        group = self.pack_groups(loads.view(layers, shape.num_groups, group_size), shape)
        within = torch.arange(group_size, device=loads.device)
        experts = (group[:, :, None] * group_size + within).view(layers, -1)
        node_loads = loads.gather(1, experts).view(layers * nodes, -1)

        # Where nothing is loaded all experts are alike. The one place where we leave the published
        # programs, which then give all further slots to one expert.
        node_loads = torch.where(node_loads.amax(1, keepdim=True) > 0, node_loads, 1.0)

        # Counts: the expert of each replica, [B, P/N], as its index among the node's experts.
        replicas = self.count(node_loads, slots)

        # Packing: the expert in each slot, [B, P/N]; S neighbouring slots are a rank.
        placed = self.pack(node_loads, replicas, ranks)

        # Refinement: another placement, usually with a smaller makespan.
        for refine in self.refinements:
            placed = refine(node_loads, placed, ranks)

        return experts.view_as(node_loads).gather(1, placed).view(layers, shape.num_slots)


MAX_ELEMENTS = 2**27
"""Elements (1 GB) above which ``log2phy`` is made no wider than the placement needs."""


def maps(phy2log: Tensor, num_experts: int) -> Maps:
    """``phy2log``, its inverse ``log2phy [L, E, X]`` (slots ascending, padded with -1) and
    ``logcnt [L, E]``.

    X is ``P - E + 1``, known without waiting for a device, as in DeepSeek EPLB; the largest count
    where that would take more than ``MAX_ELEMENTS`` elements.
    """
    layers, num_slots = phy2log.shape
    logcnt = count_replicas(phy2log, num_experts)
    width = num_slots - num_experts + 1
    if layers * num_experts * width > MAX_ELEMENTS:
        width = int(logcnt.max())
    expert, slot = torch.sort(phy2log, dim=1, stable=True)
    first = logcnt.cumsum(1) - logcnt
    replica_index = torch.arange(num_slots, device=phy2log.device) - first.gather(1, expert)
    log2phy = phy2log.new_full((layers, num_experts * width), -1)
    log2phy.scatter_(1, expert * width + replica_index, slot)
    return phy2log, log2phy.view(layers, num_experts, width), logcnt
