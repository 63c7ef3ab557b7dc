"""Which rank is which: a placement written down so that the fewest experts are received."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.problem.transfer import received

Slots = tuple[int, ...]


def num_received(old: Sequence[int], new: Sequence[int], slots_per_rank: int) -> int:
    """Received experts of one layer, for maps [P]."""
    return int(received([list(old)], [list(new)], slots_per_rank).sum())


def relabel(
    old: Sequence[int], new: Sequence[int], topology: Topology, rule: Rule = Rule.GLOBAL
) -> Slots:
    """``new`` [P] with ranks in the order that receives the fewest experts, and slots kept.

    Exact: an optimal assignment of new ranks to old ones; under the hierarchical rule ranks are
    assigned for each pair of nodes and nodes by what that keeps. Within a rank as many slots as
    possible keep their expert. O(G^3) time.

    Raises:
        ValueError: a map does not have P slots.

    Example:
        >>> relabel((0, 1, 2, 3, 4, 5), (3, 4, 2, 5, 0, 1), Topology(6, 2))
        (0, 1, 5, 3, 4, 2)
    """
    size, num_nodes = topology.slots_per_rank, 1
    if rule == Rule.HIERARCHICAL:
        num_nodes = topology.num_nodes
    before, after = (ranks_of(name, x, topology) for name, x in (("old", old), ("new", new)))
    kept = np.array([[len(set(b) & set(a)) for a in after] for b in before])
    nodes = np.split(np.arange(topology.num_ranks), num_nodes)
    inner = [[_assignment(kept[np.ix_(b, a)]) for a in nodes] for b in nodes]
    value = np.array(
        [
            [int(kept[b, a[inner[i][j]]].sum()) for j, a in enumerate(nodes)]
            for i, b in enumerate(nodes)
        ]
    )
    chosen = [nodes[j][inner[i][j]] for i, j in enumerate(_assignment(value))]
    order = [int(rank) for node in chosen for rank in node]
    slots = (in_place(before[g], after[r]) for g, r in enumerate(order))
    return tuple(e for rank in slots for e in rank) if size else ()


def ranks_of(name: str, slots: Sequence[int], topology: Topology) -> list[list[int]]:
    """The experts of each rank; ``name`` is what an error calls the map."""
    size = topology.slots_per_rank
    if len(slots) != topology.num_physical_experts:
        raise ValueError(
            f"{name} has {len(slots)} slots, not "
            f"num_physical_experts={topology.num_physical_experts}"
        )
    return [[int(e) for e in slots[i : i + size]] for i in range(0, len(slots), size)]


def _assignment(value: NDArray[np.int64]) -> NDArray[np.int64]:
    """The column of each row that maximizes the sum."""
    from scipy.optimize import linear_sum_assignment

    columns: NDArray[np.int64] = linear_sum_assignment(value, maximize=True)[1]
    return columns


def in_place(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """The experts ``after`` of one rank, in the slots that hold them already where that is so."""
    left = Counter(after)
    slots: list[int | None] = []
    for e in before:
        slots.append(e if left[e] else None)
        left[e] -= bool(left[e])
    others = iter(sorted(left.elements()))
    return [next(others) if e is None else e for e in slots]
