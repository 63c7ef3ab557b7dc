"""Interchangeable replicas as one class: the formulations count them instead of naming them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eplb_opt.problem.layer import Layer
from solvers.scaling import Scale


@dataclass(frozen=True)
class ReplicaClass:
    """Replicas of one scaled load: the expert of each."""

    load: int
    experts: tuple[int, ...]


def replica_classes(layer: Layer, counts: Sequence[int], scale: Scale) -> list[ReplicaClass]:
    """All replicas of one load in a class; with ``spread_replicas`` those of one expert."""
    loads = [scale.replica(layer, e, count) for e, count in enumerate(counts)]
    if layer.spread_replicas:
        return [ReplicaClass(load, (e,) * counts[e]) for e, load in enumerate(loads)]
    experts: dict[int, list[int]] = defaultdict(list)
    for e, load in enumerate(loads):
        experts[load] += [e] * counts[e]
    return [ReplicaClass(load, tuple(es)) for load, es in experts.items()]


def deal_replicas(classes: Sequence[ReplicaClass], number: Any) -> tuple[int, ...]:
    """Slots [P] if rank g takes ``number[g][i]`` of class i; () if there are not enough."""
    left = [list(c.experts) for c in classes]
    phy2log: list[int] = []
    for row in number:
        for experts, copies in zip(left, row, strict=True):
            if copies > len(experts):
                return ()
            phy2log += [experts.pop() for _ in range(copies)]
    return tuple(phy2log)
