"""Partitions of expert groups into nodes, for bounds and solvers of the hierarchical rule.

A block is the sorted tuple of the K/N groups that one node takes. The cost of a partition is that
of its worst block (bottleneck), so an optimal one is found by bisection on the sorted block costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

Block = tuple[int, ...]

MAX_BLOCKS = 20_000
"""Above this number of blocks no partition is enumerated; 16 groups on 4 nodes have 1,820."""


MOST_STEPS = 3_000_000
"""Of all searches for the best partition together: below half a second. 16 groups on 4 nodes need
more at times, 32 groups on 16 nodes may take for ever."""
FEWEST_STEPS = 1_000
"""That each of them may take in any case, and one more a group: so many are enough if all blocks
are allowed."""


def can_enumerate(num_groups: int, num_nodes: int) -> bool:
    """Whether all blocks of K/N groups are few enough to be looked at one by one."""
    return math.comb(num_groups, num_groups // num_nodes) <= MAX_BLOCKS


def all_blocks(num_groups: int, num_nodes: int) -> list[Block]:
    """Every set of K/N groups."""
    return list(combinations(range(num_groups), num_groups // num_nodes))


class Partition(NamedTuple):
    """Disjoint blocks that are all groups; no partition's worst block costs less than ``bound``."""

    bound: Fraction
    blocks: list[Block]


def bottleneck_partition(cost: dict[Block, Fraction], num_groups: int) -> Partition:
    """The partition of ``range(num_groups)`` into blocks that minimizes the largest ``cost``: exact
    if that equals the bound.

    Ties are broken by the order of ``cost``. Bisection on the distinct costs, each step an exact
    cover search that remembers the sets of groups which cannot be completed. After
    :data:`MOST_STEPS` searches are given up, and then the bound may be below the cost.

    Raises:
        ValueError: the blocks do not cover the groups.
    """
    return _bottleneck(cost, num_groups, _Steps())


def _bottleneck(cost: dict[Block, Fraction], num_groups: int, steps: _Steps) -> Partition:
    levels = sorted(set(cost.values()))
    position = {level: i for i, level in enumerate(levels)}
    # Positions, since integers compare faster than fractions.
    level_of = {block: position[value] for block, value in cost.items()}
    low, high = _dearest_group(level_of, num_groups), len(levels) - 1
    excluded = low - 1
    best: list[Block] | None = None
    while low <= high:
        middle = (low + high) // 2
        try:
            found = _cover(
                [b for b, level in level_of.items() if level <= middle], num_groups, steps
            )
        except _GivenUpError:
            low = middle + 1
            continue
        if found is None:
            low, excluded = middle + 1, middle
        else:
            best, high = found, middle - 1
    if best is None:
        raise ValueError(f"the blocks do not cover {num_groups} groups")
    return Partition(levels[excluded + 1], best)


def lazy_bottleneck(
    cost: dict[Block, Fraction],
    refine: Callable[[Block], Fraction],
    num_groups: int,
    refined: set[Block] | None = None,
) -> Partition:
    """Bottleneck partition where exact costs are dear and lower bounds on them cheap.

    Starts from the lower bounds in ``cost`` (raised in place by ``refine``) and refines only
    blocks of the best partition, until that partition has only refined ones, or is not known to be
    the best. ``refined`` are the blocks that were refined before; those refined now join them.
    """
    refined, steps = set() if refined is None else refined, _Steps()
    while True:
        found = _bottleneck(cost, num_groups, steps)
        todo = [block for block in found.blocks if block not in refined]
        if not todo or found.bound < max(cost[block] for block in found.blocks):
            return found
        worst = max(todo, key=cost.__getitem__)
        cost[worst] = max(cost[worst], refine(worst))
        refined.add(worst)


def _dearest_group(cost: dict[Block, int], num_groups: int) -> int:
    """The largest over the groups of what the cheapest block with that group costs."""
    cheapest: dict[int, int] = {}
    for block, value in cost.items():
        for k in block:
            cheapest[k] = min(value, cheapest.get(k, value))
    if len(cheapest) < num_groups:
        raise ValueError(f"the blocks do not cover {num_groups} groups")
    return max(cheapest.values())


class _GivenUpError(Exception):
    """A search for a cover took too many steps: there may be one."""


class _Steps:
    """Steps that searches may still take."""

    left = MOST_STEPS


def _cover(blocks: list[Block], num_groups: int, steps: _Steps) -> list[Block] | None:
    """Disjoint blocks whose union is all groups, or None; depth-first.

    Raises:
        _GivenUpError: it takes too many steps.
    """
    left = max(steps.left, FEWEST_STEPS + num_groups)
    by_first: list[list[tuple[int, Block]]] = [[] for _ in range(num_groups)]
    for block in blocks:
        by_first[block[0]].append((sum(1 << k for k in block), block))
    full, dead = (1 << num_groups) - 1, set[int]()
    path: list[Block] = []
    stack = [(0, iter(by_first[0]))]
    while stack:
        used, options = stack[-1]
        for mask, block in options:
            left, steps.left = left - 1, steps.left - 1
            if left < 0:
                raise _GivenUpError
            if used & mask or used | mask in dead:
                continue
            path.append(block)
            used |= mask
            if used == full:
                return path
            stack.append((used, iter(by_first[(~used & (used + 1)).bit_length() - 1])))
            break
        else:
            dead.add(used)
            stack.pop()
            del path[-1:]
    return None
