"""Searching for loads on which a policy is worst, measured against the proven optimum."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.policies.names import PolicyError
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import Dispatch
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.result import Limit, Result
from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.problem.validity import over_limit
from eplb_opt.testing.search import (
    LARGEST,
    Loads,
    change_loads,
    random_loads,
    search,
    simpler_loads,
    size_of,
)
from solvers import solve
from solvers.dispatch import value

BATCH = 192
"""Load vectors that a policy places in one call."""
ELITE = 24
"""The worst found so far, from which new ones are made."""
PROVED = 6
"""Of each batch so many are solved, those that look worst."""


@dataclass(frozen=True)
class Worst:
    """Loads, the policy's makespan and the proven optimum, all exact.

    Attributes:
        loads: tokens of each expert.
        makespan: of the policy's placement.
        result: of the exact search; its status is ``optimal``.
        phy2log: the policy's placement.
    """

    loads: tuple[int, ...]
    makespan: Fraction
    result: Result
    phy2log: tuple[int, ...]

    @property
    def ratio(self) -> Fraction:
        """Makespan over optimum."""
        return self.makespan / (self.result.objective or 1)


@dataclass(frozen=True)
class Attack:
    """What a search for bad loads came to.

    Attributes:
        worst: the worst loads found; None if the policy is optimal on all that was tried.
        batches: how often it was asked to place.
        failed: how often it then failed.
        message: why, the first time; empty if it never did.
        interrupted: Ctrl-C ended the search early.
    """

    worst: Worst | None
    batches: int
    failed: int
    message: str = ""
    interrupted: bool = False


def hunt(
    policy: str,
    num_experts: int,
    machine: Topology,
    *,
    seconds: float,
    seed: int = 0,
    rule: Any = "auto",
    traffic_limit: Fraction = Fraction(1),
    least: int = 1,
    solve_seconds: float = 5.0,
    runner: PolicyRunner | None = None,
    progress: Callable[[float, Worst | None], None] = lambda _share, _worst: None,
) -> Attack:
    """The worst loads found in the time: seeded random starts, local search, then shrinking.

    Tokens are shared evenly; for a built-in policy that is made for another dispatch, by that. Only
    proven optima count. What is returned is the simplest found within ``SLACK`` of the worst.
    Ctrl-C returns what is known so far. ``runner`` runs the policy, in place of one of its own.
    """
    chance = np.random.default_rng(seed)
    with PolicyRunner() if runner is None else nullcontext(runner) as running:
        ruled = partial(Instance, topology=machine, rule=rule, traffic_limit=traffic_limit)
        found = _Hunt(policy, num_experts, ruled, least, solve_seconds, chance, running)
        interrupted = search(found, seconds, progress)
    return Attack(found.worst, found.batches, found.failed, found.message, interrupted)


class _Hunt:
    """The search; an interrupt leaves what it knows as it is.

    Raises:
        KeyboardInterrupt: Ctrl-C ended a step, or the exact search in it.
    """

    def __init__(
        self,
        policy: str,
        num_experts: int,
        ruled: Callable[[Loads], Instance],
        least: int,
        solve_seconds: float,
        chance: np.random.Generator,
        runner: PolicyRunner,
    ) -> None:
        self.policy, self.ruled = policy, ruled
        self.num_experts, self.least = num_experts, least
        self.solve_seconds, self.chance, self.runner = solve_seconds, chance, runner
        self.dispatch = runner.cost_of(policy).dispatch
        self.elite: list[tuple[Fraction, tuple[int, ...]]] = []
        self.worst: Worst | None = None
        self.batches = self.failed = 0
        self.message = ""
        self._optima: dict[tuple[int, ...], Result] = {}

    def step(self) -> None:
        """Try a batch: half of it new, half changes of the worst found so far."""
        batch = np.array([self._next(i) for i in range(BATCH)]).clip(self.least, LARGEST)
        batch = np.unique(batch[batch.sum(1) > 0], axis=0)
        for candidate in self._rank_batch(batch)[:PROVED]:
            found = self._prove(candidate)
            if found is None:
                continue
            self.elite.append((found.ratio, found.loads))
            self.elite = sorted(set(self.elite), reverse=True)[:ELITE]
            if self.worst is None or found.ratio > self.worst.ratio:
                self.worst = found

    def shrink(self, least_ratio: Fraction) -> bool:
        """Take simpler loads whose ratio is large enough; whether there were any."""
        worst = self.worst
        if worst is None:
            return False
        simpler = np.array(list(simpler_loads(worst.loads))).clip(self.least, LARGEST)
        simpler = np.unique(simpler[simpler.sum(1) > 0], axis=0)
        for candidate in sorted(self._rank_batch(simpler), key=lambda c: size_of(c[1])):
            if size_of(candidate[1]) >= size_of(worst.loads):
                continue
            found = self._prove(candidate)
            if found and found.ratio >= least_ratio:
                self.worst = found
                return True
        return False

    def _next(self, i: int) -> Loads:
        if i % 2 and self.elite:
            chosen = self.elite[self.chance.integers(len(self.elite))]
            return change_loads(np.array(chosen[1]), self.chance)
        return random_loads(self.num_experts, self.chance)

    def _rank_batch(self, batch: Loads) -> list[tuple[float, tuple[int, ...], tuple[int, ...]]]:
        """Ratio to a simple bound, loads and placement; largest ratio first."""
        instance = self.ruled(batch)
        self.batches += 1
        try:
            placement = self.runner.run(self.policy, instance).placement
        except PolicyError as error:
            self.failed += 1
            self.message = self.message or str(error)
            return []
        peaks = self._makespans(placement, instance)
        bound = batch.sum(1) / instance.topology.num_ranks
        order = np.argsort(-peaks / np.maximum(bound, 1e-9), kind="stable")
        rows, phy2log = batch.tolist(), placement.phy2log.tolist()
        return [(float(peaks[i] / bound[i]), tuple(rows[i]), tuple(phy2log[i])) for i in order]

    def _makespans(self, placement: Placement, instance: Instance) -> NDArray[np.float64]:
        """Of all layers, [L]."""
        if self.dispatch == Dispatch.EVEN:
            loads = placement.rank_loads(instance.loads, instance.topology.num_ranks)
            return np.asarray(loads.max(1))
        placed = zip(instance.layers(), placement.phy2log.tolist(), strict=True)
        found = [value(layer, row, dispatch=self.dispatch).incumbent for layer, row in placed]
        return np.array(found, dtype=np.float64)

    def _prove(self, candidate: tuple[float, tuple[int, ...], tuple[int, ...]]) -> Worst | None:
        """The exact ratio, if the optimum can be proven in time."""
        ratio, loads, phy2log = candidate
        if self.worst is not None and ratio <= 0.9 * float(self.worst.ratio):
            return None  # the ratio to the mean is at least that to the optimum
        layer = self.ruled(np.array([loads])).layer(0)
        if loads not in self._optima:
            found = solve(layer, dispatch=self.dispatch, time_limit=self.solve_seconds)
            if found.limit == Limit.INTERRUPT:  # no exception: the search keeps what it found
                raise KeyboardInterrupt
            self._optima[loads] = found
        result = self._optima[loads]
        if result.status != "optimal" or not result.objective:
            return None
        if self.dispatch == Dispatch.EVEN and over_limit(layer, phy2log) is not None:
            self.failed += 1
            self.message = self.message or over_limit(layer, phy2log) or ""
            return None
        makespan = value(layer, phy2log, dispatch=self.dispatch).incumbent
        return Worst(loads, makespan, result, phy2log)


def as_test(worst: Worst, policy: str, shape: Instance) -> str:
    """A pytest function that fails once the policy is that bad no more, or the optimum is wrong;
    for the machine and rule of ``shape``.
    """
    optimum, dispatch = worst.result.objective, worst.result.cost.dispatch
    call = ", ".join(f"{name}={value}" for name, value in _sizes(shape.topology).items())
    rule = ""
    if shape.rule == Rule.HOME:
        rule = f', rule="home", traffic_limit="{shape.traffic_limit}"'
    word = "" if dispatch == Dispatch.EVEN else f', dispatch="{dispatch}"'
    return f'''"""Found by `eplb-opt attack`: {float(worst.ratio):.4f} times the optimum."""

from fractions import Fraction

from eplb_opt import Instance, Topology
from eplb_opt.gap import measure_gap
from solvers import solve

LOADS = {list(worst.loads)}


def test_worst_case_of_the_policy():
    instance = Instance([LOADS], Topology({call}){rule})
    result = solve(instance.layer(0){word})
    assert result.status == "optimal"
    assert result.objective == Fraction("{optimum}")
    (layer,) = measure_gap(instance, [{policy!r}]{word}).policies[0].layers
    assert layer.makespan / result.objective <= Fraction("{worst.ratio}")
'''


def _sizes(machine: Topology) -> dict[str, Any]:
    return {
        "num_physical_experts": machine.num_physical_experts,
        "num_ranks": machine.num_ranks,
        "num_nodes": machine.num_nodes,
        "num_groups": machine.num_groups,
    }
