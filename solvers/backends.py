"""The table of backends: what solves which stage, and which layers it takes.

To add one, write a function and enter it here. For the stages packing and joint
`tests/solvers/test_against_brute_force.py` then compares it with enumeration on tiny layers that it
takes. The first of a stage is ``auto``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Dispatch
from eplb_opt.problem.result import Result, Stage
from solvers import at_home, brute_force, portfolio
from solvers.bracket import Bracket
from solvers.decomposition import CountSolver, JointSolver, PackingSolver, StepsSolver
from solvers.engines import mip
from solvers.formulations import (
    joint_cp_sat,
    joint_mip,
    packing_cp_sat,
    packing_mip,
    two_slots,
)
from solvers.formulations.counts import solve_counts
from solvers.formulations.groups import solve_groups
from solvers.formulations.steps import cp_sat as steps_cp_sat
from solvers.formulations.steps import cuts
from solvers.formulations.steps import mip as steps_mip
from solvers.tree_search import joint as joint_search
from solvers.tree_search import packing as packing_search
from solvers.tree_search import steps as steps_search

Solver = TypeVar("Solver")


def any_layer(_layer: Layer) -> bool:
    """Every layer."""
    return True


def always() -> bool:
    """Needs nothing that may be missing."""
    return True


@dataclass(frozen=True)
class Backend(Generic[Solver]):
    """A way to solve a stage.

    Attributes:
        solve: the function.
        takes: the layers under the global rule that it can solve, however long it needs; of others
            it raises a ValueError that says so.
        installed: whether what it needs is there.
        in_floats: its bounds rest on floating-point arithmetic.
        dispatches: the dispatch rules that it can solve over several steps.
        limited: the dispatch rules that it can solve under the rule ``home`` with a limit of
            traffic, if it knows that rule; else None.
    """

    solve: Solver
    takes: Callable[[Layer], bool] = any_layer
    is_installed: Callable[[], bool] = always
    in_floats: bool = False
    dispatches: tuple[Dispatch, ...] = tuple(Dispatch)
    limited: tuple[Dispatch, ...] | None = None


def few_slots(layer: Layer) -> bool:
    """No more than can be enumerated."""
    return layer.topology.num_physical_experts <= brute_force.LARGEST


def very_few_slots(layer: Layer) -> bool:
    """No more than can be enumerated with all steps in view."""
    return layer.topology.num_physical_experts <= brute_force.LARGEST_OVER_STEPS


def two_slots_a_rank(layer: Layer) -> bool:
    """S = 2."""
    return layer.topology.slots_per_rank == 2


def _programs(
    solve: Callable[..., Bracket], limited: tuple[Dispatch, ...] | None = None
) -> dict[str, Backend[Any]]:
    """A mixed-integer program by every engine that may be installed."""
    return {
        engine: Backend(
            partial(solve, backend=engine),
            is_installed=partial(mip.is_installed, engine),
            in_floats=True,
            limited=limited,
        )
        for engine in mip.ENGINES
    }


GROUPS: dict[str, Backend[Callable[[Layer], Result]]] = {"load": Backend(solve_groups)}
COUNTS: dict[str, Backend[CountSolver]] = {"greedy": Backend(solve_counts)}
PACKING: dict[str, Backend[PackingSolver]] = {
    "portfolio": Backend(portfolio.solve_packing),
    "search": Backend(packing_search.solve_packing),
    "cp-sat": Backend(packing_cp_sat.solve_packing),
    **_programs(packing_mip.solve_packing),
    "brute-force": Backend(brute_force.solve_packing, takes=few_slots),
}
JOINT: dict[str, Backend[JointSolver]] = {
    "portfolio": Backend(portfolio.solve_joint),
    "search": Backend(joint_search.solve_joint),
    "two-slots": Backend(two_slots.solve_joint, takes=two_slots_a_rank),
    "cp-sat": Backend(joint_cp_sat.solve_joint),
    **_programs(joint_mip.solve_joint),
    "brute-force": Backend(brute_force.solve_joint, takes=few_slots),
}
JOINT_OVER_STEPS: dict[str, Backend[StepsSolver]] = {
    "portfolio": Backend(at_home.solve_joint, limited=tuple(Dispatch)),
    "search": Backend(steps_search.solve_joint),
    "cp-sat": Backend(
        steps_cp_sat.solve_joint,
        dispatches=(Dispatch.EVEN, Dispatch.OPTIMAL),
        limited=(Dispatch.EVEN, Dispatch.OPTIMAL),
    ),
    "cuts": Backend(
        cuts.solve_joint,
        dispatches=(Dispatch.OPTIMAL, Dispatch.FIXED),
        limited=(Dispatch.FIXED,),
    ),
    **_programs(steps_mip.solve_joint, tuple(Dispatch)),
    "brute-force": Backend(
        brute_force.solve_over_steps, takes=very_few_slots, limited=tuple(Dispatch)
    ),
}
"""Of all costs but the sum under ``even`` dispatch, under any rule, and under the rule ``home`` of
all costs; one that has no backend for its dispatch is that of one step, where ``fixed`` is
``optimal``."""
PACKING_OVER_STEPS: dict[str, Backend[StepsSolver]] = {
    name: backend
    for name, backend in JOINT_OVER_STEPS.items()
    if Dispatch.EVEN in backend.dispatches
}
"""The same with counts given, under ``even`` dispatch."""
BACKENDS: Mapping[str, Mapping[str, Backend[Any]]] = {
    Stage.GROUPS: GROUPS,
    Stage.COUNTS: COUNTS,
    Stage.PACKING: PACKING,
    Stage.JOINT: JOINT,
}
"""By stage, under an even split; ``auto`` is the first one."""
