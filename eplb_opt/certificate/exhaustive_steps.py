"""Redo an exhaustive search over several steps: no placement of a small layer costs less than B.

A second implementation in plain Python and numpy that shares nothing with the solvers, for every
objective, dispatch and rule. Experts are placed in turn, the heaviest first, each on every set of
ranks (under even dispatch, with every number of replicas there) that leaves slots for the others.
A branch ends where the makespans so far already cost B: of each step the fullest rank, or under
other dispatch the fullest set of ranks that experts cannot leave, and never less than the mean.
Ranks that hold the same experts so far, and nodes that hold none, are interchangeable.

Under the rule ``home`` the first expert of a group chooses its home, and every expert has a replica
there. A limit of traffic is kept under even dispatch, where some homes within it are enough. Under
optimal dispatch complete placements keep it with any homes, and not only with those of least
traffic; under fixed dispatch over several steps there is none. If that leaves a placement below the
bound, nothing is known.

Under ``optimal`` and ``fixed`` a placement costs no more with more ranks for an expert: only those
with as many different experts on every rank as there can be are looked at. ``fixed`` costs no less
than ``optimal``; where that stays below B, an exact linear program over the steps decides
(:mod:`eplb_opt.certificate.shares`). Its prices bound other placements, too: every expert takes its
cheapest rank, of all ranks if it is not placed yet. The last ones are tried first.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError, product_cost
from eplb_opt.certificate.closed_form import common_multiple
from eplb_opt.certificate.limited import limited_makespans
from eplb_opt.certificate.problem import cost_over, fitting
from eplb_opt.certificate.shares import prices_that_reach
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost, Dispatch, Objective
from eplb_opt.problem.rationals import Integers
from eplb_opt.problem.topology import Rule

DEEPEST = 60
"""Experts and ranks up to which they are gone through by recursion."""
LARGEST_TABLE = 2**18
"""Words of 64 bits of a table of the makespans so far; there is one for each expert placed."""
PRICES = 8
"""Prices that are remembered."""
Choice = tuple[tuple[int, int], ...]
"""(rank, replicas there), by rank."""


def placement_below(
    layer: Layer,
    bound: Fraction,
    cost: Cost,
    counts: Sequence[int] | None,
    budget: CheckBudget,
) -> bool:
    """Whether a placement (with ``counts`` [E]) costs less than ``bound`` tokens; exact.

    Raises:
        TooLargeToCheckError: it would take too long to find out.
    """
    if max(len(layer.loads), layer.topology.num_ranks) > DEEPEST:
        raise TooLargeToCheckError(f"more than {DEEPEST} experts or ranks")
    found = _Search(layer, bound, cost, counts, budget).run()
    if found and layer.traffic_limit < 1 and cost.dispatch != Dispatch.EVEN:
        raise TooLargeToCheckError("a placement below may have other homes, or more traffic")
    return found


class _Search:
    def __init__(
        self,
        layer: Layer,
        bound: Fraction,
        cost: Cost,
        counts: Sequence[int] | None,
        budget: CheckBudget,
    ) -> None:
        self.layer, self.counts, self.budget = layer, counts, budget
        self.even = even = cost.dispatch == Dispatch.EVEN
        self.makespans = (_Even if even else _Best)(layer, cost.objective, bound, budget)
        self.fixed = cost.dispatch == Dispatch.FIXED and len(self.makespans.loads) > 1
        self.limited = layer.traffic_limit < 1 and not even
        self.home = layer.rule == Rule.HOME
        nodes = layer.topology.num_nodes if layer.rule != Rule.GLOBAL else 1
        self.per_node = layer.topology.num_ranks // nodes
        of_node = len(layer.loads) // nodes
        self.distinct = layer.spread_replicas or not even
        slots_per_rank = layer.topology.slots_per_rank
        if not even:
            slots_per_rank = min(slots_per_rank, len(layer.loads) if self.home else of_node)
        self.free = [slots_per_rank] * layer.topology.num_ranks
        self.left = [of_node] * nodes
        """Experts that each node still takes, or is home to."""
        self.away = Fraction(0)
        """Tokens served off home, under even dispatch, of those that may be."""
        self.allowed = layer.traffic_limit * sum(layer.loads)
        self.order = sorted(range(len(layer.loads)), key=lambda e: -layer.loads[e])
        self.group_size = len(layer.loads) // (layer.topology.num_groups if nodes > 1 else 1)
        self.room = [of_node // self.group_size] * nodes
        """Groups that each node still takes."""
        self.node_of: dict[int, int] = {}
        self.unplaced = len(self.order)
        self.held: list[list[tuple[int, int]]] = [[] for _ in self.free]
        """On each rank, (expert, replicas)."""
        self.ranks: list[Sequence[int]] = [range(len(self.free))] * len(layer.loads)
        """That each expert may be on."""
        self.worths: list[tuple[list[list[int]], int]] = []
        """Under ``fixed``: what experts pay on ranks [E][G], and what all must pay together."""

    def run(self) -> bool:
        return self._place(0, self.makespans.start)

    def _place(self, i: int, table: Integers) -> bool:
        """Whether the experts from the i-th on can be placed below the bound."""
        self.budget.charge(self.makespans.cost)
        if not self.makespans.below(table):
            return False
        if self.fixed and self._prices_reach():
            return False
        if i == len(self.order):
            if self.fixed:
                return not self._shares_reach()
            return not self.limited or self._is_below_within_limit()
        expert = self.order[i]
        group = expert // self.group_size
        known = self.node_of.get(group)
        for node in self._nodes(group):
            self.node_of[group] = node
            self.room[node] -= known is None
            self.left[node] -= 1
            self.unplaced -= 1
            found = any(
                self._try(i, expert, choice, table) for choice in self._choices(expert, node)
            )
            self.left[node] += 1
            self.unplaced += 1
            self.room[node] += known is None
            if found:
                return True
        if known is None:
            del self.node_of[group]
        return False

    def _try(self, i: int, expert: int, choice: Choice, table: Integers) -> bool:
        away = self._tokens_away(expert, choice)
        if self.away + away > self.allowed:
            return False
        self.away += away
        for g, replicas in choice:
            self.free[g] -= replicas
            self.held[g].append((expert, replicas))
        free, self.ranks[expert] = self.ranks[expert], [g for g, _ in choice]
        found = self._place(i + 1, self.makespans.add(table, expert, choice))
        for g, replicas in choice:
            self.free[g] += replicas
            self.held[g].pop()
        self.ranks[expert] = free
        self.away -= away
        return found

    def _tokens_away(self, expert: int, choice: Choice) -> Fraction:
        """That a limit under even dispatch counts."""
        if not self.even or self.allowed == sum(self.layer.loads):
            return Fraction(0)
        node = self.node_of[expert // self.group_size]
        off = sum(n for g, n in choice if g // self.per_node != node)
        return Fraction(self.layer.loads[expert] * off, sum(n for _, n in choice))

    def _nodes(self, group: int) -> list[int]:
        """Those that may take ``group``: of empty ones the first."""
        if group in self.node_of:
            return [self.node_of[group]]
        full = len(self.layer.loads) // len(self.room) // self.group_size
        nodes = [n for n, room in enumerate(self.room) if room]
        empty = [n for n in nodes if self.room[n] == full and not self._holds(n)]
        return [n for n in nodes if n not in empty[1:]]

    def _holds(self, node: int) -> bool:
        return any(self.held[node * self.per_node : (node + 1) * self.per_node])

    def _choices(self, expert: int, node: int) -> Iterator[Choice]:
        """All ways to place an expert on a node that leave its other experts a slot each, and no
        slot that they cannot fill.
        """
        ranks = range(node * self.per_node, (node + 1) * self.per_node)
        left = self.left[node]
        if self.home:
            ranks, left = range(len(self.free)), self.unplaced
        total = sum(self.free[g] for g in ranks)
        most = total - left
        if self.counts is not None:
            most = min(most, self.counts[expert])
        fewest = 1 if self.counts is None else self.counts[expert]
        if not left:
            fewest = max(fewest, total)
        elif self.distinct:
            fewest = max(fewest, total - left * len(ranks))
        for choice in self._spread(list(ranks), 0, fewest, most, ()):
            if not self.home or self._keeps_homes(node, choice):
                yield choice

    def _keeps_homes(self, node: int, choice: Choice) -> bool:
        """Whether the expert is at home on ``node``, and every node has slots for its others."""
        self.budget.charge(1 + len(self.free) // 8)
        free = [0] * len(self.left)
        for g, slots in enumerate(self.free):
            free[g // self.per_node] += slots
        for g, n in choice:
            free[g // self.per_node] -= n
        at_home = any(g // self.per_node == node for g, _ in choice)
        return at_home and all(map(operator.ge, free, self.left))

    def _spread(
        self, ranks: list[int], at: int, fewest: int, most: int, chosen: Choice
    ) -> Iterator[Choice]:
        """From the at-th rank on, ``fewest`` to ``most`` more replicas."""
        self.budget.charge(4)
        if at == len(ranks):
            if fewest <= 0:
                yield chosen
            return
        g = ranks[at]
        here = min(most, self.free[g], 1 if self.distinct else most)
        alike = at and g // self.per_node == ranks[at - 1] // self.per_node
        if alike and self.held[g] == self.held[ranks[at - 1]]:
            here = min(here, chosen[-1][1] if chosen and chosen[-1][0] == ranks[at - 1] else 0)
        least = 0
        if self.distinct:  # others fill no more than one slot of a rank each
            left = self.unplaced if self.home else self.left[g // self.per_node]
            least = max(0, self.free[g] - left)
        for n in range(here, least - 1, -1):
            more = (*chosen, (g, n)) if n else chosen
            yield from self._spread(ranks, at + 1, fewest - n, most - n, more)

    def _is_below_within_limit(self) -> bool:
        """Whether the placement that is now complete stays below the bound with these homes, each
        step under the limit of traffic.
        """
        node = (1 << self.per_node) - 1
        held = [sum(1 << g for g in ranks) for ranks in self.ranks]
        off_home = [
            ~(node << self.node_of[e // self.group_size] * self.per_node) for e in range(len(held))
        ]
        loads, budget = self.makespans.loads, self.budget
        found = limited_makespans(self.layer, held, off_home, loads, None, budget)
        cost = cost_over(self.makespans.objective, found, budget)
        return cost * self.layer.unit < self.makespans.bound

    def _prices_reach(self) -> bool:
        """Whether prices of another placement prove the bound for this one, complete or not."""
        for k, (worth, needed) in enumerate(self.worths):
            self.budget.charge(2 + len(worth) // 2)
            paid = sum(
                min([row[g] for g in ranks]) for row, ranks in zip(worth, self.ranks, strict=True)
            )
            if paid >= needed:
                self.worths.insert(0, self.worths.pop(k))
                return True
        return False

    def _shares_reach(self) -> bool:
        """Whether no shares of the placement that is now complete stay below the bound."""
        limit, loads = self.makespans.limit, self.makespans.loads
        found = prices_that_reach(
            limit, loads.tolist(), self.ranks, self.makespans.weights, self.budget
        )
        if found is None:
            return False
        prices, divisor = found
        self.budget.charge(loads.size * len(self.free) * product_cost(divisor.bit_length(), 64))
        columns = list(zip(*loads.tolist(), strict=True))
        worth = [
            [sum(map(operator.mul, column, price)) for price in zip(*prices, strict=True)]
            for column in columns
        ]
        self.worths = [(worth, math.ceil(limit * divisor)), *self.worths[: PRICES - 1]]
        return True


class _Makespans:
    """Makespans of a partial placement, in a table [T, columns] of integers whose rows' maxima they
    are, in grains of ``unit / scale``.

    Attributes:
        objective: over the steps.
        bound: tokens that are not to be reached.
        loads: [T, E] in the unit of the layer.
        weights: of the makespans from the largest on, integers.
        limit: sum of weights times makespans, in the unit of the layer, that is not to be reached.
    """

    def __init__(
        self, layer: Layer, objective: Objective, bound: Fraction, scale: int, columns: int,
        budget: CheckBudget,
    ) -> None:  # fmt: skip
        self.objective, self.bound = objective, bound
        self.loads = objective.loads_of(layer)
        steps, experts = self.loads.shape
        budget.charge(8 * steps)
        self.weights, parts = _falling_weights(objective, steps)
        self.table = fitting(self.loads, experts * scale * parts)
        wide = self.table.dtype == object
        longest = int(self.loads.max(initial=0)).bit_length()
        words = 5 + (longest + scale.bit_length()) // 64 if wide else 1
        if steps * columns * words > LARGEST_TABLE:
            raise TooLargeToCheckError(f"{steps} steps and {columns} sets of ranks")
        budget.charge(
            self.loads.size * product_cost(longest, scale.bit_length())
            + product_cost(layer.unit.denominator.bit_length(), bound.denominator.bit_length())
        )
        self.limit = bound / layer.unit * parts
        self.scaled_limit = math.ceil(self.limit * scale)
        self.weight_row = np.array(self.weights, dtype=self.table.dtype)
        self.cost = 40 + steps * columns * (1 + (longest + parts.bit_length()) // 1024) // (
            8 if wide else 200
        )
        """Units for looking at one partial placement."""

    def below(self, table: Integers) -> bool:
        """Whether it costs less than the bound so far."""
        falling = np.sort(table.max(axis=1))[::-1]
        return int((falling * self.weight_row).sum()) < self.scaled_limit


class _Even(_Makespans):
    """A column for each rank, and one for the mean."""

    def __init__(
        self, layer: Layer, objective: Objective, bound: Fraction, budget: CheckBudget
    ) -> None:
        ranks = layer.topology.num_ranks
        self.scale = math.lcm(common_multiple(layer.most_replicas, budget), ranks)
        super().__init__(layer, objective, bound, self.scale, ranks + 1, budget)
        self.start: Any = np.zeros((len(self.table), ranks + 1), dtype=self.table.dtype)
        self.start[:, ranks] = self.table.sum(axis=1) * (self.scale // ranks)

    def add(self, table: Integers, expert: int, choice: Choice) -> Integers:
        replica = self.table[:, expert] * (self.scale // sum(n for _, n in choice))
        table = table.copy()
        for g, n in choice:
            table[:, g] += replica * n
        return table


class _Best(_Makespans):
    """A column for each set of ranks: the tokens of the experts inside over its size."""

    def __init__(
        self, layer: Layer, objective: Objective, bound: Fraction, budget: CheckBudget
    ) -> None:
        ranks = layer.topology.num_ranks
        if ranks > LARGEST_TABLE.bit_length():
            raise TooLargeToCheckError(f"{ranks} ranks")
        scale, self.sets = math.lcm(*range(1, ranks + 1)), np.arange(1 << ranks)
        super().__init__(layer, objective, bound, scale, len(self.sets), budget)
        factors = [0, *(scale // k for k in range(1, ranks + 1))]
        listed = [factors[u.bit_count()] for u in range(len(self.sets))]
        self.factor: NDArray[Any] = np.array(listed, dtype=self.table.dtype)
        self.start: Any = np.zeros((len(self.table), len(self.sets)), dtype=self.table.dtype)
        self.start[:, -1] = self.table.sum(axis=1) * (scale // ranks)

    def add(self, table: Integers, expert: int, choice: Choice) -> Integers:
        """The set of all ranks has all experts from the start."""
        mask = sum(1 << g for g, _ in choice)
        inside = np.flatnonzero(self.sets[:-1] & mask == mask)
        table = table.copy()
        table[:, inside] += self.table[:, expert, None] * self.factor[inside]
        return table


def _falling_weights(objective: Objective, steps: int) -> tuple[list[int], int]:
    """Weights of the largest makespan, the next, ..., and their sum: integers in the same ratios as
    those of the objective.
    """
    weights = objective.weights([Fraction(steps - t) for t in range(steps)])
    common = math.lcm(*(weight.denominator for weight in weights))
    found = [int(weight * common) for weight in weights]
    return found, sum(found)
