r"""The rule ``home``: at which node groups are at home, and the tokens that are served elsewhere.

Every node is home to K/N whole groups, and every expert has a replica at the home of its group;
its other replicas may be on any node. With shares s_p of the slots (under ``even`` dispatch
``1 / c_e``) and homes h the **traffic** of a placement is the part of a layer's tokens that is
served off home,

.. math:: \sum_p w_{e(p)} s_p \, [\mathrm{node}(p) \ne h(e(p))] \; / \; \sum_e w_e.

The homes of a placement are those with the least traffic where replicas share alike, for the loads
of all steps together; of equal ones the lexicographically least. They are a minimum-cost assignment
of groups to places on nodes (H. W. Kuhn, Naval Research Logistics 2 (1955) 83-97), found here in
integers of any size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from eplb_opt.problem.layer import Layer


def find_homes(
    layer: Layer, phy2log: Sequence[int], *, present: bool = True
) -> tuple[int, ...] | None:
    """The home of each group, [K] nodes; None if no assignment has every expert at home.

    Exact. Where nothing is loaded all assignments with every expert at home are equal.

    Args:
        layer: under any rule; its groups and nodes count.
        phy2log: [P] the expert in each slot; every expert has one.
        present: whether experts must be at home; without that there always is an assignment, also
            for placements under the global rule.

    Raises:
        ValueError: these are not P slots, or they hold something else than the layer's experts.
    """
    topology, phy2log = layer.topology, _experts(layer, phy2log)
    copies = Counter(phy2log)
    held = Counter((e, p // topology.slots_per_node) for p, e in enumerate(phy2log))
    common = math.lcm(*copies.values())
    nodes = range(topology.num_nodes)

    def tokens_off_home(group: range, node: int) -> int | None:
        """In parts of 1 / common; None if an expert of the group is not on the node."""
        if present and any(not held[e, node] for e in group):
            return None
        return sum(
            layer.loads[e] * (common // copies[e]) * (copies[e] - held[e, node]) for e in group
        )

    return _least_assignment(
        [[tokens_off_home(group, n) for n in nodes] for group in layer.groups],
        topology.groups_per_node,
    )


def traffic(
    layer: Layer,
    phy2log: Sequence[int],
    shares: Sequence[Fraction] | None = None,
    *,
    present: bool = True,
) -> Fraction | None:
    """The part of the layer's tokens, of all steps together, that is served off home; exact.

    0 for a layer without load; None for a placement without homes.

    Args:
        layer: under any rule; its groups and nodes count.
        phy2log: [P] the expert in each slot; every expert has one.
        shares: [P] the part of its expert's tokens that each slot serves; by default all replicas
            of an expert share alike.
        present: as of :func:`find_homes`.
    """
    phy2log = _experts(layer, phy2log)
    homes = find_homes(layer, phy2log, present=present)
    if homes is None:
        return None
    total = sum(layer.loads)
    if not total:
        return Fraction(0)
    copies, per_node = Counter(phy2log), layer.topology.slots_per_node
    group_size = len(layer.loads) // layer.topology.num_groups
    away = Fraction(0)
    for p, e in enumerate(phy2log):
        if homes[e // group_size] != p // per_node:
            away += layer.loads[e] * (Fraction(1, copies[e]) if shares is None else shares[p])
    return away / total


def _experts(layer: Layer, phy2log: Sequence[int]) -> list[int]:
    """Python's integers, of whatever array they come from."""
    experts, slots = len(layer.loads), layer.topology.num_physical_experts
    found = [int(e) for e in phy2log]
    if len(found) != slots or not all(0 <= e < experts for e in found):
        raise ValueError(
            f"phy2log of {len(found)} slots is no placement of {experts} experts in {slots} slots"
        )
    return found


def _least_assignment(costs: list[list[int | None]], per_node: int) -> tuple[int, ...] | None:
    """[K] the node of each group, ``per_node`` on each, with the least sum of ``costs`` [K][N], and
    of these lexicographically least; None where a cost is None for one group of every assignment.

    The order of ties is a second digit of the costs, below the first. O(K^3) by shortest
    augmenting paths.
    """
    groups, nodes = len(costs), len(costs[0])
    ties = nodes**groups
    known = [cost for row in costs for cost in row if cost is not None]
    never = (max(known, default=0) + 1) * groups * ties
    places = [n for n in range(nodes) for _ in range(per_node)]
    weights = [
        [
            never if row[n] is None else (row[n] or 0) * ties + n * nodes ** (groups - 1 - k)
            for n in places
        ]
        for k, row in enumerate(costs)
    ]
    found = tuple(places[place] for place in _assign(weights))
    possible = all(row[n] is not None for row, n in zip(costs, found, strict=True))
    return found if possible else None


def _assign(weights: list[list[int]]) -> list[int]:
    """The column of each row in an assignment of the least sum; square, in integers."""
    size = len(weights)
    of_row, of_column = [0] * (size + 1), [0] * (size + 1)  # prices; column 0 is the row to add
    row_at = [size] * size + [0]
    for row in range(size):
        row_at[size], column = row, size
        least: list[int | None] = [None] * size
        before, seen = [size] * size, [False] * (size + 1)
        while row_at[column] != size or column == size:
            seen[column] = True
            at, step, nearest = row_at[column], None, size
            for j in range(size):
                if seen[j]:
                    continue
                reduced = weights[at][j] - of_row[at] - of_column[j]
                known = least[j]
                if known is None or reduced < known:
                    least[j], before[j] = reduced, column
                    known = reduced
                if step is None or known < step:
                    step, nearest = known, j
            for j in range(size + 1):
                if seen[j]:
                    of_row[row_at[j]] += step or 0
                    of_column[j] -= step or 0
                elif j < size:
                    least[j] = (least[j] or 0) - (step or 0)
            column = nearest
        while column != size:
            row_at[column] = row_at[before[column]]
            column = before[column]
    columns = [0] * size
    for column in range(size):
        columns[row_at[column]] = column
    return columns
