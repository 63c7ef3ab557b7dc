"""The machine, and which placements on it are allowed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Rule(StrEnum):
    """Which placements are allowed (``auto`` is resolved when an :class:`Instance` is made)."""

    GLOBAL = "global"
    """Any replica may go to any rank."""
    HIERARCHICAL = "hierarchical"
    """Each node takes exactly ``num_groups / num_nodes`` whole groups of experts."""
    HOME = "home"
    """So many groups are at home on each node; further replicas may go to any node. The traffic may
    be limited (:mod:`eplb_opt.problem.homes`)."""


LARGEST = 2**31 - 1
"""Slots, ranks, nodes or groups: beyond it sums of slots would not be safe in 64 bits."""


@dataclass(frozen=True)
class Topology:
    """The machine: slots, ranks and nodes, and the expert groups that the hierarchical rule keeps
    together, and the rule ``home`` at home.

    Slot ``p`` belongs to rank ``p // slots_per_rank``; rank ``r`` belongs to node ``r //
    ranks_per_node``.

    Attributes:
        num_physical_experts: P, slots in total (logical experts plus redundant ones).
        num_ranks: G, GPUs of the expert-parallel group; divides P.
        num_nodes: N, servers; divides G.
        num_groups: K, equal contiguous groups of logical experts.

    Raises:
        ValueError: a size is not an integer from 1 to 2^31 - 1, P is no multiple of G, or G is no
            multiple of N.
    """

    num_physical_experts: int
    num_ranks: int
    num_nodes: int = 1
    num_groups: int = 1

    def __post_init__(self) -> None:
        for name in ("num_physical_experts", "num_ranks", "num_nodes", "num_groups"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r} must be a positive integer")
            if value > LARGEST:
                raise ValueError(f"{name}={value} is more than {LARGEST}")
            object.__setattr__(self, name, int(value))
        _require_multiple(self, "num_physical_experts", "num_ranks")
        _require_multiple(self, "num_ranks", "num_nodes")

    @property
    def slots_per_rank(self) -> int:
        """S = P / G."""
        return self.num_physical_experts // self.num_ranks

    @property
    def slots_per_node(self) -> int:
        """P / N."""
        return self.num_physical_experts // self.num_nodes

    @property
    def ranks_per_node(self) -> int:
        """G / N."""
        return self.num_ranks // self.num_nodes

    @property
    def groups_per_node(self) -> int:
        """K / N."""
        return self.num_groups // self.num_nodes

    @property
    def node(self) -> Topology:
        """One node seen as a machine of its own, where the rule inside is global."""
        return Topology(self.slots_per_node, self.ranks_per_node)


def _require_multiple(topology: Topology, name: str, divisor: str) -> None:
    value, by = getattr(topology, name), getattr(topology, divisor)
    if value % by:
        raise ValueError(f"{name}={value} is not a multiple of {divisor}={by}")
