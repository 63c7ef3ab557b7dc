"""The hierarchical rule: nodes are global problems of their own once the groups are dealt out.

The makespan is the worst node's, so the best partition of the groups is a bottleneck partition,
and only nodes that can decide it need to be solved
(:func:`eplb_opt.bounds.partitions.lazy_bottleneck`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Protocol

from eplb_opt import bounds
from eplb_opt.bounds.partitions import (
    Block,
    all_blocks,
    bottleneck_partition,
    can_enumerate,
    lazy_bottleneck,
)
from eplb_opt.problem import evidence
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import Limit, Result, Stage
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.formulations.groups import blocks_of, node_of_group, solve_groups
from solvers.options import Budget


class CountSolver(Protocol):
    """Counts within limits [E], of a layer under the global rule."""

    def __call__(
        self, layer: Layer, least: Sequence[int] | None, most: Sequence[int] | None, /
    ) -> Result:
        """The best counts."""


class PackingSolver(Protocol):
    """Packs ``counts`` [E] of a layer under the global rule."""

    def __call__(self, layer: Layer, counts: Sequence[int], budget: Budget, /) -> Bracket:
        """What is known of the best packing."""


class JointSolver(Protocol):
    """Places a layer under the global rule; ``initial`` [P] is a placement to start from."""

    def __call__(self, layer: Layer, budget: Budget, initial: tuple[int, ...] | None, /) -> Bracket:
        """What is known of the best placement."""


def solve_counts(
    layer: Layer,
    nodes: Sequence[int],
    solve_node: CountSolver,
    least: Sequence[int] | None = None,
    most: Sequence[int] | None = None,
) -> Result:
    """Counts that minimize the heaviest replica when group k is on node ``nodes[k]``; optimal.

    Each node on its own. ``least`` and ``most`` [E] limit the counts.
    """
    blocks, found = blocks_of(nodes), dict[int, int]()
    heaviest = Fraction(0)
    for block in blocks:
        inside = layer.experts_of(block)
        limits = [None if x is None else [x[e] for e in inside] for x in (least, most)]
        result = solve_node(layer.node_problem(block), *limits)
        found |= zip(inside, result.counts or (), strict=True)
        heaviest = max(heaviest, result.lower_bound)
    return Result(
        Stage.COUNTS,
        result.backend,
        heaviest,
        heaviest,
        counts=tuple(found[e] for e in sorted(found)),
        node_of_group=node_of_group(blocks),
        bound_source="exchange argument",
    )


def solve_packing(
    layer: Layer,
    given: Sequence[int],
    nodes: Sequence[int],
    solve_node: PackingSolver,
    budget: Budget,
) -> Bracket:
    """Packing inside every node when counts [E] and node of each group [K] are given."""
    blocks = blocks_of(nodes)
    found: list[Bracket] = []
    for block in blocks:
        inside = [given[e] for e in layer.experts_of(block)]
        found.append(solve_node(layer.node_problem(block), inside, budget.part()))
    worst = max(found, key=lambda node: node.bound)
    known = Bracket(None, None, worst.bound, worst.source, limit=_limit(found))
    return known.with_placement(_join(layer, blocks, found))


def solve_joint(
    layer: Layer,
    solve_node: JointSolver,
    budget: Budget,
    initial: tuple[int, ...] | None = None,
) -> Bracket:
    """Groups, counts and packing together: optimal if every node that decides is solved.

    A node needs to be solved only as well as the worst node of the best partition: what is proven
    of that one is the target of the others. ``initial`` [P] is a valid placement to start from.
    """
    topology = layer.topology
    solved: dict[Block, Bracket] = {}
    closed = bounds.of(layer)
    cost = _block_means(layer)
    bounded: set[Block] = set()
    starts = {} if initial is None else _place_by_block(layer, initial)

    def bound_block(block: Block) -> Fraction:
        return bounds.of(layer.node_problem(block)).value if budget.chunk() else cost[block]

    def solve_block(block: Block, partition: Sequence[Block]) -> None:
        target = max(cost[other] for other in partition)
        part = budget.part(1 / topology.num_nodes, target=target)
        solved[block] = solve_node(layer.node_problem(block), part, starts.get(block))
        cost[block] = max(cost[block], solved[block].bound)

    enumerated = can_enumerate(topology.num_groups, topology.num_nodes)
    if enumerated:
        while True:
            proven, blocks = lazy_bottleneck(cost, bound_block, topology.num_groups, bounded)
            todo = [block for block in blocks if block not in solved]
            enumerated = proven == max(cost[block] for block in blocks)
            if not (todo and enumerated and budget.chunk()):
                break
            solve_block(max(todo, key=cost.__getitem__), blocks)
        if todo:
            by_load = blocks_of(solve_groups(layer).node_of_group or ())
            blocks = min(blocks, by_load, key=lambda found: max(cost[block] for block in found))
            for block in set(blocks) - set(solved):
                solve_block(block, blocks)
        reached = {block: node.incumbent for block, node in solved.items()}
        _, blocks = bottleneck_partition(reached, topology.num_groups)
    else:
        proven, blocks = closed.value, list(cost)
        cost |= {block: bound_block(block) for block in blocks}
        for block in blocks:
            solve_block(block, blocks)
    if (slowest := _unfinished(solved, blocks)) is not None and budget.limited and budget.chunk():
        rest = solve_node(layer.node_problem(slowest), budget.part(), solved[slowest].phy2log)
        solved[slowest] = _better(solved[slowest], rest)
        if enumerated and rest.bound > cost[slowest]:
            cost[slowest] = max(cost[slowest], rest.bound)
            proven, _ = lazy_bottleneck(cost, bound_block, topology.num_groups, bounded)
    nodes = [solved[block] for block in blocks]
    worst = max(nodes, key=lambda node: node.bound)
    known = Bracket.start(closed, [_join(layer, blocks, nodes)])
    known = known.with_bound(proven, f"groups:{worst.source}", _evidence(solved))
    if initial is not None:
        known = known.with_placement(value(layer, initial))
    reason = _limit(solved.values()) or (None if enumerated else Limit.WORK)
    return replace(known, limit=None if known.closed else reason)


def _unfinished(solved: dict[Block, Bracket], blocks: Sequence[Block]) -> Block | None:
    """The node with the largest value, if its share of the time or the work was not enough."""
    worst = max(blocks, key=lambda block: solved[block].incumbent)
    return worst if solved[worst].limit in (Limit.TIME, Limit.WORK) else None


def _better(known: Bracket, found: Bracket) -> Bracket:
    """What two searches of the same node found together."""
    both = known.with_placement(found).with_bound(found.bound, found.source, found.evidence)
    return replace(both, limit=None if both.closed else found.limit)


def _place_by_block(layer: Layer, phy2log: Sequence[int]) -> dict[Block, tuple[int, ...]]:
    """What each node holds in a valid placement [P], as experts of that node's problem."""
    slots_per_node, group_size = layer.topology.slots_per_node, len(layer.groups[0])
    found = dict[Block, tuple[int, ...]]()
    for start in range(0, len(phy2log), slots_per_node):
        held = phy2log[start : start + slots_per_node]
        block = tuple(sorted({e // group_size for e in held}))
        position = {e: i for i, e in enumerate(layer.experts_of(block))}
        found[block] = tuple(position[e] for e in held)
    return found


def _block_means(layer: Layer) -> dict[Block, Fraction]:
    """Mean rank loads of all blocks, or of one good partition where there are too many."""
    groups, nodes = layer.topology.num_groups, layer.topology.num_nodes
    if can_enumerate(groups, nodes):
        blocks = all_blocks(groups, nodes)
    else:
        blocks = blocks_of(solve_groups(layer).node_of_group or ())
    totals = [sum(layer.loads[e] for e in group) for group in layer.groups]
    per_rank = layer.unit / layer.topology.ranks_per_node
    return {block: sum(totals[k] for k in block) * per_rank for block in blocks}


def _evidence(solved: dict[Block, Bracket]) -> evidence.Groups:
    """What :mod:`eplb_opt.certificate` needs to check that no partition beats the bound."""
    return evidence.Groups(
        tuple(
            evidence.Block(block, node.bound, node.evidence or evidence.Trusted(node.source))
            for block, node in solved.items()
        )
    )


def _join(layer: Layer, blocks: Sequence[Block], nodes: Sequence[Bracket]) -> Bracket:
    """The placement of the whole layer when node n takes ``blocks[n]``; none if one has none."""
    phy2log: list[int] = []
    if any(node.placement is None for node in nodes):
        return replace(nodes[0], placement=None, value=None)
    for block, node in zip(blocks, nodes, strict=True):
        experts = layer.experts_of(block)
        phy2log += [experts[i] for i in node.phy2log]
    return value(layer, phy2log)


def _limit(nodes: Iterable[Bracket]) -> Limit | None:
    """The weightiest reason."""
    reasons = {node.limit for node in nodes}
    order = (Limit.INTERRUPT, Limit.TIME, Limit.WORK, Limit.PRECISION)
    return next((limit for limit in order if limit in reasons), None)
