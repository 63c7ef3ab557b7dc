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
    Partition,
    all_blocks,
    bottleneck_partition,
    can_enumerate,
    lazy_bottleneck,
)
from eplb_opt.problem import evidence
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost
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


class StepsSolver(Protocol):
    """Places a layer under its rule at a cost over its steps; ``initial`` [P] is a placement to
    start from, ``counts`` [E] are those of all placements that are considered, None for any.
    """

    def __call__(
        self,
        layer: Layer,
        cost: Cost,
        budget: Budget,
        initial: tuple[int, ...] | None = None,
        counts: Sequence[int] | None = None,
        /,
    ) -> Bracket:
        """What is known of the best placement."""


def with_groups_on_nodes(layer: Layer, nodes: Sequence[int]) -> tuple[Layer, list[int]]:
    """The layer where the groups of each node, group k on ``nodes[k]``, are one group; and the
    expert of ``layer`` that each of its experts is.

    Nodes are alike, so whichever of its nodes takes a group, the placement is one of ``layer`` with
    these groups together.
    """
    experts = [e for block in blocks_of(nodes) for e in layer.experts_of(block)]
    topology = layer.topology
    merged = replace(
        layer,
        loads=tuple(layer.loads[e] for e in experts),
        steps=layer.steps[:, experts],
        topology=replace(topology, num_groups=topology.num_nodes),
    )
    return merged, experts


def order_nodes(layer: Layer, phy2log: Sequence[int], nodes: Sequence[int]) -> tuple[int, ...]:
    """The slots [P] of a placement, node after node, so that group k is on ``nodes[k]``."""
    here, size = layer.topology.slots_per_node, len(layer.loads) // layer.topology.num_groups
    inside = (phy2log[i : i + here] for i in range(0, len(phy2log), here))
    by_node = {nodes[held[0] // size]: held for held in inside}
    return tuple(e for n in sorted(by_node) for e in by_node[n])


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

    ``initial`` [P] is a valid placement to start from.
    """
    closed, search = bounds.of(layer), _BlockSearch(layer, solve_node, budget, initial)
    enumerable = can_enumerate(layer.topology.num_groups, layer.topology.num_nodes)
    found = search.best_partition() if enumerable else search.one_partition(closed.value)
    blocks, proven = found.blocks, max(found.bound, search.finish(found.blocks))
    nodes = [search.solved[block] for block in blocks]
    worst = max(nodes, key=lambda node: node.bound)
    known = Bracket.start(closed, [_join(layer, blocks, nodes)])
    known = known.with_bound(proven, f"groups:{worst.source}", _evidence(search.solved))
    if initial is not None:
        known = known.with_placement(value(layer, initial))
    reason = _limit(search.solved.values()) or (None if search.complete else Limit.WORK)
    return replace(known, limit=None if known.closed else reason)


class _BlockSearch:
    """Blocks of groups, each a node's global problem: bounded, and solved where that decides.

    A node needs to be solved only as well as the worst node of the best partition: what is proven
    of that one is the target of the others.

    Attributes:
        cost: a lower bound on the makespan of each block, raised as it is bounded and solved.
        solved: what is known of the blocks that were solved.
        complete: the search over partitions came to its end, so ``cost`` proves a bound.
    """

    def __init__(
        self, layer: Layer, solve_node: JointSolver, budget: Budget, initial: Sequence[int] | None
    ) -> None:
        self.layer, self.solve_node, self.budget = layer, solve_node, budget
        self.starts = {} if initial is None else _place_by_block(layer, initial)
        self.cost, self.solved = _block_means(layer), dict[Block, Bracket]()
        self.bounded, self.complete = set[Block](), False

    def best_partition(self) -> Partition:
        """Solve the costliest block of the best partition until all of its blocks are solved."""
        while True:
            found = self._bottleneck()
            todo = [block for block in found.blocks if block not in self.solved]
            self.complete = found.bound == max(self.cost[block] for block in found.blocks)
            if not (todo and self.complete and self.budget.chunk()):
                break
            self._solve(max(todo, key=self.cost.__getitem__), found.blocks)
        if todo:
            by_load = blocks_of(solve_groups(self.layer).node_of_group or ())
            either = (found.blocks, by_load)
            blocks = min(either, key=lambda those: max(self.cost[block] for block in those))
            for block in set(blocks) - set(self.solved):
                self._solve(block, blocks)
        reached = {block: node.incumbent for block, node in self.solved.items()}
        _, blocks = bottleneck_partition(reached, self.layer.topology.num_groups)
        return Partition(found.bound, blocks)

    def one_partition(self, bound: Fraction) -> Partition:
        """Solve the blocks of one good partition, where there are too many to compare.

        ``bound`` holds for all partitions.
        """
        blocks = list(self.cost)
        self.cost |= {block: self._bound(block) for block in blocks}
        for block in blocks:
            self._solve(block, blocks)
        return Partition(bound, blocks)

    def finish(self, blocks: Sequence[Block]) -> Fraction:
        """Give the rest of the budget to the node that decides, if its share was not enough; a
        bound that this proves, else 0.
        """
        slowest = _unfinished(self.solved, blocks)
        if slowest is None or not (self.budget.limited and self.budget.chunk()):
            return Fraction(0)
        known, problem = self.solved[slowest], self.layer.node_problem(slowest)
        rest = self.solve_node(problem, self.budget.part(), known.phy2log)
        self.solved[slowest] = _better(known, rest)
        if not self.complete or rest.bound <= self.cost[slowest]:
            return Fraction(0)
        self.cost[slowest] = rest.bound
        return self._bottleneck().bound

    def _bottleneck(self) -> Partition:
        groups = self.layer.topology.num_groups
        return lazy_bottleneck(self.cost, self._bound, groups, self.bounded)

    def _bound(self, block: Block) -> Fraction:
        if not self.budget.chunk():
            return self.cost[block]
        return bounds.of(self.layer.node_problem(block)).value

    def _solve(self, block: Block, partition: Sequence[Block]) -> None:
        target = max(self.cost[other] for other in partition)
        part = self.budget.part(1 / self.layer.topology.num_nodes, target=target)
        problem = self.layer.node_problem(block)
        self.solved[block] = self.solve_node(problem, part, self.starts.get(block))
        self.cost[block] = max(self.cost[block], self.solved[block].bound)


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
            evidence.BlockBound(block, node.bound, node.evidence or evidence.Trusted(node.source))
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
