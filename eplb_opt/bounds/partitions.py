"""Partitions of expert groups into nodes, for bounds and solvers of the hierarchical rule.

A block is the sorted tuple of the K/N groups that one node takes. The cost of a partition is that
of its worst block (bottleneck), so an optimal one is found by bisection on the sorted block costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations

Block = tuple[int, ...]

MAX_BLOCKS = 20_000
"""Above this number of blocks no partition is enumerated; 16 groups on 4 nodes have 1,820."""


def can_enumerate(num_groups: int, num_nodes: int) -> bool:
    """Whether all blocks of K/N groups are few enough to be looked at one by one."""
    return math.comb(num_groups, num_groups // num_nodes) <= MAX_BLOCKS


def all_blocks(num_groups: int, num_nodes: int) -> list[Block]:
    """Every set of K/N groups."""
    return list(combinations(range(num_groups), num_groups // num_nodes))


def bottleneck_partition(cost: dict[Block, Fraction], num_groups: int) -> list[Block]:
    """The partition of ``range(num_groups)`` into blocks that minimizes the largest ``cost``;
    exact.

    Ties are broken by the order of ``cost``. Bisection on the distinct costs, each step an exact
    cover search that remembers the sets of groups which cannot be completed.
    """
    levels = sorted(set(cost.values()))
    low, high = 0, len(levels) - 1
    best: list[Block] | None = None
    while low <= high:
        middle = (low + high) // 2
        found = _cover([b for b, c in cost.items() if c <= levels[middle]], num_groups)
        if found is None:
            low = middle + 1
        else:
            best, high = found, middle - 1
    if best is None:
        raise ValueError(f"the blocks do not cover {num_groups} groups")
    return best


def lazy_bottleneck(
    cost: dict[Block, Fraction],
    refine: Callable[[Block], Fraction],
    num_groups: int,
    refined: set[Block] | None = None,
) -> tuple[Fraction, list[Block]]:
    """Bottleneck partition where exact costs are dear and lower bounds on them cheap.

    Starts from the lower bounds in ``cost`` (raised in place by ``refine``) and refines only
    blocks of the best partition, until that partition has only refined ones. Returns its cost,
    which is a lower bound on the cost of every partition, and the partition. ``refined`` are the
    blocks that were refined before; those refined now join them.
    """
    refined = set() if refined is None else refined
    while True:
        partition = bottleneck_partition(cost, num_groups)
        todo = [block for block in partition if block not in refined]
        if not todo:
            return max(cost[block] for block in partition), partition
        worst = max(todo, key=cost.__getitem__)
        cost[worst] = max(cost[worst], refine(worst))
        refined.add(worst)


def _cover(blocks: list[Block], num_groups: int) -> list[Block] | None:
    """Disjoint blocks whose union is all groups, or None."""
    by_first: list[list[tuple[int, Block]]] = [[] for _ in range(num_groups)]
    for block in blocks:
        by_first[block[0]].append((sum(1 << k for k in block), block))
    full = (1 << num_groups) - 1
    dead: set[int] = set()

    def extend(used: int) -> list[Block] | None:
        if used == full:
            return []
        if used in dead:
            return None
        first = (~used & (used + 1)).bit_length() - 1
        for mask, block in by_first[first]:
            if not used & mask and (rest := extend(used | mask)) is not None:
                return [block, *rest]
        dead.add(used)
        return None

    return extend(0)
