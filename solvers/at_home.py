"""The strongest combination of methods for a placement under the rule ``home``.

The tree searches do not know that rule. The rules on either side of it, which they solve, give a
placement and a bound; then come local search, and models in CP-SAT or as a mixed-integer program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eplb_opt.problem.evidence import Trusted
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, Cost, Dispatch
from eplb_opt.problem.result import Limit
from eplb_opt.problem.topology import Rule
from solvers import decomposition, over_steps, portfolio
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.formulations.steps import cp_sat, cuts
from solvers.formulations.steps.linear import model_cost
from solvers.local_search.steps import first_over_steps, is_solution
from solvers.options import Budget
from solvers.over_steps import FEW_EXPERTS, SHORT, Method, Methods


def solve_joint(
    layer: Layer,
    cost: Cost,
    budget: Budget,
    initial: tuple[int, ...] | None = None,
    counts: Sequence[int] | None = None,
) -> Bracket:
    """Best constant placement and best bound over several steps, under any rule.

    Args:
        layer: the problem.
        cost: any but the sum under ``even`` dispatch; under the rule ``home`` any.
        budget: seconds and work; without a limit it ends with a proof.
        initial: [P] a placement to start from.
        counts: [E] of all placements that are considered, under ``even`` dispatch.
    """
    if layer.rule != Rule.HOME:
        return over_steps.solve_joint(layer, cost, budget, initial, counts)
    known = first_over_steps(layer, cost, initial, counts)
    return over_steps.run(_AtHome(layer, cost, counts), known, budget)


@dataclass(frozen=True)
class _AtHome(Methods):
    """Under the rule ``home``."""

    def plan(self, budget: Budget) -> list[tuple[Method, float, int | None]]:
        """The tree search does not know the rule ``home``, so it solves the rules on either side,
        for a placement and a bound; then local search, and models.
        """
        whole, few = self.all_at_home, self.layer.num_logical_experts <= FEW_EXPERTS
        plan: list[tuple[Method, float, int | None]] = [
            (self.raise_bound, 1.0, None),
            (self.keep_groups, 1.0 if whole else 0.1, None if whole else SHORT),
            (self.leave_homes, 0.1, SHORT),
            (self.improve, 0.2 if few else 0.7, SHORT // 100 if few and budget.limited else None),
        ]
        dispatch = model_cost(self.cost, self.layer).dispatch
        if dispatch == Dispatch.FIXED and budget.seconds is not None:
            plan.append((self.solve_program, 0.6, None))
        return [*plan, (self.solve_model, 1.0, None)]

    @property
    def all_at_home(self) -> bool:
        """Whether a limit of 0 asks for a hierarchical placement, or one that costs as much; not
        where replicas without load may leave their home, which counts under ``even`` dispatch.
        """
        whole = self.cost.dispatch != Dispatch.EVEN or all(self.layer.loads)
        return self.layer.traffic_limit == 0 and whole and self.has_hierarchical

    @property
    def has_hierarchical(self) -> bool:
        """Whether there is such a placement: not if nodes have too few experts to spread."""
        slots = self.layer.topology.num_nodes * self.layer.topology.slots_per_rank
        return not self.layer.spread_replicas or self.layer.num_logical_experts >= slots

    def keep_groups(self, known: Bracket, budget: Budget) -> Bracket:
        """The hierarchical rule, whose placements have no traffic."""
        if not self.has_hierarchical:
            return known
        layer = replace(self.layer, rule=Rule.HIERARCHICAL)
        found = self.solve_relative(layer, None, budget)
        known = known.with_placement(found)
        if not self.all_at_home:
            return known
        known = known.with_bound(found.bound, "hierarchical", Trusted("search"))
        return replace(known, limit=found.limit)

    def leave_homes(self, known: Bracket, budget: Budget) -> Bracket:
        """The global rule, under which nothing costs more."""
        found = self.solve_relative(self.layer.without_nodes(), known.placement, budget)
        known = known.with_bound(found.bound, "global", Trusted("search"))
        if found.placement is None or not is_solution(self.layer, found.placement, self.cost):
            return known
        return known.with_placement(value(self.layer, found.placement, *self.cost))

    def solve_relative(
        self, layer: Layer, initial: tuple[int, ...] | None, budget: Budget
    ) -> Bracket:
        """The layer under another rule."""
        if self.cost.on(layer) != EVEN_SUM:
            return solve_joint(layer, self.cost, budget, initial)
        if layer.rule == Rule.GLOBAL:
            return portfolio.solve_joint(layer, budget, initial)
        return decomposition.solve_joint(layer, portfolio.solve_joint, budget, initial)

    def solve_model(self, known: Bracket, budget: Budget) -> Bracket:
        """In CP-SAT: of counts or, where they are limited, of flows, else of cuts."""
        dispatch = model_cost(self.cost, self.layer).dispatch
        limited = self.layer.traffic_limit < 1 and dispatch == Dispatch.OPTIMAL
        flows = limited or dispatch == Dispatch.EVEN
        name, solver = ("cp-sat", cp_sat.solve_joint) if flows else ("cuts", cuts.solve_joint)
        found = solver(self.layer, self.cost, budget, known.placement, self.counts)
        known = known.with_placement(found).with_bound(found.bound, name, Trusted(name))
        ended = None if known.closed else Limit.PRECISION
        return replace(known, limit=found.limit or ended, infeasible=found.infeasible)
