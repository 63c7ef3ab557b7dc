r"""Counts and packing together in CP-SAT.

    minimize    T
    subject to  sum_k y[e,k] = 1                         one count k for every expert
                sum_g n[e,k,g] = k y[e,k]                its replicas are placed
                n[e,k,g] <= S y[e,k]
                sum_{e,k} n[e,k,g] + z[g] = S            every rank is full
                sum_{e,k} v[e,k] n[e,k,g] = t[g] <= T    v[e,k] = w_e / k
                t[g] >= t[g+1]                           ranks are interchangeable
                c_e >= c_f where w_e = w_f, e < f        so are experts of equal load
                sum_g z[g] >= number of experts without load

k runs only over the window of counts that the incumbent's makespan leaves
(:func:`eplb_opt.bounds.closed_form.count_window`), which is what makes the model small. With
``spread_replicas`` every n[e,k,g] is at most 1. Experts without load are one class z: they fill
slots and weigh nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import cycle, islice, pairwise

from ortools.sat.python import cp_model

from eplb_opt.bounds.closed_form import Window
from eplb_opt.problem.layer import Layer
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.engines import cp_sat
from solvers.engines.outcome import with_outcome
from solvers.formulations.count_window import choices, window_below
from solvers.local_search.start import first_bracket
from solvers.model_size import require_size
from solvers.options import Budget, OutOfBudgetError
from solvers.scaling import Scale, scale_for


def solve_joint(layer: Layer, budget: Budget, initial: tuple[int, ...] | None = None) -> Bracket:
    """Best placement of one layer under the global rule, with a proven bound.

    ``initial`` [P] is a placement to start from; if it is worse, the greedy placement is.
    """
    known = first_bracket(layer, initial)
    if known.closed:
        return known
    window = window_below(layer, known.incumbent)
    try:
        model = _Model(layer, window, budget)
        scale = scale_for(layer, range(1, max(window.least) + window.spare + 1))
        model.bound(scale, known.bound, known.incumbent)
    except OutOfBudgetError:
        return replace(known, limit=budget.limit)
    outcome = cp_sat.run(model.model, budget)
    found = None if outcome.value is None else value(layer, model.phy2log(outcome.value))
    return with_outcome(known, outcome, found, scale.unit, "cp-sat")


class _Model:
    """One short method per family of constraints."""

    def __init__(self, layer: Layer, window: Window, budget: Budget) -> None:
        self.model = cp_model.CpModel()
        self.layer, self.budget = layer, budget
        self.ranks, self.S = range(layer.topology.num_ranks), layer.topology.slots_per_rank
        counts = choices(layer, window)
        cells = sum(map(len, counts.values())) * len(self.ranks)
        require_size("cp-sat", cells, 5 * cells)
        self.choices = [(e, k) for e, own in counts.items() for k in own]
        self.y = {choice: self.model.new_bool_var("") for choice in self.choices}
        self.n = {choice: self._replicas_by_rank(*choice) for choice in self.choices}
        self._one_count_for_every_expert()
        self._every_replica_is_placed()
        self._equal_experts_are_ordered()
        self.empty = self._every_rank_is_full()

    def _replicas_by_rank(self, _expert: int, count: int) -> list[cp_model.IntVar]:
        self.budget.spend(len(self.ranks))
        return [self.model.new_int_var(0, self._most(count), "") for _ in self.ranks]

    def _most(self, count: int) -> int:
        """The most replicas of an expert with ``count`` of them on one rank."""
        return 1 if self.layer.spread_replicas else min(self.S, count)

    def _one_count_for_every_expert(self) -> None:
        for chosen in self._counts_of().values():
            self.model.add_exactly_one(y for _, y in chosen)

    def _counts_of(self) -> dict[int, list[tuple[int, cp_model.IntVar]]]:
        """The choices of each expert, each with its count."""
        found = dict[int, list[tuple[int, cp_model.IntVar]]]()
        for (e, k), y in self.y.items():
            found.setdefault(e, []).append((k, y))
        return found

    def _every_replica_is_placed(self) -> None:
        for (e, k), placed in self.n.items():
            self.budget.spend(2 * len(placed))
            self.model.add(cp_model.LinearExpr.sum(placed) == k * self.y[e, k])
            for n in placed:
                self.model.add(n <= self._most(k) * self.y[e, k])

    def _equal_experts_are_ordered(self) -> None:
        loads = self.layer.loads
        count = {e: sum(k * y for k, y in chosen) for e, chosen in self._counts_of().items()}
        for e, f in pairwise(sorted(count, key=lambda e: (loads[e], e))):
            if loads[e] == loads[f]:
                self.model.add(count[e] >= count[f])

    def _every_rank_is_full(self) -> list[cp_model.IntVar]:
        """The slots of each rank that experts without load fill; these are needed once each."""
        zeros = self.layer.loads.count(0)
        most = min(self.S, zeros) if self.layer.spread_replicas or not zeros else self.S
        empty = [self.model.new_int_var(0, most, f"z[{g}]") for g in self.ranks]
        self.model.add(sum(empty) >= zeros)
        for g in self.ranks:
            self.budget.spend(len(self.n))
            placed = cp_model.LinearExpr.sum([row[g] for row in self.n.values()])
            self.model.add(placed + empty[g] == self.S)
        return empty

    def bound(self, scale: Scale, lower: Fraction, upper: Fraction) -> None:
        """Minimize the makespan, which is between ``lower`` and ``upper`` tokens."""
        highest = scale.down(upper)
        makespan = self.model.new_int_var(scale.up(lower) if scale.exact else 0, highest, "T")
        rank_load = [self.model.new_int_var(0, highest, f"t[{g}]") for g in self.ranks]
        loads = [scale.replica(self.layer, e, k) for e, k in self.choices]
        for g in self.ranks:
            self.budget.spend(len(self.n))
            load = cp_model.LinearExpr.weighted_sum([row[g] for row in self.n.values()], loads)
            self.model.add(load == rank_load[g])
            self.model.add(rank_load[g] <= makespan)
        for g in self.ranks[1:]:
            self.model.add(rank_load[g - 1] >= rank_load[g])
        self.model.minimize(makespan)

    def phy2log(self, value: Callable[[cp_model.IntVar], int]) -> tuple[int, ...]:
        """The placement [P] of a solution; experts without load fill the rest in turn."""
        zeros = cycle(e for e, w in enumerate(self.layer.loads) if not w)
        phy2log: list[int] = []
        for g in self.ranks:
            phy2log += [e for e, k in self.choices for _ in range(value(self.n[e, k][g]))]
            phy2log += islice(zeros, value(self.empty[g]))
        return tuple(phy2log)
