"""The one entry point of the exact side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from eplb_opt import bounds
from eplb_opt.bounds import Bound
from eplb_opt.problem.evidence import ValueEvidence
from eplb_opt.problem.homes import find_homes
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, SUM, Cost, Dispatch, Objective, mean_load
from eplb_opt.problem.result import Limit, Result, Stage
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import layer_violation, over_limit
from solvers import decomposition
from solvers.backends import (
    BACKENDS,
    COUNTS,
    GROUPS,
    JOINT,
    JOINT_OVER_STEPS,
    PACKING,
    PACKING_OVER_STEPS,
    Backend,
)
from solvers.bracket import Bracket
from solvers.decomposition import CountSolver
from solvers.dispatch import value, value_evidence
from solvers.formulations.counts import solve_counts
from solvers.formulations.groups import solve_groups
from solvers.formulations.steps.linear import model_cost
from solvers.given import Stages, check_initial, ratio
from solvers.local_search.steps import within_limit
from solvers.options import Budget, SearchOptions, SearchProgress

__all__ = ["Stages", "solve"]


def solve(
    problem: Layer,
    *,
    stage: str = "joint",
    backend: str = "auto",
    objective: Objective | str = SUM,
    dispatch: Dispatch | str = Dispatch.EVEN,
    time_limit: float | None = None,
    seed: int = 0,
    workers: int = 1,
    initial: Sequence[int] | None = None,
    given: Stages | None = None,
    tolerance: float | Fraction = 0,
    work_limit: int | None = None,
    progress: SearchProgress | None = None,
    search: SearchOptions | None = None,
) -> Result:
    """Solve one stage of one layer exactly, or as far as the limits allow.

    Args:
        problem: ``instance.layer(i)``.
        stage: ``groups`` (hierarchical rule only; largest node load), ``counts`` (heaviest
            replica), ``packing`` (makespan with the counts given), or ``joint`` (makespan over
            everything that the rule allows; the only stage under the rule ``home``, where no
            placement with spread replicas may be within a limit of traffic: then infeasible).
        backend: one of ``BACKENDS[stage]``, or ``auto``.
        objective: what is minimized over the steps: ``sum`` (of the loads: one step), ``mean``,
            ``worst`` or ``cvar:a``. Other than ``sum`` for ``joint`` and ``packing``.
        dispatch: how tokens are shared: ``even``, ``fixed`` or ``optimal``. Other than ``even`` for
            ``joint``.
        time_limit: seconds, None for none. Reaching it is a result, not an exception.
        seed: for backends with randomness.
        workers: threads; 1 is repeatable.
        initial: [P] a valid placement to start the joint search from.
        given: decisions of earlier stages for ``counts`` and ``packing``; what is None is solved
            first, to optimality.
        tolerance: a search (``packing``, ``joint``) may stop at this relative distance of value and
            bound. ``counts`` are solved exactly in any case, ``groups`` where their blocks can be
            enumerated.
        work_limit: for the whole solve, see :class:`solvers.options.SearchOptions`: a limit that
            gives the same result on any machine, if ``workers`` is 1 and there is no time limit.
        progress: told the value of the incumbent and the lower bound, in tokens, whenever a method
            of the joint search ends, and at the end.
        search: all limits at once, in place of those above.

    Returns:
        A result whose lower bound is valid and whose objective is recomputed from the placement,
        both exact.

    Raises:
        ValueError: an argument is wrong, does not fit the problem, or is of no use for the stage;
            one line that names it and its value, before any work.

    Example:
        >>> from eplb_opt import Instance, Topology
        >>> loads = [[600, 560, 120, 120, 20, 10, 10, 10]]
        >>> layer = Instance(loads, Topology(num_physical_experts=16, num_ranks=8)).layer(0)
        >>> result = solve(layer, stage="joint")
        >>> str(result.status), str(result.objective)
        ('optimal', '590/3')
    """
    options = SearchOptions(
        time_limit, work_limit, ratio("tolerance", tolerance), seed, workers, progress
    )
    for name, given_value, kind in (("search", search, SearchOptions), ("given", given, Stages)):
        if given_value is not None and not isinstance(given_value, kind):
            raise ValueError(f"{name}={given_value!r} is of no use: give a {kind.__name__}")
    if search is not None and options != SearchOptions():
        raise ValueError("search= holds all limits: give time_limit and the like in it, or alone")
    question = _Question.of(problem, stage, backend, objective, dispatch)
    given = (given or Stages()).check(problem, question.stage)
    if initial is not None and question.stage != Stage.JOINT:
        raise ValueError(f"initial: stage={stage!r} starts from nothing, leave it out")
    start = check_initial(problem, initial)
    if start is not None and not within_limit(problem, start, question.cost):
        raise ValueError(f"initial is beyond the limit of traffic: {over_limit(problem, start)}")
    budget = Budget(search or options)
    result = _solve(question, given, start, budget)
    if problem.rule == Rule.HOME and problem.topology.num_nodes == 1 and result.placement:
        result = replace(result, node_of_group=(0,) * problem.topology.num_groups)
    budget.tell(result.objective or result.lower_bound, result.lower_bound)
    return result


def _solve(
    question: _Question, given: Stages, initial: tuple[int, ...] | None, budget: Budget
) -> Result:
    problem = question.problem
    if not problem.is_feasible:
        return question.infeasible(Bound(mean_load(problem, question.cost.objective), "mean"))
    if question.stage == Stage.GROUPS:
        return GROUPS[question.backend].solve(problem)
    if question.stage == Stage.COUNTS:
        return _counts(problem, COUNTS[question.backend].solve, given)
    if question.stage == Stage.JOINT:
        found = _joint(question, initial, budget)
        if found.infeasible:
            return question.infeasible(Bound(found.bound, found.source))
        return question.answer(found, budget)
    node_of_group, counts = _decide(problem, given)
    if max(counts) > problem.most_replicas:
        mean = Bound(mean_load(problem, question.cost.objective), "mean")
        return question.infeasible(
            mean if question.over_steps else bounds.of(problem, counts=counts)
        )
    return question.answer(_packing(question, node_of_group, counts, budget), budget)


@dataclass(frozen=True)
class _Question:
    """What is to be solved, with the words understood, and by what."""

    problem: Layer
    stage: Stage
    backend: str
    cost: Cost

    @property
    def over_steps(self) -> bool:
        """Whether it is another problem than that of the summed loads with replicas alike, or one
        that nodes do not solve each for itself.
        """
        return self.problem.rule == Rule.HOME or self.cost.on(self.problem) != EVEN_SUM

    @classmethod
    def of(
        cls,
        problem: Layer,
        stage: str,
        backend: str,
        objective: Objective | str,
        dispatch: Dispatch | str,
    ) -> _Question:
        """Raises a ValueError that names what is not understood."""
        if not isinstance(problem, Layer):
            raise ValueError(
                f"problem is of type {type(problem).__name__}: give a layer, as instance.layer(0)"
            )
        if not isinstance(stage, str) or stage not in BACKENDS:
            raise ValueError(f"stage={stage!r} is not one of {', '.join(BACKENDS)}")
        _check_rule(problem, Stage(stage))
        cost = Cost.of(objective, dispatch)
        even = cost.dispatch == Dispatch.EVEN
        early = stage in (Stage.GROUPS, Stage.COUNTS)
        if (early and cost.objective != SUM) or not (even or stage == Stage.JOINT):
            raise ValueError(
                f"stage={stage!r} with {cost} cannot be solved: use another objective than 'sum' "
                "with stage='joint' or 'packing', another dispatch than 'even' with 'joint' only"
            )
        if problem.rule == Rule.HOME and problem.topology.num_nodes == 1:
            problem = problem.without_nodes()
        if stage == Stage.GROUPS and problem.rule == Rule.GLOBAL:
            raise ValueError(
                "stage='groups' needs rule='hierarchical': the global rule has no groups"
            )
        table = _table(problem, Stage(stage), cost.on(problem))
        if not isinstance(backend, str) or (backend != "auto" and backend not in table):
            raise ValueError(
                f"backend={backend!r} is not one of auto, {', '.join(table)} (for stage={stage!r})"
            )
        name = next(iter(table)) if backend == "auto" else backend
        return cls(problem, Stage(stage), name, cost)

    def infeasible(self, bound: Bound) -> Result:
        """The result where no placement exists."""
        return Result(
            self.stage, self.backend, bound.value, bound_source=bound.source, infeasible=True
        )

    def answer(self, found: Bracket, budget: Budget) -> Result:
        """The result, if its placement is valid and worth what it says.

        Raises:
            RuntimeError: it is not: an error of this package, not of the caller.
        """
        problem, phy2log = self.problem, found.placement
        if phy2log is not None:
            wrong = layer_violation(problem, phy2log)
            if wrong is None and not within_limit(problem, phy2log, self.cost):
                wrong = over_limit(problem, phy2log)
            if wrong is None and self.value(phy2log) != found.value:
                wrong = f"it is not worth {found.value}"
            if wrong is not None:
                raise RuntimeError(f"{self.backend} returned an invalid placement: {wrong}")
            if found.bound > found.incumbent:
                raise RuntimeError(f"{self.backend} claims {found.bound} is below {found.value}")
        return Result(
            self.stage,
            self.backend,
            found.bound,
            found.value,
            phy2log,
            None if phy2log is None else found.counts(problem.num_logical_experts),
            None if phy2log is None else _node_of_group(problem, phy2log),
            bound_source=found.source,
            limit=self.reason(found, budget),
            runtime=budget.elapsed(),
            certificate=found.evidence,
            cost=self.cost,
            shares=found.shares,
            value_evidence=self.value_evidence(phy2log),
        )

    def reason(self, found: Bracket, budget: Budget) -> Limit | None:
        """What ended the search before value and bound met; Ctrl-C also where it came as they did,
        for the caller must not go on.
        """
        if budget.interrupted:
            return Limit.INTERRUPT
        if found.closed or found.limit == Limit.INTERRUPT:
            return None if found.closed else found.limit
        if found.value is not None and budget.accepts(found.value, found.bound):
            return Limit.TOLERANCE
        return found.limit or Limit.PRECISION

    def value(self, phy2log: Sequence[int]) -> Fraction:
        """What a placement costs."""
        return value(self.problem, phy2log, *self.cost.on(self.problem)).incumbent

    def value_evidence(self, phy2log: Sequence[int] | None) -> ValueEvidence | None:
        """Why the placement costs no less."""
        if phy2log is None:
            return None
        return value_evidence(self.problem, phy2log, self.cost.on(self.problem))


def _node_of_group(problem: Layer, phy2log: Sequence[int]) -> tuple[int, ...] | None:
    """[K] where a valid placement has the groups, or their homes; None under the global rule."""
    if problem.rule == Rule.GLOBAL:
        return None
    if problem.rule == Rule.HOME:
        return find_homes(problem, phy2log)
    per_node = problem.topology.slots_per_node
    return tuple(phy2log.index(group[0]) // per_node for group in problem.groups)


def _counts(problem: Layer, solver: CountSolver, given: Stages) -> Result:
    if problem.rule == Rule.GLOBAL:
        return solver(problem, given.least, given.most)
    node_of_group = _nodes(problem, given)
    return decomposition.solve_counts(problem, node_of_group, solver, given.least, given.most)


def _nodes(problem: Layer, given: Stages) -> Sequence[int]:
    """[K] as given, else the optimum; () under the global rule."""
    if problem.rule == Rule.GLOBAL:
        return ()
    return given.node_of_group or solve_groups(problem).node_of_group or ()


def _decide(problem: Layer, given: Stages) -> tuple[Sequence[int], Sequence[int]]:
    """Node of each group and counts: as given, else the optima of their stages.

    Raises:
        ValueError: the counts do not fill the nodes.
    """
    node_of_group = _nodes(problem, given)
    decided = replace(given, node_of_group=node_of_group or None)
    counts = given.counts or _counts(problem, solve_counts, decided).counts or ()
    num_slots = problem.topology.slots_per_node
    group_size = len(counts) // problem.topology.num_groups
    for node in set(node_of_group):
        replicas = sum(c for e, c in enumerate(counts) if node_of_group[e // group_size] == node)
        if replicas != num_slots:
            raise ValueError(
                f"given.counts need {replicas} of the {num_slots} slots of node {node}, where "
                f"node_of_group={tuple(node_of_group)} puts their groups"
            )
    return node_of_group, counts


def _check_rule(problem: Layer, stage: Stage) -> None:
    """Raise ValueError where the rule ``home`` has no such stage, or the layer no homes."""
    if problem.rule != Rule.HOME:
        return
    if stage != Stage.JOINT:
        raise ValueError(
            f"stage={str(stage)!r} under rule='home': only stage='joint' can be solved"
        )
    experts, topology = problem.num_logical_experts, problem.topology
    if topology.num_groups % topology.num_nodes or experts % topology.num_groups:
        raise ValueError(
            f"rule='home' needs nodes that divide groups, and groups that divide experts: "
            f"num_nodes={topology.num_nodes}, num_groups={topology.num_groups}, {experts} experts"
        )


def _table(problem: Layer, stage: Stage, cost: Cost) -> dict[str, Backend[Any]]:
    """What solves a stage of a layer at a cost, by name."""
    home = problem.rule == Rule.HOME
    if cost == EVEN_SUM and not home:
        return dict(BACKENDS[stage])
    table = JOINT_OVER_STEPS if stage == Stage.JOINT else PACKING_OVER_STEPS
    if home:
        limited = problem.traffic_limit < 1
        dispatch = model_cost(cost, problem).dispatch
        table = {
            name: found
            for name, found in table.items()
            if found.limited is not None and (not limited or dispatch in found.limited)
        }
    dispatches = {cost.dispatch}
    if cost.objective == SUM and cost.dispatch == Dispatch.FIXED:
        dispatches.add(Dispatch.OPTIMAL)  # one step: the same problem
    return {name: found for name, found in table.items() if dispatches & {*found.dispatches}}


def _packing(
    question: _Question, node_of_group: Sequence[int], counts: Sequence[int], budget: Budget
) -> Bracket:
    problem = question.problem
    if question.over_steps:
        return _packing_over_steps(question, node_of_group, counts, budget)
    solver = PACKING[question.backend].solve
    if problem.rule == Rule.GLOBAL:
        return solver(problem, counts, budget)
    return decomposition.solve_packing(problem, counts, node_of_group, solver, budget)


def _packing_over_steps(
    question: _Question, node_of_group: Sequence[int], counts: Sequence[int], budget: Budget
) -> Bracket:
    problem, cost = question.problem, question.cost.on(question.problem)
    solver = PACKING_OVER_STEPS[question.backend].solve
    if problem.rule == Rule.GLOBAL:
        return solver(problem, cost, budget, None, counts)
    layer, experts = decomposition.with_groups_on_nodes(problem, node_of_group)
    found = solver(layer, cost, budget, None, [counts[e] for e in experts])
    phy2log = tuple(experts[e] for e in found.phy2log)
    return replace(found, placement=decomposition.order_nodes(problem, phy2log, node_of_group))


def _joint(question: _Question, initial: tuple[int, ...] | None, budget: Budget) -> Bracket:
    problem, cost = question.problem, question.cost.on(question.problem)
    if question.over_steps:
        return JOINT_OVER_STEPS[question.backend].solve(problem, cost, budget, initial)
    solver = JOINT[question.backend].solve
    if problem.rule == Rule.HIERARCHICAL:
        return decomposition.solve_joint(problem, solver, budget, initial)
    return solver(problem, budget, initial)
