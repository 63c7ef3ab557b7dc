"""The least traffic of placements that reach a makespan, under the rule ``home`` in CP-SAT.

The model of :mod:`.cp_sat` for the sum under ``even`` dispatch with the roles of makespan and
traffic exchanged: loads of ranks are at most the makespan, and tokens served off home are
minimized. Both are whole numbers of parts of a load, so that the optimum is exact; where such parts
would be too small for 64 bits, loads are rounded down and tokens at home up, and what is proven is
a lower bound.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from eplb_opt.problem.homes import traffic
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, rank_loads
from eplb_opt.problem.validity import layer_violation
from solvers.bracket import Bracket
from solvers.engines import cp_sat
from solvers.formulations.steps import homes
from solvers.formulations.steps.cp_sat import EvenModel
from solvers.options import Budget, OutOfBudgetError


def least_traffic(layer: Layer, phy2log: tuple[int, ...], budget: Budget) -> Bracket:
    """The placement with the least traffic of those with at most the makespan of ``phy2log`` [P],
    replicas sharing alike; value and bound are parts of the tokens, not tokens.

    Args:
        layer: with load, under the rule ``home``.
        phy2log: a valid placement.
        budget: seconds and work.
    """
    here = traffic(layer, phy2log)
    known = Bracket(phy2log, here, Fraction(0), "least-traffic")
    if known.closed:
        return known
    makespan = max(rank_loads(layer, phy2log))
    try:
        model = _TrafficModel(layer.without_limit(), makespan, budget)
    except OutOfBudgetError:
        return replace(known, limit=budget.limit)
    outcome = cp_sat.run(model.model, budget)
    known = replace(known, limit=outcome.limit)
    if outcome.value is not None:
        found = model.placement(outcome.value)
        if layer_violation(layer, found) is None and max(rank_loads(layer, found)) <= makespan:
            known = known.with_placement(Bracket(found, traffic(layer, found), Fraction(0), ""))
    if outcome.bound is None:
        return known
    bound = outcome.bound * model.away_unit / (sum(layer.loads) * layer.unit)
    return known.with_bound(min(bound, known.incumbent), "cp-sat")


class _TrafficModel(EvenModel):
    """Tokens served off home, in parts of ``away_unit`` tokens."""

    def __init__(self, layer: Layer, makespan: Fraction, budget: Budget) -> None:
        """See :class:`EvenModel`; ``makespan`` is in tokens."""
        self.makespan = makespan
        above = Bracket(None, makespan + layer.unit, Fraction(0), "")
        super().__init__(layer, EVEN_SUM, above, budget, None)
        served, scale = homes.tokens_at_home(
            self.program, self.layer, self.node, self.n, homes.LARGEST_WEIGHT
        )
        self.away_unit = scale.unit
        total = scale.down(sum(layer.loads) * layer.unit)
        away = self.program.variable(0, total)
        self.program.add([(away, 1), *served], total, float("inf"))
        self.model.minimize(away)

    def improve_on(self, incumbent: Fraction) -> None:
        """No makespan above that of the placement; all are at least as large as the loads that are
        rounded down.
        """
        self.incumbent = incumbent
        self.model.add(self.total <= self.scale.down(self.makespan))
