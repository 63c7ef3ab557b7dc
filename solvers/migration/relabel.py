"""Which rank is which: a placement written down so that it takes the fewest transfers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.problem.transfer import count_transfers

Phy2Log = tuple[int, ...]
"""The placement of one layer: the expert in each slot, [P]."""


def sum_transfers(old: Sequence[int], new: Sequence[int], slots_per_rank: int) -> int:
    """Transfers to all ranks in one layer, for maps [P]."""
    return int(count_transfers([list(old)], [list(new)], slots_per_rank).sum())


def relabel(
    old: Sequence[int], new: Sequence[int], topology: Topology, rule: Rule = Rule.GLOBAL
) -> Phy2Log:
    """``new`` [P] with its ranks in the order that takes the fewest transfers.

    Exact: an optimal assignment of new ranks to old ones. Under the hierarchical rule and ``home``
    ranks are assigned for each pair of nodes, and then nodes, by the number of experts that stay;
    groups follow their home, and traffic stays as it is. Within a rank as many slots as possible
    keep their expert. O(G^3) time.

    Raises:
        ValueError: a map does not have P slots.

    Example:
        >>> relabel((0, 1, 2, 3, 4, 5), (3, 4, 2, 5, 0, 1), Topology(6, 2))
        (0, 1, 5, 3, 4, 2)
    """
    num_nodes = 1 if rule == Rule.GLOBAL else topology.num_nodes
    before, after = (split_by_rank(name, x, topology) for name, x in (("old", old), ("new", new)))
    kept = np.array([[len(set(b) & set(a)) for a in after] for b in before])
    nodes = np.split(np.arange(topology.num_ranks), num_nodes)
    inner = [[_assign_columns(kept[np.ix_(b, a)]) for a in nodes] for b in nodes]
    kept_by_nodes = np.array(
        [
            [int(kept[b, a[inner[i][j]]].sum()) for j, a in enumerate(nodes)]
            for i, b in enumerate(nodes)
        ]
    )
    chosen = [nodes[j][inner[i][j]] for i, j in enumerate(_assign_columns(kept_by_nodes))]
    order = [int(rank) for node in chosen for rank in node]
    ranks = (keep_slots(before[g], after[r]) for g, r in enumerate(order))
    return tuple(e for rank in ranks for e in rank)


def split_by_rank(name: str, phy2log: Sequence[int], topology: Topology) -> list[list[int]]:
    """The experts in the slots of each rank; ``name`` is what an error calls the map."""
    per_rank = topology.slots_per_rank
    if len(phy2log) != topology.num_physical_experts:
        raise ValueError(
            f"{name} has {len(phy2log)} slots, not "
            f"num_physical_experts={topology.num_physical_experts}"
        )
    return [[int(e) for e in phy2log[i : i + per_rank]] for i in range(0, len(phy2log), per_rank)]


def _assign_columns(value: NDArray[np.int64]) -> NDArray[np.int64]:
    """The column of each row of [n, n], all different, that maximizes the sum: [n] int64."""
    from scipy.optimize import linear_sum_assignment

    columns: NDArray[np.int64] = linear_sum_assignment(value, maximize=True)[1]
    return columns


def keep_slots(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """The experts ``after`` [S] of one rank, in the slots that hold them ``before`` if possible."""
    left = Counter(after)
    slots: list[int | None] = []
    for e in before:
        slots.append(e if left[e] else None)
        left[e] -= bool(left[e])
    others = iter(sorted(left.elements()))
    return [next(others) if e is None else e for e in slots]
