"""What a replay says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from eplb_opt.policies.names import AnyPolicy, named_policies
from eplb_opt.policies.process import Limits
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.shown import Shown, ShowsItself, percent
from eplb_opt.serving.replay.judge import Judge, ReplayInterval
from eplb_opt.serving.replay.simulate import Scenario, Trail, simulate
from eplb_opt.serving.state_machine import Settings

EXPERT_BYTES = 3 * 7168 * 2048
"""One expert of DeepSeek-V3 in 8 bits: three matrices."""


@dataclass(frozen=True)
class Replayed:
    """A policy over the trace: what happened, and what that was worth."""

    trail: Trail
    intervals: tuple[ReplayInterval, ...]

    @property
    def policy(self) -> str:
        """Its name."""
        return self.trail.policy

    @property
    def loss(self) -> float | None:
        """``sum of makespans / sum of mean rank loads - 1`` over all steps and layers."""
        mean = float(self.trail.mean.sum())
        return float(self.trail.makespan.sum()) / mean - 1 if mean > 0 else None

    @property
    def traffic(self) -> float | None:
        """The part of the tokens served off home; None where nodes do not divide groups."""
        return self.trail.traffic()

    @property
    def answered(self) -> list[ReplayInterval]:
        """The intervals that a policy's answer began."""
        return [i for i in self.intervals if i.seconds is not None]

    @property
    def failures(self) -> list[ReplayInterval]:
        """The intervals in which the old placement stayed because the policy failed."""
        return [i for i in self.intervals if i.message]

    @property
    def received(self) -> int:
        """Experts received, in all."""
        return sum(move.received for move in self.trail.moves)

    @property
    def received_most(self) -> int:
        """Sum over moves of what the rank received that received most."""
        return sum(move.received_most for move in self.trail.moves)

    def mean_of(self, term: str) -> float | None:
        """A term of the intervals that an answer began, weighted by their steps."""
        known = [(getattr(i, term), i.stop - i.start) for i in self.answered]
        known = [(value, steps) for value, steps in known if value is not None]
        total = sum(steps for _, steps in known)
        return sum(value * steps for value, steps in known) / total if total else None


@dataclass(frozen=True, repr=False)
class ReplayReport(ShowsItself):
    """All policies on one scenario.

    Attributes:
        source: of the traces.
        scenario: what happened, whatever the policy.
        policies: in the order asked for.
        expert_bytes: of one expert's weights in one layer.
        tokens_per_byte: what one byte more on the rank that receives most costs, in tokens on the
            fullest rank; None: not to be compared.
        interrupted: Ctrl-C: the last policy may have fewer steps and no intervals, others are
            missing.
    """

    source: str
    scenario: Scenario
    policies: tuple[Replayed, ...]
    expert_bytes: int = EXPERT_BYTES
    tokens_per_byte: float | None = None
    interrupted: bool = False

    def _shown(self) -> Shown:
        """Each policy over the trace."""
        rows = [
            (p.policy, str(p.trail.steps), percent(p.loss), str(p.received), str(len(p.failures)))
            for p in self.policies
        ]
        columns = ("policy", "steps", "loss", "transfers", "failures")
        return Shown(
            f"ReplayReport({self.source}{', interrupted' * self.interrupted})", columns, rows
        )

    def loss_with_moving(self, replayed: Replayed) -> float | None:
        """The loss if moving counts as tokens; None without ``tokens_per_byte``."""
        mean = float(replayed.trail.mean.sum())
        if self.tokens_per_byte is None or replayed.loss is None:
            return None
        moving = replayed.received_most * self.expert_bytes * self.tokens_per_byte
        return replayed.loss + moving / mean


def replay(
    models: Instance | Sequence[Instance],
    policies: AnyPolicy | Iterable[AnyPolicy],
    settings: Settings,
    *,
    layer_steps: int = 1,
    ranks_from: Mapping[int, int] | None = None,
    expert_bytes: int = EXPERT_BYTES,
    tokens_per_byte: float | None = None,
    limits: Limits | None = None,
    runner: PolicyRunner | None = None,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> ReplayReport:
    """Replay a trace through the state machine with each policy.

    Args:
        models: an instance with a trace [T, L, E]; or several of equal shape, which are served by
            the same ranks.
        policies: names, ``refined:40`` and ``refined:relabel`` among them, files, or functions; one
            of them or several. A function with a sixth argument is given the placement until now.
        settings: interval, window, mode.
        layer_steps: asynchronous: steps until a layer is in the buffers of all ranks.
        ranks_from: step -> number of ranks from then on.
        expert_bytes: of one expert's weights in one layer.
        tokens_per_byte: to put moving and imbalance on one axis.
        limits: of user programs.
        runner: runs the policies, in place of one with ``limits``.
        progress: called with what is done, how much of it, and of how much.

    Returns:
        What is known so far, after Ctrl-C.

    Raises:
        ValueError: no trace, shapes that differ, a scale event that cannot be.
    """
    models = [models] if isinstance(models, Instance) else list(models)
    scenario = Scenario.of(models, settings, layer_steps, ranks_from)
    found: list[Replayed] = []
    interrupted = False
    own = PolicyRunner(limits)
    try:
        with own if runner is None else nullcontext(runner) as running:
            judge = Judge(scenario, running)
            for name, policy in named_policies(policies):
                trail, interrupted = simulate(scenario, policy, running, progress)
                trail.policy = name
                found.append(Replayed(trail, ()))  # kept if Ctrl-C comes while it is judged
                found[-1] = Replayed(trail, judge.intervals(trail, ask=not interrupted))
                if interrupted:
                    break
    except KeyboardInterrupt:
        interrupted = True
    source = ", ".join(model.source for model in models)
    return ReplayReport(source, scenario, tuple(found), expert_bytes, tokens_per_byte, interrupted)
