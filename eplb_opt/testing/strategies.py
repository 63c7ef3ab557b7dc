"""Hypothesis strategies that shrink to small, readable counterexamples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.problem.validity import over_limit

try:
    from hypothesis import strategies as st
except ImportError:
    raise ImportError("strategies need the extra 'test': pip install 'eplb-opt[test]'") from None

FAMILIES = ("small", "ties", "skewed", "near-equal", "huge")
RULES = ("global", "hierarchical", "home")
LIMITS = ("1", "1/2", "1/5", "0")
"""Of traffic, under the rule ``home``."""


def loads(
    *,
    num_experts: int,
    max_layers: int = 2,
    families: Sequence[str] = FAMILIES,
) -> st.SearchStrategy[list[list[int]]]:
    """Loads [L][E] of non-negative integers.

    Families: ``small`` numbers with zeros; ``ties`` of a few values; ``skewed``, powers of two;
    ``near-equal``, around 1000; ``huge``, up to 2^40 beside ones.

    Raises:
        ValueError: an unknown family.
    """
    entries: dict[str, st.SearchStrategy[int]] = {
        "small": st.integers(0, 12),
        "ties": st.sampled_from([1, 0, 2, 5]),
        "skewed": st.integers(0, 12).map(lambda power: 2**power),
        "near-equal": st.integers(0, 4).map(lambda more: 1000 + more),
        "huge": st.one_of(st.integers(0, 2), st.integers(2**38, 2**40)),
    }
    unknown = [family for family in families if family not in entries]
    if unknown:
        raise ValueError(f"families={unknown} are not among {', '.join(entries)}")
    rows = st.one_of(
        *(st.lists(entries[f], min_size=num_experts, max_size=num_experts) for f in families)
    )
    return st.lists(rows, min_size=1, max_size=max_layers)


@st.composite
def instances(
    draw: st.DrawFn,
    *,
    max_experts: int = 8,
    max_layers: int = 2,
    families: Sequence[str] = FAMILIES,
    rules: Sequence[str] = RULES,
) -> Instance:
    """Instances small enough for brute force by default, but for the rule ``home``, where copies go
    to any node; every shape that the rule allows.
    """
    rule = draw(st.sampled_from(list(rules)))
    nodes = draw(st.sampled_from([1] if rule == "global" else [1, 2, 3, 4]))
    groups = 1 if rule == "global" else nodes * draw(st.integers(1, 2))
    group_size = draw(st.integers(1, max(1, max_experts // groups)))
    experts = groups * group_size
    ranks = nodes * draw(st.integers(1, 3))
    least = -(-experts // ranks)
    num_slots = ranks * draw(st.integers(least, least + 2))
    rows = draw(loads(num_experts=experts, max_layers=max_layers, families=families))
    machine = Topology(num_slots, ranks, nodes, groups)
    limit = draw(st.sampled_from(LIMITS)) if rule == "home" else "1"
    return Instance(rows, machine, rule, traffic_limit=limit)  # type: ignore[arg-type]


@st.composite
def placements(draw: st.DrawFn, instance: Instance) -> Placement:
    """Valid placements of an instance (without ``spread_replicas``), within its limit of traffic
    where replicas share alike.
    """
    rows = [_row(draw, instance, layer) for layer in instance.layers()]
    return Placement(np.array(rows), instance.num_logical_experts)


def _row(draw: Any, instance: Instance, layer: Layer) -> list[int]:
    """Under ``home`` one with copies anywhere, or, where that exceeds the limit, none off home."""
    machine, home = instance.topology, instance.rule == Rule.HOME
    by_nodes = instance.rule != Rule.GLOBAL
    nodes, groups = (machine.num_nodes, machine.num_groups) if by_nodes else (1, 1)
    group_size = instance.num_logical_experts // groups
    order = draw(st.permutations(range(groups)))
    row, inside = list[int](), list[int]()
    for node in range(nodes):
        mine = order[node * groups // nodes : (node + 1) * groups // nodes]
        experts = [group * group_size + e for group in mine for e in range(group_size)]
        more = machine.num_physical_experts // nodes - len(experts)
        copied = range(instance.num_logical_experts) if home else experts
        extra = draw(st.lists(st.sampled_from(copied), min_size=more, max_size=more))
        row += draw(st.permutations(experts + extra))
        inside += experts + experts[:1] * more
    return inside if over_limit(layer, row) else row
