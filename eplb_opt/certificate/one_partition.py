"""Check that every partition of the groups costs a bound over the steps; second implementation."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations

from eplb_opt.bounds.partitions import Block
from eplb_opt.certificate.budget import CheckBudget
from eplb_opt.certificate.dispatch_bound import least_of_steps
from eplb_opt.certificate.groups import blocks_of
from eplb_opt.certificate.statement import CertificateError
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost, Dispatch
from eplb_opt.problem.rationals import shown
from eplb_opt.problem.topology import Rule, Topology


def one_partition_proves(layer: Layer, cost: Cost, bound: Fraction, budget: CheckBudget) -> bool:
    """Whether, with any partition of the groups that holds for all steps, the objective of the
    worst node of each step is at least ``bound`` tokens.

    A node costs its mean, its heaviest experts, and under ``even`` dispatch its heaviest replica.

    Raises:
        CertificateError: there are no groups, or too many.
        TooLargeToCheckError: the budget does not suffice.
    """
    if layer.rule != Rule.HIERARCHICAL:
        raise CertificateError("evidence of kind 'one-partition' is for the hierarchical rule only")
    blocks = blocks_of(layer, budget)
    if blocks is None:
        raise CertificateError(f"{shown(layer.topology.num_groups)} groups have too many blocks")
    least = {block: _node_costs(layer, block, cost, budget) for block in blocks}
    steps, nodes = len(next(iter(least.values()))), layer.topology.num_nodes
    needed = bound / layer.unit
    for partition in partitions(layer.topology, budget):
        budget.charge(steps * (nodes + 8))
        worst = [max(costs) for costs in zip(*(least[block] for block in partition), strict=True)]
        if cost.objective.over(worst) < needed:
            return False
    return True


def partitions(topology: Topology, budget: CheckBudget) -> Iterator[tuple[Block, ...]]:
    """Every set of disjoint blocks of K/N groups that are all groups, without recursion."""
    groups, size = tuple(range(topology.num_groups)), topology.groups_per_node
    stack: list[tuple[tuple[Block, ...], tuple[int, ...]]] = [((), groups)]
    while stack:
        found, left = stack.pop()
        budget.charge(1 + len(groups) // 16)
        if not left:
            yield found
            continue
        for others in combinations(left[1:], size - 1):
            budget.charge(1 + len(left) // 16)
            rest = tuple(group for group in left[1:] if group not in others)
            stack.append(((*found, (left[0], *others)), rest))


def _node_costs(layer: Layer, block: Block, cost: Cost, budget: CheckBudget) -> list[Fraction]:
    """[T] what a node with these groups costs at least, in load units."""
    node = layer.node_problem(block)
    loads = cost.objective.loads_of(node)
    found = least_of_steps(node, loads, budget)
    if cost.dispatch != Dispatch.EVEN:
        return found
    budget.charge(loads.size)
    return [
        max(low, _replica(node, row, low, budget))
        for low, row in zip(found, loads.tolist(), strict=True)
    ]


def _replica(node: Layer, loads: list[int], low: Fraction, budget: CheckBudget) -> Fraction:
    """The heaviest replica at the best counts; 0 where it is below ``low``."""
    if not any(loads):
        return Fraction(0)
    slots, most = node.topology.num_physical_experts, node.most_replicas
    top, bottom = low.as_integer_ratio()
    lighter = [load * bottom // top + 1 for load in loads]
    if sum(lighter) <= slots and max(lighter) <= most:
        return Fraction(0)
    budget.charge(20 * slots)
    heap = [(Fraction(-load), 1) for load in loads]
    heapq.heapify(heap)
    for _ in range(slots - len(loads)):
        load, count = heap[0]
        if count == most:
            break
        heapq.heapreplace(heap, (load * count / (count + 1), count + 1))
    return -heap[0][0]
