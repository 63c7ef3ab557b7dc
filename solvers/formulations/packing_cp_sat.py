r"""Packing in CP-SAT, with identical replicas grouped.

    minimize    T
    subject to  sum_g x[i,g] = n_i               every replica of class i is placed
                sum_i x[i,g] = S                 every rank is full
                sum_i v_i x[i,g] = t[g] <= T     rank loads
                t[g] >= t[g+1]                   ranks are interchangeable

A class holds all replicas of one load v_i, whichever expert they come from: n_i of them. Experts
are handed out to the slots of their class afterwards, in any order. x[i,g] is an integer, not one
variable per replica, so no permutation of identical replicas is searched twice.

With ``spread_replicas`` a class holds the replicas of one expert, and x[i,g] <= 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ortools.sat.python import cp_model

from eplb_opt import bounds
from eplb_opt.problem.layer import Layer
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.engines import cp_sat
from solvers.engines.outcome import with_outcome
from solvers.formulations.replica_classes import ReplicaClass, deal_replicas, replica_classes
from solvers.local_search.start import largest_first
from solvers.model_size import require_size
from solvers.options import Budget, OutOfBudgetError
from solvers.scaling import scale_for


def solve_packing(layer: Layer, counts: Sequence[int], budget: Budget) -> Bracket:
    """Best packing for ``counts`` [E] under the global rule, with a proven bound."""
    start = value(layer, largest_first(layer, counts))
    known = Bracket.start(bounds.of(layer, counts=counts), [start])
    if known.closed:
        return known
    scale = scale_for(layer, counts)
    try:
        model = _Model(layer, replica_classes(layer, counts, scale), budget)
        model.bound(scale.up(known.bound) if scale.exact else 0, scale.down(known.incumbent))
    except OutOfBudgetError:
        return replace(known, limit=budget.limit)
    outcome = cp_sat.run(model.model, budget)
    found = None if outcome.value is None else value(layer, model.phy2log(outcome.value))
    return with_outcome(known, outcome, found, scale.unit, "cp-sat")


class _Model:
    """One short method per family of constraints."""

    def __init__(self, layer: Layer, classes: list[ReplicaClass], budget: Budget) -> None:
        self.model = cp_model.CpModel()
        self.classes, self.budget = classes, budget
        self.ranks = range(layer.topology.num_ranks)
        cells = len(classes) * len(self.ranks)
        require_size("cp-sat", cells, 3 * cells)
        self.S = layer.topology.slots_per_rank
        most = 1 if layer.spread_replicas else self.S
        self.x = [self._by_rank(min(most, len(c.experts))) for c in classes]
        self._every_replica_is_placed()
        self._every_rank_is_full()

    def _by_rank(self, most: int) -> list[cp_model.IntVar]:
        self.budget.spend(len(self.ranks))
        return [self.model.new_int_var(0, most, "") for _ in self.ranks]

    def _every_replica_is_placed(self) -> None:
        for c, placed in zip(self.classes, self.x, strict=True):
            self.model.add(cp_model.LinearExpr.sum(placed) == len(c.experts))

    def _every_rank_is_full(self) -> None:
        for g in self.ranks:
            self.budget.spend(len(self.x))
            self.model.add(cp_model.LinearExpr.sum([row[g] for row in self.x]) == self.S)

    def bound(self, lowest: int, highest: int) -> None:
        """Minimize the makespan, which is between ``lowest`` and ``highest``."""
        makespan = self.model.new_int_var(lowest, highest, "T")
        rank_load = [self.model.new_int_var(0, highest, f"t[{g}]") for g in self.ranks]
        for g in self.ranks:
            self.budget.spend(len(self.x))
            held, loads = [row[g] for row in self.x], [c.load for c in self.classes]
            load = cp_model.LinearExpr.weighted_sum(held, loads)
            self.model.add(load == rank_load[g])
            self.model.add(rank_load[g] <= makespan)
        for g in self.ranks[1:]:
            self.model.add(rank_load[g - 1] >= rank_load[g])
        self.model.minimize(makespan)

    def phy2log(self, value: Callable[[cp_model.IntVar], int]) -> tuple[int, ...]:
        """The placement [P] of a solution."""
        number = [[value(row[g]) for row in self.x] for g in self.ranks]
        return deal_replicas(self.classes, number)
