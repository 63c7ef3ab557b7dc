"""Searching for loads and placements on which a dispatcher is furthest above the exact optimum."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.policies.dispatchers import AnyDispatcher, DispatcherRunner
from eplb_opt.policies.names import PolicyError
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.topology import Topology
from eplb_opt.testing.dispatchers.exact import Served, exact_dispatch, measure_dispatch
from eplb_opt.testing.dispatchers.measure import (
    BadAnswerError,
    Case,
    Floats,
    check_answer,
    makespans,
)
from eplb_opt.testing.dispatchers.steps import (
    Step,
    change_placement,
    random_placement,
    size_of_step,
    tidy,
)
from eplb_opt.testing.search import (
    LARGEST,
    Loads,
    change_loads,
    random_loads,
    search,
    simpler_loads,
)

BATCH = 192
"""Steps that a dispatcher shares in one call."""
ELITE = 24
"""The worst found so far, from which new ones are made."""
ROUNDING = Fraction(1, 10**6)
"""A ratio so little above 1 is that of shares rounded to float32."""
PROVED = 24
"""Of each batch so many are compared with the exact optimum, those that look worst."""


@dataclass(frozen=True)
class DispatcherAttack:
    """What a search came to; as :class:`eplb_opt.testing.attack.Attack`.

    Attributes:
        worst: makespan and optimum; None if the dispatcher is optimal on all that was tried.
        placed_on: the loads that the policy placed by; () without one.
        batches: how often the dispatcher was asked.
        failed: how often it, or the policy, then failed.
        message: which, and why, the first time.
        interrupted: Ctrl-C ended the search early.
    """

    worst: Served | None
    placed_on: tuple[int, ...]
    batches: int
    failed: int
    message: str = ""
    interrupted: bool = False


def hunt_dispatch(
    dispatcher: AnyDispatcher,
    num_experts: int,
    machine: Topology,
    *,
    seconds: float,
    seed: int = 0,
    least: int = 1,
    policy: str | None = None,
    runner: DispatcherRunner | None = None,
    policies: PolicyRunner | None = None,
    progress: Callable[[float, Served | None], None] = lambda _share, _worst: None,
) -> DispatcherAttack:
    """The worst step found in the time: random starts, local search, then shrinking.

    Placements are those of ``policy`` for other loads, or any valid ones. Every ratio is exact.
    Ctrl-C returns what is known so far. The runners are used in place of own ones.
    """
    chance = np.random.default_rng(seed)
    with (
        DispatcherRunner(dispatcher) if runner is None else nullcontext(runner) as asked,
        PolicyRunner() if policies is None else nullcontext(policies) as placing,
    ):
        found = _Hunt(num_experts, machine, least, policy, chance, asked, placing)
        interrupted = search(found, seconds, progress)
    return DispatcherAttack(
        found.worst, found.placed_on, found.batches, found.failed, found.message, interrupted
    )


class _Hunt:
    """The search; an interrupt leaves what it knows as it is."""

    def __init__(
        self,
        num_experts: int,
        machine: Topology,
        least: int,
        policy: str | None,
        chance: np.random.Generator,
        runner: DispatcherRunner,
        policies: PolicyRunner,
    ) -> None:
        self.num_experts, self.machine, self.least = num_experts, machine, least
        self.policy, self.chance = policy, chance
        self.runner, self.policies = runner, policies
        self.elite: list[tuple[Fraction, Step]] = []
        self.worst: Served | None = None
        self.placed_on: tuple[int, ...] = ()
        self.batches = self.failed = 0
        self.message = ""

    def step(self) -> None:
        """Try a batch: half of it new, half changes of the worst found so far."""
        try:
            placed = self._placements()
        except PolicyError as error:
            self.batches += 1
            self._fail(self.policy or "", error)
            return
        steps = [self._next(i, *pair) for i, pair in enumerate(placed)]
        for step, served in self._proved(steps):
            self.elite = sorted({*self.elite, (served.ratio, step)}, reverse=True)[:ELITE]
            if self.worst is None or served.ratio > self.worst.ratio:
                self._take(step)

    def shrink(self, least_ratio: Fraction) -> bool:
        """Take a simpler step whose ratio is large enough; whether there was any."""
        worst = self.worst
        if worst is None:
            return False
        now = Step(worst.loads, worst.phy2log, self.placed_on)
        loads = np.array(list(simpler_loads(worst.loads)))
        others = {now._replace(loads=self._clip(row)) for row in loads}
        if self.policy is None:
            others |= {tidy(step, self.machine.num_ranks) for step in (now, *others)}
        simpler = [step for step in others if size_of_step(step) < size_of_step(now)]
        for step, served in sorted(self._proved(simpler), key=lambda pair: size_of_step(pair[0])):
            if served.ratio >= least_ratio and self._take(step, least_ratio):
                return True
        return False

    def _take(self, step: Step, least_ratio: Fraction | None = None) -> bool:
        """Ask for this step alone, as a test will; keep it if it is as bad there."""
        ranks = self.machine.num_ranks
        self.batches += 1
        try:
            served = measure_dispatch(self.runner, step.loads, step.phy2log, ranks)
        except (PolicyError, BadAnswerError) as error:
            self._fail(self.runner.name, error)
            return False
        known = self.worst.ratio if self.worst else 1 + ROUNDING
        if served.ratio > known if least_ratio is None else served.ratio >= least_ratio:
            self.worst, self.placed_on = served, step.placed_on
            return True
        return False

    def _fail(self, name: str, error: Exception) -> None:
        self.failed += 1
        self.message = self.message or f"{name}: {error}"

    def _placements(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Of a batch, with the loads that they are made for: by the policy, or random ones."""
        P, E = self.machine.num_physical_experts, self.num_experts
        if self.policy is None:
            return [(random_placement(E, P, self.chance), ()) for _ in range(BATCH)]
        loads = np.array([random_loads(E, self.chance) for _ in range(BATCH)]).clip(1, LARGEST)
        instance = Instance(loads, self.machine, "global")
        placed = self.policies.run(self.policy, instance, once=True).placement.phy2log
        pairs = zip(placed.tolist(), loads.tolist(), strict=True)
        return [(tuple(row), tuple(on)) for row, on in pairs]

    def _next(self, i: int, phy2log: tuple[int, ...], placed_on: tuple[int, ...]) -> Step:
        """A new step with this placement, or a change of one of the worst."""
        if i % 2 == 0 or not self.elite:
            loads = random_loads(self.num_experts, self.chance)
            return Step(self._clip(loads), phy2log, placed_on)
        step = self.elite[self.chance.integers(len(self.elite))][1]
        if self.chance.random() < 0.3:
            new = phy2log if self.policy else change_placement(step.phy2log, self.chance)
            return step._replace(phy2log=new, placed_on=placed_on)
        return step._replace(loads=self._clip(change_loads(np.array(step.loads), self.chance)))

    def _clip(self, loads: Loads) -> tuple[int, ...]:
        return tuple(loads.clip(self.least, LARGEST).tolist())

    def _proved(self, steps: list[Step]) -> list[tuple[Step, Served]]:
        """Those that look worst, with their exact ratios."""
        steps = sorted({step for step in steps if sum(step.loads)})
        if not steps:
            return []
        ranks = self.machine.num_ranks
        loads, phy2log = np.array([s.loads for s in steps]), np.array([s.phy2log for s in steps])
        case = Case("a batch of the search", loads[None], phy2log, ranks)
        self.batches += 1
        try:
            values = self.runner.call(case.loads.astype(np.float32), phy2log, ranks).values
            check_answer(values, case)
        except (PolicyError, BadAnswerError) as error:
            self._fail(self.runner.name, error)
            return []
        ratios = makespans(values, case)[0] / _bounds(case)
        chosen = np.argsort(-ratios, kind="stable")[:PROVED].tolist()
        return [
            (steps[i], exact_dispatch(values[0, i], steps[i].loads, steps[i].phy2log, ranks))
            for i in chosen
            if ratios[i] > 1
        ]


def _bounds(case: Case) -> Floats:
    """[L] tokens that no dispatch of the only step is below: the mean, and each expert shared by
    all its ranks.
    """
    loads, layers = case.loads[0], len(case.phy2log)
    rank = np.arange(case.phy2log.shape[1]) // (case.phy2log.shape[1] // case.num_ranks)
    held: NDArray[np.bool_] = np.zeros((layers, case.num_experts, case.num_ranks), dtype=bool)
    held[np.arange(layers)[:, None], case.phy2log, rank] = True
    alone = held & (held.sum(axis=2, keepdims=True) == 1)
    single = (alone * loads[:, :, None]).sum(axis=1).max(axis=1)
    spread = (loads / held.sum(axis=2)).max(axis=1)
    return np.asarray(np.max([loads.sum(axis=1) / case.num_ranks, single, spread], axis=0))


def as_test(worst: Served, dispatcher: str, machine: Topology) -> str:
    """A pytest function that fails if the dispatcher is worse, or the optimum is wrong."""
    above = Fraction(-(-worst.ratio * 10**6 // 1), 10**6)
    times = f"{float(worst.ratio):.4f}"
    return f'''"""Found by `eplb-opt attack --dispatcher`: {times} times the optimum."""

from fractions import Fraction

from eplb_opt.testing.dispatchers import measure_dispatch

LOADS = {list(worst.loads)}
PHY2LOG = {list(worst.phy2log)}


def test_worst_case_of_the_dispatcher():
    served = measure_dispatch({dispatcher!r}, LOADS, PHY2LOG, num_ranks={machine.num_ranks})
    assert served.optimum == Fraction("{worst.optimum}")
    assert served.ratio <= Fraction("{above}")
'''
