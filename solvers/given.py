"""What a caller hands to a solve beside the problem, checked before any work is done."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import Stage
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import layer_violation

Numbers = tuple[int, ...]

TAKEN = {
    Stage.GROUPS: (),
    Stage.COUNTS: ("node_of_group", "least", "most"),
    Stage.PACKING: ("node_of_group", "counts", "least", "most"),
    Stage.JOINT: (),
}
"""The decisions that each stage takes from the ones before it."""


@dataclass(frozen=True)
class Stages:
    """What earlier stages decided: sequences or arrays of integers.

    Attributes:
        node_of_group: [K], None to take the optimum of the stage ``groups`` (hierarchical rule
            only).
        counts: [E], for the stage ``packing``; None to take the optimum of the stage ``counts``.
        least: [E] lower limits of the stage ``counts``; None is 1.
        most: [E] upper limits of that stage; None is what the problem allows, and no more than that
            ever.
    """

    node_of_group: Sequence[int] | None = None
    counts: Sequence[int] | None = None
    least: Sequence[int] | None = None
    most: Sequence[int] | None = None

    def check(self, layer: Layer, stage: Stage) -> Stages:
        """The same as tuples of Python's integers, if they fit the layer and the stage uses them.

        Raises:
            ValueError: they do not; the message names the field and the value.
        """
        for field in fields(self):
            if getattr(self, field.name) is not None and field.name not in TAKEN[stage]:
                taken = ", ".join(TAKEN[stage]) or "nothing"
                raise ValueError(f"given.{field.name}: stage={str(stage)!r} takes {taken} of given")
        experts = layer.num_logical_experts
        node_of_group = _node_of_group(layer, self.node_of_group)
        counts = integers("given.counts", self.counts, experts)
        least = integers("given.least", self.least, experts)
        most = integers("given.most", self.most, experts)
        if counts is not None and (least is not None or most is not None):
            raise ValueError("given.least and given.most limit counts that are not given: drop one")
        for name, limits in (("counts", counts), ("least", least), ("most", most)):
            if limits is not None and min(limits) < 1:
                e = limits.index(min(limits))
                raise ValueError(f"given.{name}[{e}]={limits[e]}: every expert needs a replica")
        num_slots = layer.topology.num_physical_experts
        if least is not None and sum(least) > num_slots:
            raise ValueError(f"given.least sum to {sum(least)}, more than the {num_slots} slots")
        allowed = [min(m, layer.most_replicas) for m in most or ()]
        if most is not None and sum(allowed) < num_slots:
            raise ValueError(f"given.most allow {sum(allowed)} replicas for the {num_slots} slots")
        for e, (low, high) in enumerate(zip(least or (), allowed, strict=False)):
            if low > high:
                raise ValueError(f"given.least[{e}]={low} is above given.most[{e}]={high}")
        if counts is not None and sum(counts) != num_slots:
            raise ValueError(
                f"given.counts sum to {sum(counts)}, not to num_physical_experts={num_slots}"
            )
        return Stages(node_of_group, counts, least, most)


def _node_of_group(layer: Layer, given: Any) -> Numbers | None:
    """[K] with K/N groups on each node."""
    if given is not None and layer.rule == Rule.GLOBAL:
        raise ValueError("given.node_of_group: the global rule has no groups")
    node_of_group = integers("given.node_of_group", given, layer.topology.num_groups)
    for node in range(layer.topology.num_nodes if node_of_group else 0):
        if node_of_group and node_of_group.count(node) != layer.topology.groups_per_node:
            raise ValueError(
                f"given.node_of_group={_short(node_of_group)} puts {node_of_group.count(node)} "
                f"groups on node {node}, expected {layer.topology.groups_per_node}"
            )
    return node_of_group


def check_initial(layer: Layer, given: Any) -> Numbers | None:
    """[P] a valid placement to start from.

    Raises:
        ValueError: it is none; the message says why.
    """
    phy2log = integers("initial", given, layer.topology.num_physical_experts)
    if phy2log is not None and (wrong := layer_violation(layer, phy2log)):
        raise ValueError(f"initial={_short(phy2log)} is no valid placement: {wrong}")
    return phy2log


def integers(name: str, given: Any, length: int) -> Numbers | None:
    """``length`` integers as a tuple; None stays None.

    Raises:
        ValueError: they are not integers, or of another number.
    """
    if given is None:
        return None
    try:
        found = tuple(operator.index(value) for value in given)
    except TypeError:
        raise ValueError(f"{name}={_short(given)} is no sequence of integers") from None
    if len(found) != length:
        raise ValueError(f"{name} has {len(found)} entries, expected {length}")
    return found


def number(name: str, given: Any, *, least: int, most: int | None = None) -> int:
    """An integer within limits.

    Raises:
        ValueError: it is none.
    """
    try:
        value = least - 1 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        value = least - 1
    if value < least or (most is not None and value > most):
        end = "" if most is None else f" to {most}"
        raise ValueError(f"{name}={_short(given)} must be an integer from {least}{end}")
    return value


def ratio(name: str, given: Any) -> Fraction:
    """A finite number that is not negative, exactly.

    Raises:
        ValueError: it is none.
    """
    try:
        value = Fraction(given)
    except (TypeError, ValueError, ArithmeticError):
        value = Fraction(-1)
    if value < 0:
        raise ValueError(f"{name}={_short(given)} must be a finite number, 0 or larger")
    return value


def _short(given: Any) -> str:
    try:
        text = " ".join(repr(given).split())
    except ValueError:  # Python writes no integers of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
