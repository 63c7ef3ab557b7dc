"""The one entry point of the exact side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import SUM, Cost, Dispatch, Objective, mean_load
from eplb_opt.problem.result import Limit, Result, Stage
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import layer_violation
from solvers import decomposition
from solvers.backends import BACKENDS, COUNTS, GROUPS, JOINT, OPTIMAL_DISPATCH, PACKING
from solvers.bracket import Bracket
from solvers.decomposition import CountSolver
from solvers.dispatch import value
from solvers.formulations.counts import solve_counts
from solvers.formulations.groups import solve_groups
from solvers.options import Budget, Progress, SearchOptions


@dataclass(frozen=True)
class Stages:
    """What earlier stages decided.

    Attributes:
        node_of_group: [K], None to take the optimum of the stage ``groups`` (hierarchical rule
            only).
        counts: [E], None to take the optimum of the stage ``counts``.
        least: [E] lower limits of the stage ``counts``; None is 1.
        most: [E] upper limits of that stage; None is what the problem allows.
    """

    node_of_group: Sequence[int] | None = None
    counts: Sequence[int] | None = None
    least: Sequence[int] | None = None
    most: Sequence[int] | None = None


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
    progress: Progress | None = None,
    search: SearchOptions | None = None,
) -> Result:
    """Solve one stage of one layer exactly, or as far as the limits allow.

    Args:
        problem: ``instance.layer(i)``.
        stage: ``groups`` (hierarchical rule only; largest node load, or with the backend ``reach``
            the largest bound of a node), ``counts`` (heaviest
            replica), ``packing`` (makespan with the counts given), or ``joint`` (makespan over
            everything that the rule allows).
        backend: one of ``BACKENDS[stage]``, or ``auto``.
        objective: what is minimized over the steps; ``sum`` so far.
        dispatch: how tokens are shared: ``even``, or for the stage ``joint`` under the global rule
            ``optimal`` (which for the sum is ``fixed``).
        time_limit: seconds, None for none. Reaching it is a result, not an exception.
        seed: for backends with randomness.
        workers: threads; 1 is repeatable.
        initial: slots [P] of a placement to start the joint search from (global rule).
        given: decisions of earlier stages for ``counts`` and ``packing``; what is None is solved
            first, to optimality.
        tolerance: the joint search may stop at this relative distance of value and bound.
        work_limit: for the whole solve, see :class:`solvers.options.SearchOptions`: a limit that
            gives the same result on any machine, if ``workers`` is 1 and there is no time limit.
        progress: told the value of the incumbent and the lower bound of the joint search, in
            tokens, whenever one of its methods ends.
        search: all limits at once, in place of those above.

    Returns:
        A result whose lower bound is valid and whose objective is recomputed from the placement,
        both exact.

    Raises:
        ValueError: unknown stage, backend, objective or dispatch, or a stage that the rule does not
            have.

    Example:
        >>> from eplb_opt import Instance, Topology
        >>> loads = [[600, 560, 120, 120, 20, 10, 10, 10]]
        >>> layer = Instance(loads, Topology(num_physical_experts=16, num_ranks=8)).layer(0)
        >>> result = solve(layer, stage="joint")
        >>> str(result.status), str(result.objective)
        ('optimal', '590/3')
    """
    options = search or SearchOptions(
        time_limit, work_limit, Fraction(tolerance), seed, workers, progress
    )
    question = _Question.of(problem, stage, backend, objective, dispatch)
    budget, given = Budget(options), given or Stages()
    if not problem.is_feasible:
        bound = mean_load(problem, question.cost.objective)
        return Result(question.stage, question.backend, bound, bound_source="mean", infeasible=True)
    if question.stage == Stage.GROUPS:
        return GROUPS[question.backend].solve(problem)
    if question.stage == Stage.COUNTS:
        return _counts(problem, COUNTS[question.backend].solve, given)
    if question.stage == Stage.PACKING:
        return question.answer(_packing(question, given, budget), budget)
    return question.answer(_joint(question, initial, budget), budget)


@dataclass(frozen=True)
class _Question:
    """What is to be solved, with the words understood, and by what."""

    problem: Layer
    stage: Stage
    backend: str
    cost: Cost

    @classmethod
    def of(
        cls,
        problem: Layer,
        stage: str,
        backend: str,
        objective: Objective | str,
        dispatch: Dispatch | str,
    ) -> _Question:
        """Raises a ValueError that names the word which is not understood."""
        if stage not in BACKENDS:
            raise ValueError(f"stage={stage!r} is not one of {', '.join(BACKENDS)}")
        cost = Cost.of(objective, dispatch)
        even = cost.dispatch == Dispatch.EVEN
        if cost.objective != SUM or not (even or stage == Stage.JOINT):
            raise ValueError(
                f"stage={stage!r} with {cost} cannot be solved: use objective='sum', and another "
                "dispatch than 'even' with stage='joint' only"
            )
        if stage == Stage.GROUPS and problem.rule == Rule.GLOBAL:
            raise ValueError(
                "stage='groups' needs rule='hierarchical': the global rule has no groups"
            )
        table = BACKENDS[stage] if even else OPTIMAL_DISPATCH
        if backend != "auto" and backend not in table:
            raise ValueError(
                f"backend={backend!r} is not one of auto, {', '.join(table)} (for stage={stage!r})"
            )
        name = next(iter(table)) if backend == "auto" else backend
        return cls(problem, Stage(stage), name, cost)

    def answer(self, found: Bracket, budget: Budget) -> Result:
        """The result, if its placement is valid and worth what it says.

        Raises:
            RuntimeError: it is not: an error of this package, not of the caller.
        """
        problem, slots = self.problem, found.placement
        if slots is not None:
            wrong = layer_violation(problem, slots)
            if wrong is None and self.value(slots) != found.value:
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
            slots,
            None if slots is None else found.counts(problem.num_logical_experts),
            None if slots is None else _node_of_group(problem, slots),
            bound_source=found.source,
            limit=self.reason(found, budget),
            runtime=budget.elapsed(),
            certificate=found.evidence,
            dispatch=self.cost.dispatch,
        )

    def reason(self, found: Bracket, budget: Budget) -> Limit | None:
        """What ended the search before value and bound met; Ctrl-C also where it came as they did,
        for the caller must not go on.
        """
        if budget.interrupted:
            return Limit.INTERRUPT
        if found.closed or found.limit is not None or found.value is None:
            return None if found.closed else found.limit
        asked = budget.options.tolerance > 0 and budget.satisfied(found.value, found.bound)
        return Limit.TOLERANCE if asked else None

    def value(self, slots: Sequence[int]) -> Fraction:
        """What a placement costs."""
        return value(self.problem, slots, *self.cost).incumbent


def _node_of_group(problem: Layer, slots: Sequence[int]) -> tuple[int, ...] | None:
    """[K] where a valid placement has the groups; None under the global rule."""
    if problem.rule == Rule.GLOBAL:
        return None
    per_node = problem.topology.slots_per_node
    return tuple(slots.index(group[0]) // per_node for group in problem.groups)


def _counts(problem: Layer, solver: CountSolver, given: Stages) -> Result:
    if problem.rule == Rule.GLOBAL:
        return solver(problem, given.least, given.most)
    nodes = _nodes(problem, given)
    return decomposition.solve_counts(problem, nodes, solver, given.least, given.most)


def _nodes(problem: Layer, given: Stages) -> Sequence[int]:
    return given.node_of_group or solve_groups(problem).node_of_group or ()


def _packing(question: _Question, given: Stages, budget: Budget) -> Bracket:
    problem, solver = question.problem, PACKING[question.backend].solve
    if problem.rule == Rule.GLOBAL:
        return solver(problem, given.counts or solve_counts(problem).counts or (), budget)
    nodes = _nodes(problem, given)
    counts = given.counts or decomposition.solve_counts(problem, nodes, solve_counts).counts or ()
    return decomposition.solve_packing(problem, counts, nodes, solver, budget)


def _joint(question: _Question, initial: Sequence[int] | None, budget: Budget) -> Bracket:
    table = JOINT if question.cost.dispatch == Dispatch.EVEN else OPTIMAL_DISPATCH
    problem, solver = question.problem, table[question.backend].solve
    if problem.rule == Rule.HIERARCHICAL and question.cost.dispatch == Dispatch.EVEN:
        return decomposition.solve_joint(problem, solver, budget)
    return solver(problem, budget, None if initial is None else tuple(initial))
