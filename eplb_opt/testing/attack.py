"""Searching for loads on which a policy is worst, measured against the proven optimum."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.policies.names import PolicyError
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.result import Limit, Result
from eplb_opt.problem.topology import Topology
from solvers import solve
from solvers.dispatch import value

BATCH = 192
"""Load vectors that a policy places in one call."""
ELITE = 24
"""The worst found so far, from which new ones are made."""
PROVED = 6
"""Of each batch so many are solved, those that look worst."""
LARGEST = 1000
"""No expert gets more tokens."""
SLACK = Fraction(1, 100)
"""So much of the worst ratio found may be given up for simpler loads."""

Loads = NDArray[np.int64]


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
    rule: str = "auto",
    least: int = 1,
    solve_seconds: float = 5.0,
    runner: PolicyRunner | None = None,
    progress: Callable[[float, Worst | None], None] = lambda _share, _worst: None,
) -> Attack:
    """The worst loads found in the time: seeded random starts, local search, then shrinking.

    Only proven optima count. What is returned is the simplest found within ``SLACK`` of the worst.
    Ctrl-C returns what is known so far. ``runner`` runs the policy, in place of one of its own.
    """
    chance = np.random.default_rng(seed)
    found = _Hunt(policy, num_experts, machine, rule, least, solve_seconds, chance)
    start, interrupted = time.monotonic(), False
    try:
        with PolicyRunner() if runner is None else nullcontext(runner) as running:
            while (spent := time.monotonic() - start) < 0.85 * seconds:
                progress(spent / seconds, found.worst)
                found.step(running)
            least_ratio = found.worst.ratio * (1 - SLACK) if found.worst else Fraction(1)
            while time.monotonic() - start < seconds and found.shrink(running, least_ratio):
                progress((time.monotonic() - start) / seconds, found.worst)
    except KeyboardInterrupt:
        interrupted = True
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
        machine: Topology,
        rule: str,
        least: int,
        solve_seconds: float,
        chance: np.random.Generator,
    ) -> None:
        self.policy, self.machine, self.rule = policy, machine, rule
        self.num_experts, self.least = num_experts, least
        self.solve_seconds, self.chance = solve_seconds, chance
        self.elite: list[tuple[Fraction, tuple[int, ...]]] = []
        self.worst: Worst | None = None
        self.batches = self.failed = 0
        self.message = ""
        self._optima: dict[tuple[int, ...], Result] = {}

    def step(self, runner: PolicyRunner) -> None:
        """Try a batch: half of it new, half changes of the worst found so far."""
        batch = np.array([self._next(i) for i in range(BATCH)]).clip(self.least, LARGEST)
        batch = np.unique(batch[batch.sum(1) > 0], axis=0)
        for candidate in self._rank_batch(runner, batch)[:PROVED]:
            found = self._prove(candidate)
            if found is None:
                continue
            self.elite.append((found.ratio, found.loads))
            self.elite = sorted(set(self.elite), reverse=True)[:ELITE]
            if self.worst is None or found.ratio > self.worst.ratio:
                self.worst = found

    def shrink(self, runner: PolicyRunner, least_ratio: Fraction) -> bool:
        """Take simpler loads whose ratio is large enough; whether there were any."""
        worst = self.worst
        if worst is None:
            return False
        simpler = np.array(list(_simpler(worst.loads))).clip(self.least, LARGEST)
        simpler = np.unique(simpler[simpler.sum(1) > 0], axis=0)
        for candidate in sorted(self._rank_batch(runner, simpler), key=lambda c: _size(c[1])):
            if _size(candidate[1]) >= _size(worst.loads):
                continue
            found = self._prove(candidate)
            if found and found.ratio >= least_ratio:
                self.worst = found
                return True
        return False

    def _next(self, i: int) -> Loads:
        if i % 2 and self.elite:
            return self._change(np.array(self.elite[self.chance.integers(len(self.elite))][1]))
        n, kind = self.num_experts, self.chance.integers(4)
        if kind == 0:
            return self.chance.integers(0, 30, n)
        if kind == 1:
            return 2 ** self.chance.integers(0, 9, n)
        if kind == 2:
            heavy = np.ones(n, dtype=np.int64)
            some = self.chance.integers(1, n) if n > 1 else 1
            heavy[:some] = self.chance.integers(2, 100, some)
            return heavy
        return self.chance.lognormal(3, 1.5, n).astype(np.int64)

    def _change(self, loads: Loads) -> Loads:
        loads = loads.copy()
        for _ in range(1 + self.chance.integers(3)):
            e, f = self.chance.integers(len(loads), size=2)
            kind = self.chance.integers(5)
            if kind == 0:
                loads[e] += self.chance.integers(-3, 4)
            elif kind == 1:
                loads[e] = loads[f]
            elif kind == 2:
                loads[e] = round(float(loads[e]) * self.chance.uniform(0.6, 1.6))
            elif kind == 3:
                loads[e] = 1
            else:
                loads[e], loads[f] = loads[e] + loads[f] // 2, loads[f] - loads[f] // 2
        return loads

    def _rank_batch(
        self, runner: PolicyRunner, batch: Loads
    ) -> list[tuple[float, tuple[int, ...], tuple[int, ...]]]:
        """Ratio to a simple bound, loads and placement; largest ratio first."""
        instance = Instance(batch, self.machine, self.rule)  # type: ignore[arg-type]
        self.batches += 1
        try:
            placement = runner.run(self.policy, instance).placement
        except PolicyError as error:
            self.failed += 1
            self.message = self.message or str(error)
            return []
        peaks = placement.rank_loads(batch, self.machine.num_ranks).max(1)
        bound = batch.sum(1) / self.machine.num_ranks
        order = np.argsort(-peaks / np.maximum(bound, 1e-9), kind="stable")
        rows, phy2log = batch.tolist(), placement.phy2log.tolist()
        return [(float(peaks[i] / bound[i]), tuple(rows[i]), tuple(phy2log[i])) for i in order]

    def _prove(self, candidate: tuple[float, tuple[int, ...], tuple[int, ...]]) -> Worst | None:
        """The exact ratio, if the optimum can be proven in time."""
        ratio, loads, phy2log = candidate
        if self.worst is not None and ratio <= 0.9 * float(self.worst.ratio):
            return None  # the ratio to the mean is at least that to the optimum
        layer = Instance([loads], self.machine, self.rule).layer(0)  # type: ignore[arg-type]
        if loads not in self._optima:
            found = solve(layer, time_limit=self.solve_seconds)
            if found.limit == Limit.INTERRUPT:  # no exception: the search keeps what it found
                raise KeyboardInterrupt
            self._optima[loads] = found
        result = self._optima[loads]
        if result.status != "optimal" or not result.objective:
            return None
        return Worst(loads, value(layer, phy2log).incumbent, result, phy2log)


def _size(loads: tuple[int, ...]) -> tuple[int, int, int]:
    """What shrinking makes small: the sum, how many differ, the order."""
    disorder = sum(a < b for a, b in pairwise(loads))
    return sum(loads), len(set(loads)), disorder


def _simpler(loads: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    ordered = tuple(sorted(loads, reverse=True))
    if ordered != loads:
        yield ordered
    for divisor in (10, 5, 3, 2):
        yield tuple(-(-load // divisor) for load in loads)
        yield tuple(load // divisor for load in loads)
    for e, load in enumerate(loads):
        for smaller in {0, 1, load // 2, load - 5, load - 2, load - 1} - {load}:
            if 0 <= smaller < load:
                yield (*loads[:e], smaller, *loads[e + 1 :])


def as_test(worst: Worst, policy: str, machine: Topology) -> str:
    """A pytest function that fails once the policy is that bad no more, or the optimum is wrong."""
    optimum = worst.result.objective
    call = ", ".join(f"{name}={value}" for name, value in _sizes(machine).items())
    return f'''"""Found by `eplb-opt attack`: {float(worst.ratio):.4f} times the optimum."""

from fractions import Fraction

from eplb_opt import Instance, Topology
from eplb_opt.gap import measure_gap
from solvers import solve
from solvers.dispatch import value

LOADS = {list(worst.loads)}


def test_worst_case_of_the_policy():
    instance = Instance([LOADS], Topology({call}))
    result = solve(instance.layer(0))
    assert result.status == "optimal"
    assert result.objective == Fraction("{optimum}")
    (layer,) = measure_gap(instance, [{policy!r}]).policies[0].layers
    assert layer.makespan / result.objective <= Fraction("{worst.ratio}")
'''


def _sizes(machine: Topology) -> dict[str, Any]:
    return {
        "num_physical_experts": machine.num_physical_experts,
        "num_ranks": machine.num_ranks,
        "num_nodes": machine.num_nodes,
        "num_groups": machine.num_groups,
    }
