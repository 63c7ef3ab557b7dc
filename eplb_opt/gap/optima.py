"""What is known of the optima of one layer: exact intervals from bounds, placements and searches.

The makespan of a placement is the worst node's, and a node is a problem of its own once its block
of groups is fixed (with the rule ``global`` there is one node that takes everything). So all that
is learned is kept per *part*: a block, with the replica counts of its experts or with free counts.
Every placement of the layer is an incumbent for its parts, whoever made it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from eplb_opt import bounds
from eplb_opt.bounds.partitions import Block, bottleneck_partition
from eplb_opt.gap.loss_split import Interval
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import Limit, Result
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import over_limit
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.options import SearchOptions

NO_SEARCH = SearchOptions(time_limit=0)


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
    """Brackets of one layer's parts; they only come closer.

    Guarantee: every bracket contains the optimum that it is named for, in exact arithmetic. How
    narrow it is depends on the placements learned and on the searches made.
    """

    def __init__(self, layer: Layer, search: SearchOptions = NO_SEARCH) -> None:
        """``search`` holds the limits of every exact search, of one node or of the layer."""
        self.layer = layer if layer.rule == Rule.HIERARCHICAL else layer.without_nodes()
        self.search = search
        self._placed: dict[Part, Bracket] = {}
        self._proven: dict[Part, Bracket] = {}
        self._searched: set[Part] = set()
        self._rule_bound = bounds.of(self.layer).value

    def learn(self, phy2log: Sequence[int]) -> tuple[Part, ...]:
        """Take a valid placement ``phy2log`` [P] as incumbent; its parts, one a node."""
        slots_per_node, group_size = self.layer.topology.slots_per_node, len(self.layer.groups[0])
        parts = []
        for first in range(0, len(phy2log), slots_per_node):
            inside = phy2log[first : first + slots_per_node]
            block = tuple(sorted({e // group_size for e in inside}))
            number = {e: i for i, e in enumerate(self.layer.experts_of(block))}
            count = Counter(inside)
            part = Part(block, tuple(count[e] for e in number))
            found = value(self.layer.node_problem(block), [number[e] for e in inside])
            self._record(part, found)
            parts.append(part)
        return tuple(parts)

    def interval(self, parts: Sequence[Part]) -> Interval:
        """The optimum of the layer when its nodes have these learned parts: the worst of theirs."""
        known = [self._bracket(part) for part in parts]
        return Interval(max(b.bound for b in known), max(b.incumbent for b in known))

    def has_placement(self) -> bool:
        """Whether a placement is known; a search makes one if it can."""
        if not self._placed and (found := _solve(self.layer, self.search).placement) is not None:
            self.learn(found)
        return bool(self._placed)

    def under_rule(self) -> Interval:
        """The optimum over everything that the layer's rule allows; one placement is needed."""
        free = {p.block: b.incumbent for p, b in self._placed.items() if p.counts is None}
        _, blocks = bottleneck_partition(free, self.layer.topology.num_groups)
        return Interval(self._rule_bound, max(free[block] for block in blocks))

    def sharpen(self, parts: Sequence[Part]) -> None:
        """Search the parts that can decide ``interval(parts)``, each once, worst first.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the search.
        """
        while self._is_open(now := self.interval(parts)):
            left = [
                part
                for part in parts
                if part not in self._searched and self._placed[part].incumbent > now.low
            ]
            if not left:
                return
            worst = max(left, key=lambda part: self._placed[part].incumbent)
            self._searched.add(worst)
            problem = self.layer.node_problem(worst.block)
            result = _solve(problem, self.search, worst.counts)
            known = self._bracket(worst)
            self._proven[worst] = known.with_bound(result.lower_bound, result.bound_source)
            if result.placement is not None and result.counts is not None:
                found = Part(worst.block, result.counts)
                self._record(found, value(problem, result.placement))

    def sharpen_rule(self) -> None:
        """Search the optimum under the layer's rule.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the search.
        """
        if not self._is_open(self.under_rule()):
            return
        result = _solve(self.layer, self.search)
        self._rule_bound = max(self._rule_bound, result.lower_bound)
        if result.placement is not None:
            self.learn(result.placement)

    def _is_open(self, optimum: Interval) -> bool:
        return self.search.asks_for(optimum.high, optimum.low)

    def _record(self, part: Part, found: Bracket) -> None:
        """A placement with these counts is one with free counts, too."""
        for known in (part, part.free):
            self._placed[known] = self._placed.get(known, found).with_placement(found)

    def _bracket(self, part: Part) -> Bracket:
        """What is known of a learned part; its closed-form bound is computed when first asked."""
        if part not in self._proven:
            bound = bounds.of(self.layer.node_problem(part.block), counts=part.counts)
            self._proven[part] = Bracket.start(bound, [])
        return self._proven[part].with_placement(self._placed[part])


class HomeOptimum:
    """The bracket of one layer's optimum under the rule ``home``, which no nodes' problems make."""

    def __init__(self, layer: Layer, search: SearchOptions = NO_SEARCH) -> None:
        """``search`` holds the limits of the exact search."""
        self.layer, self.search = layer, search
        self._known = Bracket.start(bounds.of(layer), [])

    def learn(self, phy2log: Sequence[int]) -> None:
        """Take a valid placement ``phy2log`` [P] as incumbent, if the limit of traffic allows it
        where replicas share alike.
        """
        if over_limit(self.layer, phy2log) is None:
            self._known = self._known.with_placement(value(self.layer, phy2log))

    def under_rule(self) -> Interval:
        """The optimum; one placement is needed."""
        return Interval(self._known.bound, self._known.incumbent)

    def sharpen_rule(self) -> None:
        """Search the optimum.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the search.
        """
        known = self._known
        if not self.search.asks_for(known.incumbent, known.bound):
            return
        result = _solve(self.layer, self.search)
        self._known = known.with_bound(result.lower_bound, result.bound_source)
        if result.placement is not None:
            self.learn(result.placement)


def optima_of(layer: Layer, search: SearchOptions) -> Optima | HomeOptimum:
    """What learns of the optimum under the layer's rule."""
    home = layer.rule == Rule.HOME and layer.topology.num_nodes > 1
    return HomeOptimum(layer, search) if home else Optima(layer, search)


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


def _solve(layer: Layer, search: SearchOptions, counts: Sequence[int] | None = None) -> Result:
    """The joint optimum of ``layer``, or with ``counts`` [E] the optimum of its packing."""
    from solvers import Stages, solve

    result = solve(
        layer,
        stage="joint" if counts is None else "packing",
        given=Stages(counts=counts),
        search=search,
    )
    if result.limit == Limit.INTERRUPT:
        raise KeyboardInterrupt
    return result
