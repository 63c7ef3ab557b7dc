"""Which node takes which groups: minimize the load of the fullest node."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from eplb_opt.bounds.partitions import Block, all_blocks, bottleneck_partition, can_enumerate
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import Limit, Result, Stage


def solve_groups(layer: Layer) -> Result:
    """A partition of the groups that minimizes the largest node load (in tokens per node).

    Optimal by bisection over all blocks where these can be enumerated and the search for the
    partition ends (16 groups on 4 nodes, say).
    Else a feasible one, largest group first into the lightest node with room, and the bound
    ``max(sum(w) / N, heaviest group with the lightest others)``.
    """
    topology = layer.topology
    totals = [sum(layer.loads[e] for e in group) * layer.unit for group in layer.groups]
    if not can_enumerate(topology.num_groups, topology.num_nodes):
        return _solve_by_size(totals, topology.num_nodes)
    blocks = all_blocks(topology.num_groups, topology.num_nodes)
    cost = {block: sum((totals[k] for k in block), Fraction(0)) for block in blocks}
    bound, best = bottleneck_partition(cost, topology.num_groups)
    value = max(cost[block] for block in best)
    if value > bound:  # the search for a partition was given up
        by_size = [tuple(sorted(block)) for block in _largest_first(totals, topology.num_nodes)]
        best = min(best, by_size, key=lambda blocks: max(cost[block] for block in blocks))
        value = max(cost[block] for block in best)
    return _result("enumeration", "enumeration", bound, value, best)


def _solve_by_size(totals: Sequence[Fraction], num_nodes: int) -> Result:
    blocks = _largest_first(totals, num_nodes)
    companions = sorted(totals)[: len(totals) // num_nodes - 1]
    bound = max(sum(totals, Fraction(0)) / num_nodes, max(totals) + sum(companions))
    value = max(sum((totals[k] for k in block), Fraction(0)) for block in blocks)
    return _result("largest-first", "mean", bound, value, blocks)


def _result(
    backend: str, source: str, bound: Fraction, value: Fraction, blocks: Sequence[Block]
) -> Result:
    limit = None if value == bound else Limit.WORK
    nodes = node_of_group(blocks)
    return Result(
        Stage.GROUPS,
        backend,
        bound,
        value,
        node_of_group=nodes,
        bound_source=source,
        limit=limit,
    )


def node_of_group(blocks: Sequence[Block]) -> tuple[int, ...]:
    """[K] the node of each group, when node n takes ``blocks[n]``."""
    return tuple(n for _, n in sorted((k, n) for n, block in enumerate(blocks) for k in block))


def blocks_of(nodes: Sequence[int]) -> list[Block]:
    """The groups of each node, ascending; the inverse of :func:`node_of_group`."""
    return [tuple(k for k, n in enumerate(nodes) if n == node) for node in range(max(nodes) + 1)]


def _largest_first(totals: Sequence[Fraction], num_nodes: int) -> list[Block]:
    room = len(totals) // num_nodes
    blocks: list[list[int]] = [[] for _ in range(num_nodes)]
    load = [Fraction(0)] * num_nodes
    for k in sorted(range(len(totals)), key=lambda k: -totals[k]):
        n = min((n for n in range(num_nodes) if len(blocks[n]) < room), key=load.__getitem__)
        blocks[n].append(k)
        load[n] += totals[k]
    return [tuple(sorted(block)) for block in blocks]
