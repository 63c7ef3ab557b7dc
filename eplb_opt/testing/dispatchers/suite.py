"""The named checks behind ``eplb-opt check --dispatcher``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.policies.dispatchers import AnyDispatcher, DispatcherRunner
from eplb_opt.policies.names import policy_name
from eplb_opt.policies.process import Limits
from eplb_opt.testing.contracts import Finding, message_of
from eplb_opt.testing.dispatchers.cases import cases
from eplb_opt.testing.dispatchers.contracts import Asked, check_not_above_even, contracts, same
from eplb_opt.testing.dispatchers.measure import (
    SHARE_TOLERANCE,
    Case,
    Floats,
    check_answer,
    is_whole,
    makespans,
    optima,
)
from eplb_opt.testing.suite import risen, write_gaps

WORSE = 1e-6
"""So much larger, relatively, a makespan may be than another dispatcher's."""

Answers = dict[Case, NDArray[Any]]


def assert_dispatcher(dispatcher: AnyDispatcher, *, gap_below: float | None = None) -> None:
    """Every check of ``eplb-opt check --dispatcher`` holds; a function is called here.

    Raises:
        AssertionError: names every check that failed, and why.
    """
    findings = run_dispatcher_suite(dispatcher, gap_below=gap_below)
    failed = [f"{finding.check}: {finding.message}" for finding in findings if finding.message]
    if failed:
        raise AssertionError("; ".join(failed))


def run_dispatcher_suite(
    dispatcher: AnyDispatcher,
    *,
    limits: Limits | None = None,
    never_worse_than: AnyDispatcher | None = None,
    gap_below: float | None = None,
    baseline: Path | None = None,
    tolerance: float = 1e-3,
    runner: DispatcherRunner | None = None,
) -> Iterator[Finding]:
    """The findings of all checks on a dispatcher, as they come.

    Args:
        dispatcher: its name, its file, or a function, which is called in this process.
        limits: of time and memory for each call of a user's file.
        never_worse_than: another one; no layer of a case may be served with more, over its steps.
        gap_below: largest excess over the optimum, of any step.
        baseline: file of excesses by case; written if it is missing, else none may have risen.
        tolerance: by how much an excess may rise, in the ratio's own unit.
        runner: calls the dispatcher, in place of one with ``limits``.

    Raises:
        KeyboardInterrupt: Ctrl-C; a file of excesses that is missing then has those measured.
    """
    answers: Answers = {}
    opened = DispatcherRunner(dispatcher, limits) if runner is None else nullcontext(runner)
    try:
        with opened as running:
            yield from _contracts(Asked(running), answers)
        if len(answers) < len(cases()):
            return
        if isinstance(dispatcher, str):
            again = partial(_again, dispatcher, limits, answers)
            yield Finding("same in another process", message_of(again))
        if never_worse_than is not None:
            with DispatcherRunner(never_worse_than, limits) as other:
                worse = _each(answers, partial(_not_worse, ask=Asked(other)))
            yield Finding(f"never worse than {policy_name(never_worse_than)}", worse)
        yield from _gaps(answers, gap_below, baseline, tolerance)
    except KeyboardInterrupt:
        if baseline is not None and not baseline.exists():
            write_gaps(baseline, _mean_excesses(answers), interrupted=True)
        raise


def _contracts(ask: Asked, answers: Answers) -> Iterator[Finding]:
    """First the cases, whose ``answers`` are kept; only what survives that is asked the rest."""
    told = set[str]()
    for case in cases():
        finding = _valid(ask, case, answers)
        known = finding.message in told
        told |= {finding.message} - {""}
        yield replace(finding, message="as above") if known else finding
    yield Finding("input untouched", ask.wrote and f"it wrote into its input: {ask.wrote}")
    if len(answers) < len(cases()):
        yield Finding("contracts", "not checked: the dispatcher must first pass those above")
        return
    above = _each(answers, check_not_above_even)
    ask.above_even = bool(above)
    yield Finding("never above even", above)
    yield Finding("never below the optimum", _each(answers, _not_below))
    for name, check in contracts().items():
        yield Finding(name, message_of(partial(check, ask)))


def _valid(ask: Asked, case: Case, answers: Answers) -> Finding:
    """Whether the answer is valid; then it is kept."""
    word = "valid"

    def check() -> None:
        nonlocal word
        values = ask.values(case)
        word = "counts met" if is_whole(values) else word
        check_answer(values, case)
        answers[case] = values

    message = message_of(check).removeprefix(f"{case.source}: ")
    return Finding(f"{word}: {case.source}", message)


def _each(answers: Answers, check: Any) -> str:
    """What the check says of the first case that fails it."""
    messages = (message_of(partial(check, values, case)) for case, values in answers.items())
    return next(filter(None, messages), "")


def _not_below(values: NDArray[Any], case: Case) -> None:
    """A makespan below the proven optimum is an answer that serves not all tokens."""
    ratio = _ratios(values, case)
    if (ratio < 1 - SHARE_TOLERANCE).any():
        raise AssertionError(f"{case.source}: {ratio.min():.6f} of the least makespan there is")


def _ratios(values: NDArray[Any], case: Case) -> Floats:
    """[T, L] makespan over the exact optimum; 1 where there is no load."""
    found, best = makespans(values, case), optima(case, whole=is_whole(values))
    return np.divide(found, best, out=np.ones_like(best), where=best > 0)


def _again(dispatcher: str, limits: Limits | None, answers: Answers) -> None:
    with DispatcherRunner(dispatcher, limits, apart=True) as other:
        ask = Asked(other)
        for case, values in answers.items():
            if not same(ask(case), values):
                raise AssertionError(f"{case.source}: another answer in another process")


def _gaps(
    answers: Answers,
    gap_below: float | None,
    baseline: Path | None,
    tolerance: float,
) -> Iterator[Finding]:
    if gap_below is not None:
        yield Finding(f"gap at most {gap_below:.4%}", _too_large(answers, gap_below))
    if baseline is not None:
        yield Finding("gaps have not risen", risen(_mean_excesses(answers), baseline, tolerance))


def _not_worse(values: NDArray[Any], case: Case, *, ask: Asked) -> None:
    ours, theirs = (makespans(found, case).sum(axis=0) for found in (values, ask(case)))
    worse = ours > theirs * (1 + WORSE)
    if worse.any():
        layer = int(np.argmax(ours / theirs))
        raise AssertionError(
            f"{case.source}: layer {layer}: makespans of {ours[layer]:g} tokens over the steps, "
            f"but {theirs[layer]:g}, in {int(worse.sum())} of {len(worse)} layers"
        )


def _too_large(answers: Answers, limit: float) -> str:
    """Where a makespan is furthest above the optimum, if that is above the limit."""
    excesses = {case: _ratios(values, case) - 1 for case, values in answers.items()}
    case, excess = max(excesses.items(), key=lambda pair: float(pair[1].max()))
    step, layer = (int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
    if excess[step, layer] <= limit:
        return ""
    return (
        f"{case.source}: step {step}, layer {layer}: {excess[step, layer]:.4%} above the optimum, "
        f"more than {limit:.4%}"
    )


def _mean_excesses(answers: Answers) -> dict[str, float]:
    """By case: the sum of the makespans over that of the optima, less 1."""
    return {
        case.source: float(
            makespans(values, case).sum() / optima(case, whole=is_whole(values)).sum() - 1
        )
        for case, values in answers.items()
    }
