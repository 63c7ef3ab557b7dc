"""The one entry point of the exact side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from typing import Any

from eplb_opt.bounds import mean_load
from eplb_opt.problem.instance import Layer, Rule
from eplb_opt.problem.objective import exact_makespan
from eplb_opt.problem.result import Result
from eplb_opt.problem.validity import layer_violation
from solvers import decomposition
from solvers.formulations.counts import solve_counts
from solvers.formulations.groups import solve_groups
from solvers.options import Options, Progress

BACKENDS: dict[str, dict[str, str]] = {
    "groups": {
        "load": "solvers.formulations.groups:solve_groups",
        "reach": "solvers.formulations.groups:solve_groups_by_reach",
    },
    "counts": {"greedy": "solvers.formulations.counts:solve_counts"},
    "packing": {
        "portfolio": "solvers.packing_portfolio:solve_packing",
        "search": "solvers.tree_search.packing:solve_packing",
        "cp-sat": "solvers.formulations.packing_cp_sat:solve_packing",
        "scipy": "solvers.formulations.packing_mip:solve_packing_scipy",
        "cbc": "solvers.formulations.packing_mip:solve_packing_cbc",
        "highs": "solvers.formulations.packing_mip:solve_packing_highs",
        "scip": "solvers.formulations.packing_mip:solve_packing_scip",
        "brute-force": "solvers.brute_force:solve_packing",
    },
    "joint": {
        "portfolio": "solvers.portfolio:solve_joint",
        "search": "solvers.tree_search.joint:solve_joint",
        "pairs": "solvers.formulations.two_slots:solve_pairs",
        "cp-sat": "solvers.formulations.joint_cp_sat:solve_joint",
        "scipy": "solvers.formulations.joint_mip:solve_joint_scipy",
        "cbc": "solvers.formulations.joint_mip:solve_joint_cbc",
        "highs": "solvers.formulations.joint_mip:solve_joint_highs",
        "scip": "solvers.formulations.joint_mip:solve_joint_scip",
        "brute-force": "solvers.brute_force:solve_joint",
    },
}
"""The backends of each stage, imported when first used; ``auto`` is the first one. A packing
backend takes ``(layer, counts, options)``, a joint one ``(layer, options, initial)``, both for a
layer under the global rule."""


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
    time_limit: float | None = None,
    seed: int = 0,
    workers: int = 1,
    initial: Sequence[int] | None = None,
    given: Stages | None = None,
    tolerance: float = 0.0,
    work_limit: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Solve one stage of one layer exactly, or as far as the time limit allows.

    Args:
        problem: ``instance.layer(i)``.
        stage: ``groups`` (hierarchical rule only; largest node load, or with the backend ``reach``
            the largest bound of a node), ``counts`` (heaviest
            replica), ``packing`` (makespan with the counts given), or ``joint`` (makespan over
            everything that the rule allows).
        backend: one of ``BACKENDS[stage]``, or ``auto``.
        time_limit: seconds, None for none. Reaching it is a result, not an exception.
        seed: for backends with randomness.
        workers: threads; 1 is repeatable.
        initial: slots [P] of a placement to start the joint search from (global rule).
        tolerance: the joint search may stop at this relative distance of value and bound.
        work_limit: nodes of a search, millionths of CP-SAT's deterministic time: a limit that gives
            the same result on any machine, if ``workers`` is 1 and there is no time limit.
        progress: told the value of the incumbent and the lower bound of the joint search, in
            tokens, whenever one of its methods ends.
        given: decisions of earlier stages for ``counts`` and ``packing``; what is None is solved
            first, to optimality.

    Returns:
        A result whose lower bound is valid and whose objective is recomputed from the placement,
        both exact.

    Raises:
        ValueError: unknown stage or backend, or a stage that the rule does not have.

    Example:
        >>> from eplb_opt import Instance, Topology
        >>> loads = [[600, 560, 120, 120, 20, 10, 10, 10]]
        >>> layer = Instance(loads, Topology(num_physical_experts=16, num_ranks=8)).layer(0)
        >>> result = solve(layer, stage="joint")
        >>> str(result.status), str(result.objective)
        ('optimal', '590/3')
    """
    solver = _backend(stage, backend)
    options = Options(
        time_limit, seed, workers, Fraction(tolerance), work_limit=work_limit, progress=progress
    )
    given = given or Stages()
    if not problem.is_feasible:
        return Result(stage, backend, mean_load(problem), bound_source="mean", infeasible=True)
    if stage == "joint":
        return _checked(problem, _solve_joint(problem, solver, options, initial))
    if problem.rule == Rule.GLOBAL:
        return _checked(problem, _solve_global_stage(problem, stage, solver, options, given))
    if stage == "groups":
        result: Result = solver(problem)
        return result
    nodes = given.node_of_group or solve_groups(problem).node_of_group or ()
    if stage == "counts":
        return decomposition.solve_counts(problem, nodes, given.least, given.most)
    counts = given.counts or decomposition.solve_counts(problem, nodes).counts or ()
    return _checked(problem, decomposition.solve_packing(problem, counts, nodes, solver, options))


def _checked(problem: Layer, result: Result) -> Result:
    """``result``, if its placement is valid and worth what it says.

    Raises:
        RuntimeError: it is not: an error of this package, not of the caller.
    """
    slots = result.placement
    if slots is not None:
        wrong = layer_violation(problem, slots)
        if wrong is None and exact_makespan(problem, slots) != result.objective:
            wrong = f"it is not worth {result.objective}"
        if wrong is not None:
            raise RuntimeError(f"{result.backend} returned an invalid placement: {wrong}")
    return result


def _solve_joint(
    problem: Layer, solver: Callable[..., Result], options: Options, initial: Sequence[int] | None
) -> Result:
    if problem.rule == Rule.HIERARCHICAL:
        return decomposition.solve_joint(problem, solver, options)
    return solver(problem, options, None if initial is None else tuple(initial))


def _solve_global_stage(
    problem: Layer, stage: str, solver: Callable[..., Result], options: Options, given: Stages
) -> Result:
    if stage == "groups":
        raise ValueError("stage='groups' needs rule='hierarchical': the global rule has no groups")
    if stage == "counts":
        return solve_counts(problem, given.least, given.most)
    return solver(problem, given.counts or solve_counts(problem).counts, options)


def _backend(stage: str, name: str) -> Callable[..., Any]:
    if stage not in BACKENDS:
        raise ValueError(f"stage={stage!r} is not one of {', '.join(BACKENDS)}")
    table = BACKENDS[stage]
    if name != "auto" and name not in table:
        raise ValueError(
            f"backend={name!r} is not one of auto, {', '.join(table)} (for stage={stage!r})"
        )
    module, function = table[next(iter(table)) if name == "auto" else name].split(":")
    solver: Callable[..., Any] = getattr(import_module(module), function)
    return solver
