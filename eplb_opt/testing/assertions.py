"""Assertions about placements and policies. A policy is a name, ``FILE.py[:FUNCTION]`` or a
function.

A failure is an ``AssertionError`` that says which instance, layer, slot and value.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eplb_opt import bounds
from eplb_opt.gap import SMALL_SLOTS, SMALL_TIME_LIMIT
from eplb_opt.policies.names import AnyPolicy, load_policy
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import (
    EVEN_SUM,
    SUM,
    Cost,
    Dispatch,
    Objective,
    step_makespans,
)
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.result import Limit
from eplb_opt.problem.validity import find_violations, over_limit
from eplb_opt.testing.contracts import check_contracts
from solvers.dispatch import value

FLOAT_TOLERANCE = 1e-6
"""Policies see loads in float32; two makespans are the same within this, relatively."""


def place(policy: AnyPolicy, instance: Instance, runner: PolicyRunner | None = None) -> Placement:
    """The valid placement of a policy: a function runs here, a file in a process of its own.

    Raises:
        PolicyError: it failed, or what it returned is no valid placement.
    """
    with PolicyRunner() if runner is None else nullcontext(runner) as running:
        return running.run(policy, instance, once=True).placement


def assert_valid(placement: Placement | ArrayLike, instance: Instance) -> None:
    """Every rule of the instance holds: shape, every expert placed, groups on their nodes or at
    home, spread; and its limit of traffic, replicas sharing alike.

    Raises:
        AssertionError: names the layer, slot and expert of each of the first violations, or the
            traffic of the first layer above the limit.
    """
    if not isinstance(placement, Placement):
        try:
            placement = Placement(np.asarray(placement), instance.num_logical_experts)
        except ValueError as error:
            raise AssertionError(str(error)) from None
    violations = find_violations(placement, instance)
    if violations:
        shown = "; ".join(violation.message for violation in violations[:5])
        more = f" (and {len(violations) - 5} more)" if len(violations) > 5 else ""
        raise AssertionError(shown + more)
    for layer, row in zip(instance.layers(), placement.phy2log.tolist(), strict=True):
        above = over_limit(layer, row)
        if above is not None:
            raise AssertionError(above)


def judged_by(
    policy: AnyPolicy,
    instance: Instance,
    objective: Objective | str | None,
    dispatch: Dispatch | str | None,
    runner: PolicyRunner,
) -> Cost:
    """The words given, else what the policy minimizes: of an instance without steps their sum.

    Raises:
        ValueError: there is no such word, or the instance has no steps for an objective given.
    """
    made = runner.cost_of(policy)
    if objective is None:
        objective = SUM if instance.trace is None else made.objective
    cost = Cost.of(objective, made.dispatch if dispatch is None else dispatch)
    cost.objective.check_steps(instance)
    return cost


def assert_gap_below(
    policy: AnyPolicy,
    instance: Instance,
    limit: float,
    *,
    objective: Objective | str | None = None,
    dispatch: Dispatch | str | None = None,
    time_limit: float | None = None,
) -> None:
    """In every layer ``(makespan - bound) / bound <= limit``.

    The bound is proven: the closed form, and where that does not do, up to ``time_limit`` seconds
    of exact search a layer (None: 10 s for up to 24 slots, no search for more). ``objective`` and
    ``dispatch`` are those of :func:`eplb_opt.gap.measure_gap`; None: what the policy minimizes.

    Raises:
        AssertionError: names the layer, its gap and what is proven.
    """
    with PolicyRunner() as runner:
        cost = judged_by(policy, instance, objective, dispatch, runner)
        placement = place(policy, instance, runner)
    if time_limit is None:
        small = instance.topology.num_physical_experts <= SMALL_SLOTS
        time_limit = SMALL_TIME_LIMIT if small else 0.0
    for layer, row in zip(instance.layers(), placement.phy2log.tolist(), strict=True):
        if not layer.has_load:
            continue
        makespan, bound = value(layer, row, *cost).incumbent, bounds.of(layer, *cost).value
        if makespan > bound * (1 + Fraction(limit)) and time_limit > 0:
            from solvers import solve

            objective, dispatch = cost
            found = solve(layer, objective=objective, dispatch=dispatch, time_limit=time_limit)
            if found.limit == Limit.INTERRUPT:
                raise KeyboardInterrupt
            bound = max(bound, found.lower_bound)
        gap = float(makespan / bound) - 1
        if makespan > bound * (1 + Fraction(limit)):
            raise AssertionError(
                f"layer {layer.index}: makespan {float(makespan):g} is {gap:.4%} above the proven "
                f"bound {float(bound):g}, more than {limit:.4%}"
            )


def measure_makespans(
    policy: AnyPolicy,
    instance: Instance,
    runner: PolicyRunner | None = None,
    cost: Cost = EVEN_SUM,
) -> NDArray[np.float64]:
    """What the policy's placement costs in each layer, [L]."""
    placement = place(policy, instance, runner)
    if cost != EVEN_SUM:
        placed = zip(instance.layers(), placement.phy2log.tolist(), strict=True)
        return np.array([float(value(layer, row, *cost).incumbent) for layer, row in placed])
    (found,) = step_makespans(placement, instance.loads[None], instance.topology.num_ranks)
    return np.asarray(found)


def assert_never_worse(
    policy: AnyPolicy,
    than: AnyPolicy = "deepseek",
    *,
    on: Instance | Sequence[Instance],
    tolerance: float = FLOAT_TOLERANCE,
    objective: Objective | str | None = None,
    dispatch: Dispatch | str | None = None,
) -> None:
    """In no layer of any instance a larger makespan than the other policy, up to ``tolerance``.

    ``objective`` and ``dispatch`` are those of :func:`eplb_opt.gap.measure_gap`; None: what
    ``policy`` minimizes, for one that takes steps the mean of their makespans or what it says.

    Raises:
        AssertionError: names the instance, the layer and both makespans.
    """
    with PolicyRunner() as runner:  # one process for each file, on all instances
        for instance in [on] if isinstance(on, Instance) else on:
            cost = judged_by(policy, instance, objective, dispatch, runner)
            ours, theirs = (measure_makespans(p, instance, runner, cost) for p in (policy, than))
            worse = ours > theirs * (1 + tolerance)
            if worse.any():
                layer = int(np.argmax(ours / np.maximum(theirs, 1e-300)))
                raise AssertionError(
                    f"{instance.source}, layer {layer}: makespan {ours[layer]:g} is worse than the "
                    f"{theirs[layer]:g} of {than}, in {int(worse.sum())} of {len(ours)} layers"
                )


def assert_equivalent(
    policy: AnyPolicy,
    other: AnyPolicy,
    *,
    on: Instance | Sequence[Instance],
    tolerance: float = FLOAT_TOLERANCE,
) -> None:
    """The same makespan in every layer of every instance, up to ``tolerance``.

    Raises:
        AssertionError: names the instance, the layer and both makespans.
    """
    with PolicyRunner() as runner:  # one process for each file, on all instances
        for instance in [on] if isinstance(on, Instance) else on:
            ours, theirs = (measure_makespans(p, instance, runner) for p in (policy, other))
            differs = np.abs(ours - theirs) > tolerance * np.maximum(ours, theirs)
            if differs.any():
                layer = int(np.argmax(differs))
                raise AssertionError(
                    f"{instance.source}, layer {layer}: makespan {ours[layer]:g}, but "
                    f"{theirs[layer]:g} of {other}"
                )


def assert_drop_in(function: AnyPolicy) -> None:
    """An engine can call it: every contract in :data:`eplb_opt.testing.contracts.CONTRACTS` holds.

    A function that takes steps is called with three of them, and with a single one.

    Raises:
        AssertionError: names every contract that is broken, and how.
    """
    found = check_contracts(load_policy(function))
    broken = [f"{finding.check}: {finding.message}" for finding in found if finding.message]
    if broken:
        raise AssertionError("; ".join(broken))
