"""The extensive forms of :mod:`solvers.formulations.steps` as mixed-integer programs, in floats.

Flows and shares are continuous, so all three dispatch rules have one. The solver's bound is lowered
by a tolerance; under ``even`` and ``optimal`` dispatch the optimum is a multiple of a known unit,
to which it is then raised. Under ``fixed`` it is a multiple of nothing, and the bound stays below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost, Dispatch
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import layer_violation
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.engines import mip
from solvers.engines.outcome import with_outcome
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


def solve_joint(
    layer: Layer,
    cost: Cost,
    budget: Budget,
    initial: tuple[int, ...] | None = None,
    counts: Sequence[int] | None = None,
    *,
    backend: str,
) -> Bracket:
    """Best placement over several steps; bounds in the solver's floats.

    Args:
        layer: under any rule.
        cost: any.
        budget: seconds and work.
        initial: [P] a placement to start from.
        counts: [E] of all placements that are considered, under ``even`` dispatch.
        backend: one of :data:`solvers.engines.mip.ENGINES`.

    Raises:
        ValueError: the model is too large.
    """
    known = first_over_steps(layer, cost, initial, counts)
    if known.closed:
        return known
    windows = None
    if model_cost(cost, layer).dispatch == Dispatch.EVEN:
        windows = count_windows(layer, cost.objective, ceiling(layer, cost, known), counts)
        if windows is None:
            return known.without_better("counts")
    try:
        model = _Model(layer, cost, windows, backend, budget)
    except OutOfBudgetError:
        return replace(known, limit=budget.limit)
    while True:
        outcome = mip.run(model.program, backend, budget)
        if outcome.infeasible and known.value is None:
            return known.without_better(backend)
        phy2log = None if outcome.value is None else model.placement(outcome.value)
        found = None
        if phy2log is not None and layer_violation(layer, phy2log) is None:
            within = within_limit(layer, phy2log, cost)  # not so where it was rounded
            found = value(layer, phy2log, *cost) if within else None
        known = with_outcome(known, outcome, found, model.unit, backend, in_floats=True)
        if outcome.value is None or outcome.limit or not model.correct_homes(outcome.value):
            return known


class _Model:
    """One short method per family of constraints; variables are indices in the program."""

    def __init__(
        self,
        layer: Layer,
        cost: Cost,
        windows: dict[int, range] | None,
        backend: str,
        budget: Budget,
    ) -> None:
        self.layer, self.budget, self.windows = as_groups(layer), budget, windows
        self.dispatch = model_cost(cost, layer).dispatch
        self.homes: homes.Homes | None = None
        self.at_home = self.layer.rule == Rule.HOME
        self.limits_shares = homes.limits_shares(layer, self.dispatch)
        self.terms = Terms.of(cost.objective, len(cost.objective.loads_of(layer)))
        steps = loads_with_tokens(layer, cost.objective)
        parts = self._parts(sum(map(sum, steps)))
        self.scale = scale_over_steps(layer, steps, parts, self.terms, mip.LARGEST_SUM)
        self.steps = [[Fraction(w * layer.unit, self.scale.unit) for w in step] for step in steps]
        topology = self.layer.topology
        self.ranks, self.S = range(topology.num_ranks), topology.slots_per_rank
        self.group_size = len(layer.loads) // topology.num_groups
        self.program = mip.Program(grid=self._grid())
        cells = len(layer.loads) * len(self.ranks) * (1 + len(steps))
        require_size(backend, cells, 4 * cells)
        self.node = self._whole_groups_on_nodes()
        self.makespans = self._objective()
        if windows is None:
            self.x = self._hold()
            self._shares() if self.dispatch == Dispatch.FIXED else self._flows()
        else:
            self._replicas(windows)

    @property
    def unit(self) -> Fraction:
        """Tokens that 1 in the objective of the program stands for."""
        return self.scale.unit / self.terms.divisor

    def _parts(self, total: int) -> int:
        """Of a load, whose multiples the makespans are; under ``fixed``, as fine as may be."""
        if self.dispatch == Dispatch.FIXED:
            return max(1, mip.LARGEST_SUM // (total * (self.terms.level + self.terms.excess)))
        if self.windows is None:
            return flow_parts(self.layer)
        return math.lcm(*{k for own in self.windows.values() for k in own})

    def _grid(self) -> int | None:
        """Parts of a unit of which the optimum is a multiple; None without such a grid."""
        whole = self.scale.exact and self.dispatch == Dispatch.OPTIMAL
        return 1 if whole or self.dispatch == Dispatch.EVEN else None

    def _whole_groups_on_nodes(self) -> list[list[int]]:
        """node[k][n]; nodes are interchangeable, so they are used in the order of their groups; not
        where homes of equal traffic differ in this order.
        """
        topology, add, free = self.layer.topology, self.program.add, self.limits_shares
        K, N = topology.num_groups, topology.num_nodes
        z = [
            [self.program.variable(int(N == 1), int(free or n <= k)) for n in range(N)]
            for k in range(K)
        ]
        for row in z:
            add([(j, 1) for j in row], 1, 1)
        for n in range(N):
            add([(row[n], 1) for row in z], K // N, K // N)
            for k in range(1, K if n and not free else 0):
                add([(z[k][n], 1), *((z[j][n - 1], -1) for j in range(k))], -math.inf, 0)
        return z

    def _on_node(self, expert: int, rank: int) -> int:
        """The variable that is 1 if the expert's group is on the rank's node."""
        return self.node[expert // self.group_size][rank // self.layer.topology.ranks_per_node]

    def _continuous(self, most: float) -> int:
        return self.program.variable(0, math.ceil(most), integral=False)

    def _objective(self) -> list[int]:
        """The makespans m_t, and the objective of them."""
        terms, add = self.terms, self.program.add
        whole = self.dispatch == Dispatch.EVEN
        tops = [math.ceil(sum(step)) for step in self.steps]
        total = self.program.variable(
            0, terms.level * max(tops) + terms.excess * sum(tops), integral=whole
        )
        self.program.objective = total
        if not terms.excess:
            return [total] * len(self.steps)
        makespans = [self._continuous(top) for top in tops]
        over = makespans
        row = [(total, 1.0)]
        if terms.level:
            eta = self._continuous(max(tops))
            over = [self._continuous(top) for top in tops]
            row.append((eta, -terms.level))
            for m, excess in zip(makespans, over, strict=True):
                add([(excess, 1), (m, -1), (eta, 1)], 0, math.inf)
        add([*row, *((excess, -terms.excess) for excess in over)], 0, math.inf)
        return makespans

    def _hold(self) -> list[list[int]]:
        """x[e][g], with every expert somewhere and every rank full of different experts."""
        experts, topology = range(len(self.layer.loads)), self.layer.topology
        add, here = self.program.add, len(experts) // (1 if self.at_home else topology.num_nodes)
        x = [[self.program.variable(0, 1) for _ in self.ranks] for _ in experts]
        for e, row in enumerate(x):
            self.budget.spend(3 * len(row))
            add([(j, 1) for j in row], 1, math.inf)
            for g in self.ranks if topology.num_nodes > 1 and not self.at_home else ():
                add([(row[g], 1), (self._on_node(e, g), -1)], -math.inf, 0)
        if self.at_home:
            held = {e: [row] for e, row in enumerate(x)}
            homes.keep_at_home(self.program, self.layer, self.node, held)
        if self.limits_shares:
            self.homes = homes.Homes(self.program, self.layer, self.node, x, mip.LARGEST_SUM)
        for g in self.ranks if self.homes is None else ():
            full = min(self.S, here)
            add([(row[g], 1) for row in x], full, full)
        heaviest = x[max(self.layer.groups[0], key=self.layer.loads.__getitem__)]
        if self.homes is None:
            add([(heaviest[0], 1)], 1, 1)  # ranks are interchangeable in a node
        else:
            for z, own in zip(self.node[0], homes.by_node(self.layer, heaviest), strict=True):
                add([(own[0], 1), (z, -1)], 0, math.inf)
        return x

    def _flows(self) -> None:
        """``optimal``: tokens of each expert to each rank at every step."""
        for step, makespan in zip(self.steps, self.makespans, strict=True):
            parts = self._serve([e for e, w in enumerate(step) if w], [(makespan, [*step])])
            self._limit(parts, step)

    def _shares(self) -> None:
        """``fixed``: the part of each expert's tokens that a rank serves."""
        loaded = [e for e, w in enumerate(self.layer.loads) if w]
        parts = self._serve(loaded, list(zip(self.makespans, self.steps, strict=True)))
        self._limit(parts, [sum(loads) for loads in zip(*self.steps, strict=True)])

    def _serve(
        self, experts: list[int], rows: list[tuple[int, list[Fraction]]]
    ) -> dict[int, list[int]]:
        """Parts of experts on ranks that hold them, summing to 1, which weigh no more on any rank
        than a makespan, for ``rows`` of (makespan, loads [E]).
        """
        add, parts = self.program.add, dict[int, list[int]]()
        for e in experts:
            self.budget.spend(4 * len(self.ranks))
            parts[e] = [self._continuous(1) for _ in self.ranks]
            add([(j, 1) for j in parts[e]], 1, 1)
            for j, x in zip(parts[e], self.x[e], strict=True):
                add([(j, 1), (x, -1)], -math.inf, 0)
        for makespan, loads in rows:
            for g in self.ranks:
                self.budget.spend(len(parts))
                served = [(own[g], -float(loads[e])) for e, own in parts.items() if loads[e]]
                add([(makespan, 1), *served], 0, math.inf)
        return parts

    def _limit(self, parts: dict[int, list[int]], loads: Sequence[Fraction]) -> None:
        """Of ``parts`` (:meth:`_serve`) of ``loads`` [E], those at home."""
        if not self.limits_shares:
            return
        add, served = self.program.add, list[tuple[int, float]]()
        for e, own in parts.items():
            for g, part in enumerate(own):
                at_home = self._continuous(1)
                add([(at_home, 1), (part, -1)], -math.inf, 0)
                add([(at_home, 1), (self._on_node(e, g), -1)], -math.inf, 0)
                served.append((at_home, float(loads[e])))
        add(served, float((1 - self.layer.traffic_limit) * sum(loads)), math.inf)

    def _replicas(self, windows: dict[int, range]) -> None:
        """``even``: n[e, k, g] of the counts k in ``windows``."""
        add, spread = self.program.add, self.layer.spread_replicas
        several = self.layer.topology.num_nodes > 1
        self.n: dict[tuple[int, int], list[int]] = {}
        for e, own in windows.items():
            chosen = [self.program.variable(0, 1) for _ in own]
            add([(y, 1) for y in chosen], 1, 1)
            for k, y in zip(own, chosen, strict=True):
                self.budget.spend(4 * len(self.ranks))
                most = 1 if spread else min(self.S, k)
                row = self.n[e, k] = [self.program.variable(0, most) for _ in self.ranks]
                add([*((j, 1) for j in row), (y, -k)], 0, 0)
                for g, j in enumerate(row):
                    add([(j, 1), (y, -most)], -math.inf, 0)
                    if several and not self.at_home:
                        add([(j, 1), (self._on_node(e, g), -most)], -math.inf, 0)
        if self.at_home:
            held = {e: [self.n[e, k] for k in own] for e, own in windows.items()}
            homes.keep_at_home(self.program, self.layer, self.node, held)
            homes.limit_replicas(self.program, self.layer, self.node, self.n, mip.LARGEST_SUM)
        self._fill_with_idle_experts(windows)
        for step, makespan in zip(self.steps, self.makespans, strict=True):
            # whole numbers: rounded down where the scale is not exact
            weights = {(e, k): math.floor(step[e] / k) for e, k in self.n}
            for g in self.ranks:
                self.budget.spend(len(self.n))
                load = [(row[g], -weights[choice]) for choice, row in self.n.items()]
                add([(makespan, 1), *load], 0, math.inf)

    def _fill_with_idle_experts(self, windows: dict[int, range]) -> None:
        """The slots of each rank that experts without load fill, one each at least on its node;
        further ones are on that node, or with homes anywhere.
        """
        add, per_node = self.program.add, self.layer.topology.ranks_per_node
        idle = [sum(e not in windows for e in group) for group in self.layer.groups]
        self.empty = [self.program.variable(0, self.S) for _ in self.ranks]
        most = 1 if self.layer.spread_replicas else self.S
        for g, slots in enumerate(self.empty):
            held = [(row[g], 1.0) for row in self.n.values()]
            add([(slots, 1), *held], self.S, self.S)
            if self.at_home:
                add([(slots, 1)], 0, most * sum(idle))
                continue
            node = [row[g // per_node] for row in self.node]
            some = [(z, -most * number) for z, number in zip(node, idle, strict=True)]
            add([(slots, 1), *some], -math.inf, 0)
        for n in range(self.layer.topology.num_nodes):
            here = self.empty[n * per_node : (n + 1) * per_node]
            needed = [(row[n], -number) for row, number in zip(self.node, idle, strict=True)]
            add([*((slots, 1) for slots in here), *needed], 0, math.inf)

    def placement(self, read: Callable[[int], int]) -> tuple[int, ...] | None:
        """The placement [P] of a solution; None if rounding broke it."""
        if self.homes is not None:
            return self.homes.placement(read)
        if self.windows is None:
            held = [[e for e, row in enumerate(self.x) if read(row[g])] for g in self.ranks]
            return fill_up(self.layer, held) if all(held) else None
        held = [
            [e for (e, _), row in self.n.items() for _ in range(read(row[g]))] for g in self.ranks
        ]
        nodes = self._nodes(read)
        if nodes is None:
            return None
        return fill_ranks(self.layer, held, [read(slots) for slots in self.empty], nodes)

    def _nodes(self, read: Callable[[int], int]) -> list[int] | None:
        """[K] the node of each group in a solution; None if rounding broke it."""
        nodes = [[read(z) for z in row] for row in self.node]
        return [row.index(1) for row in nodes] if all(row.count(1) == 1 for row in nodes) else None

    def correct_homes(self, read: Callable[[int], int]) -> bool:
        """Cut off a solution whose homes are not those of its placement; False if they are."""
        nodes, phy2log = self._nodes(read), self.placement(read)
        if self.homes is None or nodes is None or phy2log is None:
            return False
        whole = len(phy2log) == self.layer.topology.num_physical_experts
        return whole and self.homes.correct(phy2log, nodes)
