"""What is known of the optima of one layer: exact intervals from bounds, placements and searches.

The makespan of a placement is the worst node's, and a node is a problem of its own once its block
of groups is fixed (with the rule ``global`` there is one node that takes everything). So all that
is learned is kept per *part*: a block, with the replica counts of its experts or with free counts.
Every placement of the layer is an incumbent for its parts, whoever made it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from eplb_opt.bounds import global_bound, lower_bound, packing_bound
from eplb_opt.bounds.partitions import Block, bottleneck_partition
from eplb_opt.gap.loss_split import Interval
from eplb_opt.problem.instance import Layer, Rule, Topology
from eplb_opt.problem.objective import exact_rank_loads
from eplb_opt.problem.result import Result


@dataclass(frozen=True)
class Search:
    """Limits of every exact search: one optimum of one node, or of the layer under its rule.

    Attributes:
        time_limit: seconds; 0 for no search, None for no limit.
        tolerance: no search where value and bound are as close as this, relatively.
        seed: of the search.
        workers: its threads.
    """

    time_limit: float | None = 0.0
    tolerance: float = 1e-5
    seed: int = 0
    workers: int = 1

    def wanted(self, optimum: Interval) -> bool:
        """Whether ``optimum`` is not yet known well enough."""
        return self.time_limit != 0 and optimum.high > optimum.low * (1 + Fraction(self.tolerance))


@dataclass(frozen=True)
class Part:
    """One node's problem: the groups it takes, and the replica counts of their experts in order.

    ``counts`` is None where they are free.
    """

    block: Block
    counts: tuple[int, ...] | None = None

    @property
    def free(self) -> Part:
        """The same block with free counts."""
        return Part(self.block)


class Optima:
    """Bounds and incumbents of one layer's parts; they only improve.

    Guarantee: every interval contains the optimum that it is named for, in exact arithmetic. How
    narrow it is depends on the placements learned and on the searches made.
    """

    def __init__(self, layer: Layer, search: Search) -> None:
        self.layer = layer if layer.rule == Rule.HIERARCHICAL else without_nodes(layer)
        self.search = search
        self._low: dict[Part, Fraction] = {}
        self._high: dict[Part, Fraction] = {}
        self._searched: set[Part] = set()
        self._rule_low = lower_bound(self.layer).value

    def learn(self, slots: Sequence[int]) -> tuple[Part, ...]:
        """Take a valid placement ``slots`` [P] as incumbent; its parts, one a node."""
        topology, groups = self.layer.topology, self.layer.groups
        loads, size = exact_rank_loads(self.layer, slots), len(groups[0])
        parts = []
        for node in range(topology.num_nodes):
            first = node * topology.slots_per_node
            count = Counter(slots[first : first + topology.slots_per_node])
            block = tuple(sorted({e // size for e in count}))
            part = Part(block, tuple(count[e] for k in block for e in groups[k]))
            ranks = range(node * topology.ranks_per_node, (node + 1) * topology.ranks_per_node)
            self._record(part, max(loads[g] for g in ranks))
            parts.append(part)
        return tuple(parts)

    def interval(self, parts: Sequence[Part]) -> Interval:
        """The optimum of the layer when its nodes have these learned parts: the worst of theirs."""
        low = max(self._bound(part) for part in parts)
        return Interval(low, max(self._high[part] for part in parts))

    def under_rule(self) -> Interval:
        """The optimum over everything that the layer's rule allows; one placement is needed."""
        known = {part.block: high for part, high in self._high.items() if part.counts is None}
        best = bottleneck_partition(known, self.layer.topology.num_groups)
        return Interval(self._rule_low, max(known[block] for block in best))

    def sharpen(self, parts: Sequence[Part]) -> None:
        """Search the parts that can decide ``interval(parts)``, each once, worst first.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the search.
        """
        while self.search.wanted(now := self.interval(parts)):
            left = [p for p in parts if p not in self._searched and self._high[p] > now.low]
            if not left:
                return
            worst = max(left, key=self._high.__getitem__)
            self._searched.add(worst)
            result = _solved(self.layer.node_problem(worst.block), self.search, worst.counts)
            self._low[worst] = max(self._low[worst], result.lower_bound)
            if result.objective is not None and result.counts is not None:
                self._record(Part(worst.block, result.counts), result.objective)

    def sharpen_rule(self) -> None:
        """Search the optimum under the layer's rule.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the search.
        """
        if not self.search.wanted(self.under_rule()):
            return
        result = _solved(self.layer, self.search)
        self._rule_low = max(self._rule_low, result.lower_bound)
        if result.placement is not None:
            self.learn(result.placement)

    def _record(self, part: Part, makespan: Fraction) -> None:
        for known in (part, part.free):
            self._high[known] = min(makespan, self._high.get(known, makespan))

    def _bound(self, part: Part) -> Fraction:
        if part not in self._low:
            problem = self.layer.node_problem(part.block)
            given = part.counts
            bound = global_bound(problem) if given is None else packing_bound(problem, given)
            self._low[part] = bound.value
        return self._low[part]


def without_nodes(layer: Layer) -> Layer:
    """The layer under the global rule, as one node with one group."""
    machine = Topology(layer.topology.num_physical_experts, layer.topology.num_ranks)
    return replace(layer, topology=machine, rule=Rule.GLOBAL)


def nested(optima: Sequence[Interval], equal: Collection[int] = ()) -> tuple[Interval, ...]:
    """Sharper intervals for numbers V_0 <= V_1 <= ..., where V_i = V_{i+1} for each i in ``equal``.

    A lower bound holds for all that follow and all that are equal, an incumbent for all before and
    all that are equal.
    """
    sharper = []
    for i in range(len(optima)):
        first = last = i
        while first - 1 in equal:
            first -= 1
        while last in equal:
            last += 1
        low = max(v.low for v in optima[: last + 1])
        sharper.append(Interval(low, min(v.high for v in optima[first:])))
    return tuple(sharper)


def _solved(layer: Layer, search: Search, counts: Sequence[int] | None = None) -> Result:
    """The joint optimum of ``layer``, or with ``counts`` [E] the optimum of its packing."""
    from solvers import Stages, solve

    result = solve(
        layer,
        stage="joint" if counts is None else "packing",
        given=Stages(counts=counts),
        time_limit=search.time_limit,
        tolerance=search.tolerance,
        seed=search.seed,
        workers=search.workers,
    )
    if result.limit == "interrupt":
        raise KeyboardInterrupt
    return result
