"""The best constant placement over several steps, by tree search.

The trees are in :mod:`steps_even` (counts and packings) and :mod:`steps_dispatch` (sets of ranks).
Under the hierarchical rule every partition of the groups into nodes has a tree of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np

from eplb_opt.bounds.closed_form import threshold_counts
from eplb_opt.bounds.partitions import Block
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost, Dispatch, Objective
from eplb_opt.problem.result import Limit
from eplb_opt.problem.topology import Topology
from solvers.bracket import Bracket
from solvers.compiled import compile_within
from solvers.dispatch import value
from solvers.local_search.start import largest_first
from solvers.local_search.steps import as_groups, bound_over_steps
from solvers.model_size import TooLargeError
from solvers.options import Budget
from solvers.tree_search.splitting import EXHAUSTED, FOUND
from solvers.tree_search.steps_dispatch import SetTree, require_few_ranks
from solvers.tree_search.steps_even import CountTree
from solvers.tree_search.steps_scale import (
    LARGEST_COST,
    NOTHING,
    ROOM_FOR_PRICES,
    find_twins,
    over,
    scale_steps,
)

MOST_PARTITIONS = 20_000


def solve_joint(
    layer: Layer,
    cost: Cost,
    budget: Budget,
    initial: tuple[int, ...] | None = None,
    counts: Sequence[int] | None = None,
) -> Bracket:
    """The constant placement of least cost under the rule of the layer.

    Optimal if no limit ends the search; under ``fixed`` dispatch if besides all placements that
    matter have values that are known exactly (else the limit is ``precision``). Deterministic
    without a time limit.

    Args:
        layer: the problem; meant for about 16 slots.
        cost: objective and dispatch.
        budget: a replica or a set of ranks that is tried counts for one, more with many steps.
        initial: [P] a known placement.
        counts: [E] for placements with these counts alone, under ``even`` dispatch.

    Raises:
        TooLargeError: there are too many ranks in a node, partitions of groups, or steps.
    """
    _require_few_partitions(as_groups(layer).topology)
    search = _Search(layer, cost, budget, counts)
    search.start(initial)
    rehearsal = rehearse_counts if cost.dispatch == Dispatch.EVEN else rehearse_sets
    if not search.good_enough and budget.chunk():
        if compile_within(budget.seconds_left(), rehearsal):
            search.run()
        else:
            budget.chunk()
    return search.result()


class _Search:
    """What is known, and which placements are of interest still.

    Attributes:
        known: the best placement so far, and the bound of an argument.
        most: objective that is worth a search, in scaled units; the less, the better the incumbent.
        left: what placements that were not looked at cost at least, in scaled units.
        doubtful: bounds of placements whose exact value is not known, in tokens.
    """

    def __init__(
        self, layer: Layer, cost: Cost, budget: Budget, counts: Sequence[int] | None
    ) -> None:
        self.layer = as_groups(layer)
        self.cost, self.budget, self.counts = cost, budget, counts
        self.nodes, self.ranks = self.layer.topology.num_nodes, self.layer.topology.ranks_per_node
        multiple, factor = 1, 1
        if cost.dispatch == Dispatch.EVEN:
            multiple = math.lcm(*range(1, min(64, self.most_replicas) + 1))
        else:
            require_few_ranks(self.ranks)
            factor = math.lcm(*range(1, self.ranks + 1))
        largest = ROOM_FOR_PRICES if cost.dispatch == Dispatch.FIXED else LARGEST_COST
        self.scale = scale_steps(layer, cost.objective, multiple, factor, largest)
        self.exact_loads = cost.objective.loads_of(layer).T
        self.known = Bracket.start(bound_over_steps(layer, cost, counts), [])
        self.most, self.left = NOTHING, 0
        self.doubtful = list[Fraction]()

    @property
    def most_replicas(self) -> int:
        """Of one expert, on the ranks of its node."""
        topology = self.layer.topology
        spare = (topology.num_physical_experts - len(self.layer.loads)) // self.nodes
        return min(spare + 1, self.ranks) if self.layer.spread_replicas else spare + 1

    @property
    def good_enough(self) -> bool:
        """Whether the incumbent ends the search."""
        known = self.known
        return known.value is not None and self.budget.accepts(known.value, known.bound)

    @property
    def of_no_interest(self) -> Fraction:
        """Tokens from which on a placement is of no interest."""
        least = (self.most + 1) * self.scale.unit
        return least if self.known.value is None else min(least, self.known.value)

    def start(self, initial: tuple[int, ...] | None) -> None:
        """Take ``initial`` [P], or a greedy placement."""
        if initial is None:
            for blocks in _partitions(self.layer, self.counts):
                initial = _greedy(self.layer, blocks, self.counts)
                break
        if initial is not None:
            self.accept(initial)

    def accept(self, phy2log: tuple[int, ...]) -> None:
        """Look at a placement; whatever is not better is of no interest from now on."""
        found = value(self.layer, phy2log, *self.cost)
        if not found.closed:
            self.doubtful.append(found.bound)
        self.known = self.known.with_placement(found)
        self.most = self.budget.better_than(math.ceil(self.known.incumbent / self.scale.unit))

    def run(self) -> None:
        """Search all partitions of the groups, the one of the least bound first."""
        try:
            partitions = self.bounded_partitions()
            for (bound, blocks), (following, _) in pairwise([*partitions, (NOTHING, ())]):
                self.left = bound
                if bound > self.most or not self.search(blocks, following):
                    return
            self.left = NOTHING
        except KeyboardInterrupt:
            self.budget.interrupt()

    def search(self, blocks: Sequence[Block], following: int) -> bool:
        """Search the placements with ``blocks[n]`` on node n; True if none of interest is left.

        ``following`` is what all partitions after this one cost at least.
        """
        tree, state = self.tree(blocks), None
        while not self.good_enough:
            work = self.budget.chunk()
            if not work:
                return False
            if isinstance(tree, SetTree):
                tree.exclude_from(self.of_no_interest)
            state, used = tree.advance(self.most, work)
            self.budget.charge(used)
            if state == FOUND:
                self.accept(tree.placement())
            if state == EXHAUSTED:
                return True
            self.left = max(self.left, min(following, tree.open_bound()))
        return False

    def tree(self, blocks: Sequence[Block]) -> CountTree | SetTree:
        """The placements with ``blocks[n]`` on node n."""
        experts = [e for block in blocks for e in self.sorted_experts(block)]
        loads, topology = np.ascontiguousarray(self.scale.loads.T[experts]), self.layer.topology
        twin = find_twins(self.exact_loads[experts], self.nodes)
        if self.cost.dispatch == Dispatch.EVEN:
            given = None if self.counts is None else [self.counts[e] for e in experts]
            spread, most = self.layer.spread_replicas, self.most_replicas
            return CountTree(
                experts, loads, twin, self.scale.weights, topology, most, spread, given
            )
        fixed = self.cost.dispatch == Dispatch.FIXED
        return SetTree(experts, loads, twin, self.scale, topology, fixed)

    def sorted_experts(self, block: Block) -> list[int]:
        """Heavy ones first, equal ones side by side."""
        loads = self.exact_loads.tolist()
        return sorted(self.layer.experts_of(block), key=lambda e: (-sum(loads[e]), loads[e]))

    def bounded_partitions(self) -> list[tuple[int, tuple[Block, ...]]]:
        """All partitions with the objective of the mean of the fullest node, by that bound."""
        found = []
        for blocks in _partitions(self.layer, self.counts):
            inside = [self.layer.experts_of(block) for block in blocks]
            means = np.max([self.scale.loads[:, those].sum(axis=1) for those in inside], axis=0)
            found.append(
                (over(means * self.scale.factor // self.ranks, self.scale.weights), blocks)
            )
        return sorted(found)

    def result(self) -> Bracket:
        """What is proven."""
        known, ends = self.known, [min(self.left, self.most + 1) * self.scale.unit, *self.doubtful]
        if known.value is not None:
            known = known.with_bound(min(known.value, *ends), "search")
        else:
            known = known.with_bound(min(ends), "search")
        reason = self.budget.limit or (Limit.PRECISION if self.doubtful else None)
        return replace(known, limit=None if known.closed else reason)


def _require_few_partitions(topology: Topology) -> None:
    groups, per_node = topology.num_groups, topology.groups_per_node
    alike = math.factorial(per_node) ** topology.num_nodes * math.factorial(topology.num_nodes)
    number = math.factorial(groups) // alike
    if number > MOST_PARTITIONS:
        raise TooLargeError(
            f"{groups} groups have more than {MOST_PARTITIONS:,} partitions, too many for a "
            f"search: use backend='auto'"
        )


def _partitions(layer: Layer, counts: Sequence[int] | None) -> Iterator[tuple[Block, ...]]:
    """All partitions of the groups into nodes, equal nodes in one order only; with ``counts`` [E]
    those whose replicas fill each node.
    """
    topology = layer.topology
    per_node, slots = topology.groups_per_node, topology.slots_per_node

    def fits(block: Block) -> bool:
        return counts is None or sum(counts[e] for e in layer.experts_of(block)) == slots

    def extend(left: tuple[int, ...]) -> Iterator[tuple[Block, ...]]:
        if not left:
            yield ()
        for others in combinations(left[1:], per_node - 1):
            block = (*left[:1], *others)
            if left and fits(block):
                for tail in extend(tuple(k for k in left if k not in block)):
                    yield (block, *tail)

    return extend(tuple(range(topology.num_groups)))


def _greedy(layer: Layer, blocks: Sequence[Block], counts: Sequence[int] | None) -> tuple[int, ...]:
    """[P] greedy counts, or those given, and longest processing time first for the summed loads."""
    phy2log: list[int] = []
    for block in blocks:
        experts, node = layer.experts_of(block), layer.node_problem(block)
        inside = threshold_counts(node) if counts is None else [counts[e] for e in experts]
        phy2log += [experts[i] for i in largest_first(node, inside)]
    return tuple(phy2log)


def rehearse_counts() -> None:
    """Compile the tree of counts and packings."""
    _rehearse(Dispatch.EVEN)


def rehearse_sets() -> None:
    """Compile the tree of sets of ranks."""
    _rehearse(Dispatch.FIXED)


def _rehearse(dispatch: Dispatch) -> None:
    layer = Layer((9, 5, 3), Fraction(1), Topology(6, 3), steps=np.array([[4, 3, 2], [5, 2, 1]]))
    _Search(layer, Cost(Objective("mean"), dispatch), Budget(), None).run()
