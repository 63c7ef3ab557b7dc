"""What each placement was worth until the next one, against what was possible.

Layers run one after the other and ranks wait for the fullest, so that tokens on the fullest rank
add up over layers and steps. The **loss** of steps is ``sum of makespans / sum of mean rank loads -
1``. Of the steps from one answer of the policy to the next:

- *on the window*: what the new placement loses on the loads that the policy saw;
- *served*: what was lost. The difference, **staleness**, is what the change of loads adds (and,
  if layers are moved one by one, what it costs that some still wait);
- *without rearranging*: what the placement until then would have lost;
- *hindsight*: what the best constant placement loses that knows the loads to come. It lies between
  two numbers. Below: ``max over ranks of sums <= sum of maxima``, so that no constant placement has
  a smaller sum of makespans than the proven bound for the summed loads. Above: the best of the
  constant placements that were tried.

Under the rule ``home`` a limit of traffic holds for the loads that a policy sees, and in hindsight
for those to come; what is served may be above it, and then lose less than any placement within it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from eplb_opt import bounds
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.objective import step_makespans
from eplb_opt.problem.rationals import float_below, relative_gap
from eplb_opt.problem.topology import Rule
from eplb_opt.serving.replay.simulate import Scenario, Trail, placed
from eplb_opt.serving.replay.simulated_engine import Decision, on_machine
from eplb_opt.serving.replay.traffic import parts_off_home
from eplb_opt.serving.state_machine import Map, Tokens
from solvers.dispatch import value

HINDSIGHT_POLICY = "refined"


@dataclass(frozen=True)
class ReplayInterval:
    """The steps ``start`` to ``stop - 1``, served by what the policy answered before them.

    Losses are ratios over the mean rank load; None where nothing was served or seen, or where there
    is no such placement.

    Attributes:
        start: first step.
        stop: the step after the last.
        message: why the policy failed; empty if it did not.
        seconds: of the policy's call; None at the start and if it failed.
        gap_mean: gap of the new placement to the proven bound on the window, mean over rows that
            have load there.
        gap_max: the largest.
        on_window: loss of the new placement on the window.
        served: loss.
        without: loss if nothing had been rearranged.
        hindsight_low: no constant placement loses less.
        hindsight_high: a constant placement that loses this is known.
        received: experts received for it, in its steps.
        traffic: the part of the tokens that was served off home; None where nothing was served, or
            where nodes do not divide groups.
    """

    start: int
    stop: int
    message: str = ""
    seconds: float | None = None
    gap_mean: float | None = None
    gap_max: float | None = None
    on_window: float | None = None
    served: float | None = None
    without: float | None = None
    hindsight_low: float | None = None
    hindsight_high: float | None = None
    received: int = 0
    traffic: float | None = None

    @property
    def staleness(self) -> float | None:
        """``served - on_window``."""
        known = self.served is not None and self.on_window is not None
        return self.served - self.on_window if known else None  # type: ignore[operator]


class Judge:
    """Splits trails of one scenario into intervals; what is known of the best is shared."""

    def __init__(self, scenario: Scenario, runner: PolicyRunner) -> None:
        self.scenario, self.runner = scenario, runner
        self._bounds: dict[tuple[int, int, int], tuple[float, Map]] = {}

    def intervals(self, trail: Trail, *, ask: bool = True) -> tuple[ReplayInterval, ...]:
        """In order, from step 0 to the last that was replayed; without ``ask`` no policy is asked
        for a constant placement that is not known yet.
        """
        answers: list[Decision | None] = [None, *trail.decisions]
        starts = [0, *(decision.step + 1 for decision in trail.decisions)]
        received = [0] * len(answers)
        for move in trail.moves:
            received[move.answer + 1] += move.received
        return tuple(
            self._interval(trail, answer, start, stop, arrived, ask)
            for answer, (start, stop), arrived in zip(
                answers, pairwise([*starts, trail.steps]), received, strict=True
            )
        )

    def _interval(
        self, trail: Trail, answer: Decision | None, start: int, stop: int, received: int, ask: bool
    ) -> ReplayInterval:
        loads = self.scenario.trace[start:stop]
        mean = float(trail.mean[start:stop].sum())
        found = {} if answer is None else _of_answer(answer, loads, mean)
        found["traffic"] = trail.traffic(start, stop)
        if mean > 0:
            found |= {"served": float(trail.makespan[start:stop].sum()) / mean - 1}
            ranks = round(float(loads.sum()) / mean)  # that served, whatever the policy was told
            low, high = self._hindsight(start, stop, ranks, ask)
            tried = [found.pop("tried", None), found.pop("constant", None), high]
            known = [max(low, value) for value in tried if value is not None]  # but for rounding
            found |= {"hindsight_low": low, "hindsight_high": min(known, default=None)}
        message = answer.message if answer else ""
        return ReplayInterval(start, stop, message, received=received, **found)

    def _hindsight(
        self, start: int, stop: int, ranks: int, ask: bool
    ) -> tuple[float, float | None]:
        """A proven bound, and what :data:`HINDSIGHT_POLICY` reaches that knows the loads."""
        loads = self.scenario.trace[start:stop]
        key = start, stop, ranks
        if key not in self._bounds:
            scenario = self.scenario
            machine, limit = scenario.machine(ranks), scenario.traffic_limit
            instance = on_machine(loads.sum(0), machine, scenario.rule, limit)
            layers = [layer for layer in instance.layers() if layer.has_load]
            total = sum((bounds.of(layer).value for layer in layers), Fraction(0))
            tokens = sum(sum(layer.loads) * layer.unit for layer in layers)
            low = float_below(total * ranks / tokens - 1)
            if not ask:
                return low, None
            run = self.runner.run(HINDSIGHT_POLICY, instance, once=True)
            self._bounds[key] = low, run.placement.phy2log
        low, phy2log = self._bounds[key]
        return low, _makespans(phy2log, loads, ranks) * ranks / float(loads.sum()) - 1


def _of_answer(answer: Decision, loads: Tokens, mean: float) -> dict[str, float | None]:
    """What is known from the policy's answer; ``loads`` [T, R, E] are those of its steps."""
    found: dict[str, float | None] = {"seconds": answer.seconds}
    old, new, ranks = answer.old, answer.new, answer.topology.num_ranks
    if mean > 0 and old.shape[1] == answer.topology.num_physical_experts:
        found["without"] = _makespans(old, loads, ranks) / mean - 1
        found["tried"] = found["without"] if _within_limit(answer, old, loads) else None
    if new is None:
        return found
    if mean > 0 and _within_limit(answer, new, loads):
        found["constant"] = _makespans(new, loads, ranks) / mean - 1
    gaps = window_gaps(answer)
    seen = answer.loads.sum() / ranks
    return found | {
        "gap_mean": float(np.mean(gaps)) if gaps else None,
        "gap_max": max(gaps, default=None),
        "on_window": _makespans(new, answer.loads[None], ranks) / seen - 1 if seen > 0 else None,
    }


def _within_limit(answer: Decision, phy2log: Map, loads: Tokens) -> bool:
    """Whether constant placements [R, P] keep the limit of traffic for loads [T, R, E]."""
    if answer.rule != Rule.HOME or answer.traffic_limit == 1:
        return True
    total = loads.sum(0)
    away = (total * parts_off_home(phy2log, total, answer.topology)).sum(1)
    return not (away > float(answer.traffic_limit) * total.sum(1) * (1 + 1e-9)).any()


def window_gaps(answer: Decision) -> list[float]:
    """Gap of the new placement to the proven bound on what the policy saw, of rows with load."""
    if answer.new is None:
        return []
    instance = on_machine(answer.loads, answer.topology, answer.rule, answer.traffic_limit)
    rows: list[Sequence[int]] = answer.new.tolist()
    return [
        relative_gap(value(layer, row).incumbent, bounds.of(layer).value)
        for layer, row in zip(instance.layers(), rows, strict=True)
        if layer.has_load
    ]


def _makespans(phy2log: Map, loads: Tokens, ranks: int) -> float:
    """Sum over steps and rows of the makespan of a constant placement, for loads [T, R, E]."""
    return float(step_makespans(placed(phy2log, loads[0]), loads, ranks).sum())
