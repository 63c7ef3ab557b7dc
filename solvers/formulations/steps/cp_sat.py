"""The extensive forms of :mod:`solvers.formulations.steps` in CP-SAT, for ``even`` and ``optimal``.

All is integer: replicas weigh multiples of 1 / lcm(counts), flows are multiples of 1 / lcm(1..G)
(:mod:`solvers.dispatch`); shares of ``fixed`` dispatch are not. Only placements that are better
than the one at hand are asked for, so "infeasible" means that it is optimal. That holds where loads
had to be rounded down, too: what cannot be reached with less load cannot be reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from ortools.sat.python import cp_model

from eplb_opt import bounds
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost, Dispatch
from eplb_opt.problem.rationals import integer_array
from eplb_opt.problem.topology import Rule
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.engines import cp_sat
from solvers.engines.outcome import Outcome
from solvers.formulations.steps import homes
from solvers.formulations.steps.linear import (
    Terms,
    count_windows,
    fill_ranks,
    fill_up,
    flow_parts,
    loads_with_tokens,
    model_cost,
    scale_over_steps,
)
from solvers.local_search.steps import as_groups, ceiling, first_over_steps, within_limit
from solvers.model_size import require_size
from solvers.options import Budget, OutOfBudgetError

Read = Callable[[cp_model.IntVar], int]
Number = cp_model.IntVar | int
Linear = cp_model.LinearExprT


def solve_joint(
    layer: Layer,
    cost: Cost,
    budget: Budget,
    initial: tuple[int, ...] | None = None,
    counts: Sequence[int] | None = None,
) -> Bracket:
    """Best placement over several steps, with a bound that rests on CP-SAT's word.

    Args:
        layer: under any rule.
        cost: with ``even`` or ``optimal`` dispatch; ``fixed`` for one step.
        budget: seconds and work.
        initial: [P] a placement to start from.
        counts: [E] of all placements that are considered, under ``even`` dispatch.

    Raises:
        ValueError: the model is too large.
    """
    known = first_over_steps(layer, cost, initial, counts)
    if known.closed:
        return known
    try:
        if model_cost(cost, layer).dispatch == Dispatch.EVEN:
            model: Model = EvenModel(layer, cost, known, budget, counts)
        else:
            model = FlowModel(layer, cost, known, budget)
        while True:
            outcome = cp_sat.run(model.model, budget)
            known = model.take(known, outcome)
            if outcome.value is None or outcome.limit or not model.correct_homes(outcome.value):
                return known
            model.improve_on(ceiling(layer, cost, known))
    except OutOfBudgetError:
        return replace(known, limit=budget.limit)
    except NothingBetterError:
        return known.without_better("cp-sat")


class NothingBetterError(Exception):
    """The counts show that no placement is better."""


class Rows:
    """CP-SAT's model, row by row (:class:`.homes.Rows`)."""

    def __init__(self, model: cp_model.CpModel) -> None:
        """See the class."""
        self.model = model

    def variable(self, lower: int, upper: int) -> cp_model.IntVar:
        """A new integer variable."""
        return self.model.new_int_var(lower, upper, "")

    def add(self, terms: homes.Terms, low: float, high: float) -> None:
        """``low <= sum of coefficient * variable <= high``; variables may be numbers."""
        total = sum(int(coefficient) * variable for variable, coefficient in terms)
        if low != -math.inf:
            self.model.add(total >= int(low))
        if high != math.inf:
            self.model.add(total <= int(high))


class Model:
    """The rule and the objective; one short method per family of constraints.

    Attributes:
        layer: under its rule for groups (the global one is hierarchical with a single node).
        steps: [T][E] loads of the steps that have any.
        node: z[k][n].
        program: the model, row by row.
        homes: where shares are limited.
        slack: by how much rounding may raise the objective of a placement.
    """

    def __init__(
        self, layer: Layer, cost: Cost, known: Bracket, budget: Budget, parts: int
    ) -> None:
        """A model for placements better than ``known``, with loads in parts of 1 / ``parts``."""
        self.model = cp_model.CpModel()
        self.layer, self.asked, self.budget = as_groups(layer), layer, budget
        self.cost, self.incumbent = cost, ceiling(layer, cost, known)
        self.program, self.slack = Rows(self.model), 0
        self.homes: homes.Homes | None = None
        self.at_home = self.layer.rule == Rule.HOME
        self.limits_shares = homes.limits_shares(layer, model_cost(cost, layer).dispatch)
        self.steps = loads_with_tokens(layer, cost.objective)
        self.terms = Terms.of(cost.objective, len(cost.objective.loads_of(layer)))
        self.scale = scale_over_steps(layer, self.steps, parts, self.terms)
        topology = self.layer.topology
        self.ranks, self.S = range(topology.num_ranks), topology.slots_per_rank
        self.group_size = len(layer.loads) // topology.num_groups
        self.node = self._whole_groups_on_nodes()
        self.total: Linear = 0

    @property
    def unit(self) -> Fraction:
        """Tokens that 1 in the objective of the model stands for."""
        return self.scale.unit / self.terms.divisor

    def _whole_groups_on_nodes(self) -> list[list[Number]]:
        """node[k][n]; nodes are interchangeable, so they are used in the order of their groups; not
        where homes of equal traffic differ in this order.
        """
        topology, free = self.layer.topology, self.limits_shares
        K, N = topology.num_groups, topology.num_nodes
        if N == 1:
            return [[1] for _ in range(K)]
        z: list[list[Number]] = [
            [self.model.new_bool_var("") if free or n <= k else 0 for n in range(N)]
            for k in range(K)
        ]
        for row in z:
            self.model.add(sum(row) == 1)
        for n in range(N):
            self.model.add(sum(row[n] for row in z) == K // N)
            for k in range(1, K if n and not free else 0):
                self.model.add(z[k][n] <= sum(z[j][n - 1] for j in range(k)))
        return z

    def on_node(self, expert: int, rank: int) -> Number:
        """1 if the expert's group is on the rank's node."""
        return self.node[expert // self.group_size][rank // self.layer.topology.ranks_per_node]

    def floors(self) -> list[int]:
        """[T] what no makespan is below, in scaled units, by the bounds of each step alone."""
        if not self.scale.exact:
            return [0] * len(self.steps)
        dispatch = model_cost(self.cost, self.asked).dispatch
        limited = dispatch == Dispatch.OPTIMAL  # of each step alone
        machine = self.asked if limited else self.asked.without_limit()
        alone = [
            replace(machine, loads=tuple(step), steps=integer_array([step])) for step in self.steps
        ]
        return [self.scale.up(bounds.of(step, dispatch=dispatch).value) for step in alone]

    def makespans(self) -> list[Number]:
        """m_t in scaled units, of which the objective is minimized, below that of the incumbent."""
        lower = self.floors()
        terms, highest = self.terms, [self.scale.up(sum(s) * self.layer.unit) for s in self.steps]
        eta: Number = 0
        if terms.level:
            eta = self.model.new_int_var(0, max(highest), "eta")
        if not terms.excess:
            makespans: list[Number] = [eta] * len(self.steps)
            total: Linear = eta
            self.model.add(eta >= max(lower))
        else:
            makespans = [
                self.model.new_int_var(low, high, "m")
                for low, high in zip(lower, highest, strict=True)
            ]
            total = terms.level * eta
            for m, high in zip(makespans, highest, strict=True):
                over = m
                if terms.level:
                    over = self.model.new_int_var(0, high, "")
                    self.model.add(over >= m - eta)
                total += terms.excess * over
        self.total = total
        self.model.minimize(total)
        self.improve_on(self.incumbent)
        return makespans

    def improve_on(self, incumbent: Fraction) -> None:
        """Only placements below ``incumbent`` from now on."""
        self.incumbent = incumbent
        self.model.add(self.total <= math.ceil(incumbent / self.unit) - 1 + self.slack)

    def correct_homes(self, read: Read) -> bool:
        """Cut off a solution whose homes are not those of its placement; False if they are."""
        if self.homes is None:
            return False
        return self.homes.correct(self.placement(read), self.nodes(read))

    def nodes(self, read: Read) -> list[int]:
        """[K] the node of each group in a solution."""
        return [[_number(z, read) for z in row].index(1) for row in self.node]

    def take(self, known: Bracket, outcome: Outcome) -> Bracket:
        """What is known with the outcome of the search."""
        known = replace(known, limit=outcome.limit)
        if outcome.infeasible:
            return known.without_better("cp-sat")
        if outcome.value is not None:
            phy2log = self.placement(outcome.value)
            if within_limit(self.asked, phy2log, self.cost):  # not so where it was rounded
                known = known.with_placement(value(self.asked, phy2log, *self.cost))
        if outcome.bound is None:
            return known
        bound = (outcome.bound - self.slack) * self.unit
        top = ceiling(self.asked, self.cost, known)
        return known.with_bound(min(bound, top), "cp-sat")

    def placement(self, read: Read) -> tuple[int, ...]:
        """The placement [P] of a solution."""
        raise NotImplementedError


class EvenModel(Model):
    """Replica counts and replicas by rank."""

    def __init__(
        self,
        layer: Layer,
        cost: Cost,
        known: Bracket,
        budget: Budget,
        counts: Sequence[int] | None,
    ) -> None:
        """See :class:`Model`. ``counts`` [E]: of all placements, if given."""
        windows = count_windows(layer, cost.objective, ceiling(layer, cost, known), counts)
        if windows is None:
            raise NothingBetterError
        parts = math.lcm(*{k for window in windows.values() for k in window})
        super().__init__(layer, cost, known, budget, parts)
        cells = sum(map(len, windows.values())) * len(self.ranks)
        require_size("cp-sat", cells, (4 + len(self.steps)) * cells)
        self.windows = windows
        self.y = {(e, k): self.model.new_bool_var("") for e, own in windows.items() for k in own}
        self.n = {choice: self._replicas_by_rank(*choice) for choice in self.y}
        self._one_count_for_every_expert()
        self._every_replica_is_placed()
        if self.at_home:
            self._every_expert_is_at_home()
        self.empty = self._every_rank_is_full()
        self._loads()

    def _replicas_by_rank(self, _expert: int, count: int) -> list[cp_model.IntVar]:
        self.budget.spend(len(self.ranks))
        return [self.model.new_int_var(0, self._most(count), "") for _ in self.ranks]

    def _most(self, count: int) -> int:
        """The most replicas of an expert with ``count`` of them on one rank."""
        return 1 if self.layer.spread_replicas else min(self.S, count)

    def _one_count_for_every_expert(self) -> None:
        for e, own in self.windows.items():
            self.model.add_exactly_one(self.y[e, k] for k in own)

    def _every_replica_is_placed(self) -> None:
        several = self.layer.topology.num_nodes > 1
        for (e, k), placed in self.n.items():
            self.budget.spend(3 * len(placed))
            self.model.add(cp_model.LinearExpr.sum(placed) == k * self.y[e, k])
            for g, n in enumerate(placed):
                self.model.add(n <= self._most(k) * self.y[e, k])
                if several and not self.at_home:
                    self.model.add(n <= self._most(k) * self.on_node(e, g))

    def _every_expert_is_at_home(self) -> None:
        held = {e: [self.n[e, k] for k in own] for e, own in self.windows.items()}
        homes.keep_at_home(self.program, self.layer, self.node, held)
        homes.limit_replicas(self.program, self.layer, self.node, self.n, homes.LARGEST_WEIGHT)

    def _every_rank_is_full(self) -> list[cp_model.IntVar]:
        """The slots of each rank that experts without load fill, which every one needs on its
        node; further ones are on that node, or with homes anywhere.
        """
        idle = [[e for e in group if e not in self.windows] for group in self.layer.groups]
        empty = [self.model.new_int_var(0, self.S, "") for _ in self.ranks]
        per_node = self.layer.topology.ranks_per_node
        for n in range(self.layer.topology.num_nodes):
            here = empty[n * per_node : (n + 1) * per_node]
            experts = sum(len(own) * row[n] for own, row in zip(idle, self.node, strict=True))
            self.model.add(sum(here) >= experts)
            for slots in here:
                most = 1 if self.layer.spread_replicas else self.S
                self.model.add(slots <= most * (sum(map(len, idle)) if self.at_home else experts))
        for g in self.ranks:
            self.budget.spend(len(self.n))
            placed = cp_model.LinearExpr.sum([row[g] for row in self.n.values()])
            self.model.add(placed + empty[g] == self.S)
        return empty

    def _loads(self) -> None:
        """The loads of the ranks. Ranks of a node are alike: sorted by that of the first step."""
        makespans = self.makespans()
        for t, (step, makespan) in enumerate(zip(self.steps, makespans, strict=True)):
            weights = [self.scale.down(Fraction(step[e], k) * self.layer.unit) for e, k in self.n]
            loads = []
            for g in self.ranks:
                self.budget.spend(len(self.n))
                row = [placed[g] for placed in self.n.values()]
                loads.append(cp_model.LinearExpr.weighted_sum(row, weights))
                self.model.add(loads[-1] <= makespan)
            if t == 0:
                self._sort(loads)

    def _sort(self, loads: Sequence[cp_model.LinearExprT]) -> None:
        per_node = self.layer.topology.ranks_per_node
        for g in self.ranks[1:]:
            if g % per_node:
                self.model.add(loads[g - 1] >= loads[g])

    def placement(self, read: Read) -> tuple[int, ...]:
        """Replicas by rank; experts without load fill the rest."""
        held = [
            [e for (e, _), row in self.n.items() for _ in range(read(row[g]))] for g in self.ranks
        ]
        return fill_ranks(self.layer, held, [read(z) for z in self.empty], self.nodes(read))


class HeldModel(Model):
    """Which rank holds which expert: what counts under ``optimal`` and ``fixed`` dispatch."""

    def scaled(self, step: Sequence[int], parts: int) -> list[int]:
        """Loads of a step in scaled units, multiples of ``parts`` and rounded down to such where
        the scale is not exact: all makespans ``w(F) / |U|`` must be integers as the model's are.
        """
        part = self.scale.unit * parts
        return [math.floor(w * self.layer.unit / part) * parts for w in step]

    def hold(self) -> None:
        """x[e][g], with every expert somewhere and every rank full of different experts."""
        experts, topology = range(len(self.layer.loads)), self.layer.topology
        several = topology.num_nodes > 1
        here = len(experts) // (1 if self.at_home else topology.num_nodes)
        self.x = [[self.model.new_bool_var("") for _ in self.ranks] for _ in experts]
        for e, row in enumerate(self.x):
            self.budget.spend(2 * len(row))
            self.model.add_bool_or(row)
            for g in self.ranks if several and not self.at_home else ():
                self.model.add(row[g] <= self.on_node(e, g))
        if self.at_home:
            homes.keep_at_home(
                self.program, self.layer, self.node, {e: [row] for e, row in enumerate(self.x)}
            )
        if self.limits_shares:
            self.homes = homes.Homes(
                self.program, self.layer, self.node, self.x, homes.LARGEST_WEIGHT
            )
        for g in self.ranks if self.homes is None else ():
            self.budget.spend(len(experts))
            self.model.add(sum(row[g] for row in self.x) == min(self.S, here))
        self._heaviest_first()

    def _heaviest_first(self) -> None:
        """Ranks are interchangeable in a node, so the first one on the node of the first group
        holds its heaviest expert.
        """
        heaviest = self.x[max(self.layer.groups[0], key=self.layer.loads.__getitem__)]
        if self.homes is None:
            self.model.add(heaviest[0] == 1)  # the group is on node 0
        else:
            for z, x in zip(self.node[0], homes.by_node(self.layer, heaviest), strict=True):
                self.model.add(x[0] >= z)

    def placement(self, read: Read) -> tuple[int, ...]:
        """The experts that each rank holds."""
        if self.homes is not None:
            return self.homes.placement(read)
        held = [[e for e, row in enumerate(self.x) if read(row[g])] for g in self.ranks]
        return fill_up(self.layer, held)


class FlowModel(HeldModel):
    """Tokens of each expert to each rank, at every step."""

    def __init__(self, layer: Layer, cost: Cost, known: Bracket, budget: Budget) -> None:
        """See :class:`Model`."""
        ranks, parts = layer.topology.num_ranks, flow_parts(layer)
        super().__init__(layer, cost, known, budget, parts)
        if self.limits_shares and not self.scale.exact:
            # whole flows raise a makespan by less than 1, which need not be a multiple of it
            parts, self.slack = 1, self.terms.level + self.terms.excess * len(self.steps)
        cells = len(layer.loads) * ranks * (1 + len(self.steps))
        require_size("cp-sat", cells, 4 * cells)
        self.hold()
        for step, makespan in zip(self.steps, self.makespans(), strict=True):
            self._flow(self.scaled(step, parts), makespan)
            if self.limits_shares:
                self._limit(step, parts)

    def _limit(self, step: Sequence[int], parts: int) -> None:
        """What may be served off home is rounded up, as loads are rounded down."""
        limit = self.layer.traffic_limit
        grain = max(1, parts // limit.denominator)
        tokens = limit * sum(step) * self.layer.unit
        away = math.ceil(tokens / (self.scale.unit * grain)) * grain
        at_home = []
        for e, sent in self.sent.items():
            for g, served in enumerate(sent):
                at_home.append(self.program.variable(0, self.sizes[e]))
                self.model.add(at_home[-1] <= served)
                self.model.add(at_home[-1] <= self.sizes[e] * self.on_node(e, g))
        self.model.add(sum(at_home) >= sum(self.sizes) - away)

    def _flow(self, step: Sequence[int], makespan: Number) -> None:
        loads: list[list[cp_model.IntVar]] = [[] for _ in self.ranks]
        self.sizes, self.sent = step, dict[int, list[cp_model.IntVar]]()
        for e, (load, row) in enumerate(zip(step, self.x, strict=True)):
            self.budget.spend(3 * len(row))
            if not load:
                continue
            sent = self.sent[e] = [self.model.new_int_var(0, load, "") for _ in row]
            self.model.add(sum(sent) == load)
            for g, x in enumerate(row):
                self.model.add(sent[g] <= load * x)
                loads[g].append(sent[g])
        for load_of_rank in loads:
            self.model.add(sum(load_of_rank) <= makespan)


def _number(z: Number, read: Read) -> int:
    return z if isinstance(z, int) else read(z)
