"""Check a bound under the hierarchical rule: every partition of the groups has a block that reaches
it. A block is the sorted tuple of the K/N groups that one node takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations

from eplb_opt.bounds.partitions import MAX_BLOCKS, Block
from eplb_opt.certificate.budget import CheckBudget, product_cost
from eplb_opt.certificate.closed_form import load_bits, reaches
from eplb_opt.problem.layer import Layer


def blocks_of(layer: Layer, budget: CheckBudget) -> list[Block] | None:
    """Every set of K/N groups; None if they are too many to look at one by one."""
    groups, nodes = layer.topology.num_groups, layer.topology.num_nodes
    budget.charge(1 + groups * groups // 50_000)
    number = math.comb(groups, groups // nodes)
    if number > MAX_BLOCKS:
        return None
    budget.charge(number * (1 + groups // nodes // 16))
    return list(combinations(range(groups), groups // nodes))


Reaches = Callable[[Layer, Fraction, CheckBudget], bool]
"""Whether an argument proves a bound in tokens for the problem of a node."""


def every_partition_reaches(
    layer: Layer,
    bound: Fraction,
    shown: set[Block],
    budget: CheckBudget,
    reaches: Reaches = reaches,
) -> bool:
    """Whether every partition has a block in ``shown``, or one for which an argument proves
    ``bound`` tokens.

    Where the blocks are too many: whether the heaviest group reaches it with the K/N - 1 lightest
    others.

    Raises:
        TooLargeToCheckError: the budget does not suffice.
    """
    budget.charge(len(layer.loads) * (1 + load_bits(layer) // 4096))
    totals = [sum(layer.loads[e] for e in group) for group in layer.groups]
    needed = bound / layer.unit * layer.topology.ranks_per_node
    blocks = blocks_of(layer, budget)
    if blocks is None:
        companions = sorted(totals)[: layer.topology.groups_per_node - 1]
        return max(totals) + sum(companions) >= needed
    cost = product_cost(max(totals).bit_length(), needed.denominator.bit_length() + 64)
    budget.charge(len(blocks) * (cost + layer.topology.groups_per_node // 8))
    low = {b for b in blocks if b not in shown and sum(totals[k] for k in b) < needed}
    examined: set[Block] = set()
    while (partition := _partition(sorted(low), len(totals), budget)) is not None:
        raised = set()
        for block in set(partition) - examined:
            budget.charge(50 + len(layer.loads) // layer.topology.num_nodes)
            if reaches(layer.node_problem(block), bound, budget):
                raised.add(block)
        if not raised:
            return False
        examined.update(partition)
        low -= raised
    return True


def _partition(blocks: list[Block], num_groups: int, budget: CheckBudget) -> list[Block] | None:
    """Disjoint blocks whose union is all groups, or None; depth-first, without recursion.

    What was covered when no completion was found is remembered.
    """
    budget.charge(1 + len(blocks) * (1 + num_groups // 256))
    starting: list[list[tuple[int, Block]]] = [[] for _ in range(num_groups)]
    for block in blocks:
        starting[block[0]].append((sum(1 << k for k in block), block))
    full, dead = (1 << num_groups) - 1, set[int]()
    path: list[Block] = []
    stack = [(0, iter(starting[0]))]
    while stack:
        used, options = stack[-1]
        for mask, block in options:
            budget.charge(1 + num_groups // 4096)
            if used & mask or used | mask in dead:
                continue
            path.append(block)
            if used | mask == full:
                return path
            covered = used | mask
            first = (~covered & (covered + 1)).bit_length() - 1
            stack.append((covered, iter(starting[first])))
            break
        else:
            dead.add(used)
            stack.pop()
            del path[-1:]
    return None
