"""The suite of named checks behind ``eplb-opt check`` and the pytest plugin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eplb_opt.gap import PolicyGap, measure_gap
from eplb_opt.io.atomic import replace_file
from eplb_opt.io.synthetic import generate
from eplb_opt.policies.names import PolicyError, load_policy
from eplb_opt.policies.process import Limits
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import EVEN_SUM, SUM, Cost, Dispatch
from eplb_opt.problem.topology import Topology
from eplb_opt.testing.assertions import assert_never_worse, assert_valid, measure_makespans
from eplb_opt.testing.contracts import Finding, check_contracts, message_of
from eplb_opt.testing.traces import check_steps, small_traces


def small_instances() -> list[Instance]:
    """Instances that are solved at once: ties, zeros, skew, both rules, corner cases."""
    rows = {
        "published": [600, 560, 120, 120, 20, 10, 10, 10],
        "equal": [1] * 8,
        "one expert has all": [1000, 0, 0, 0, 0, 0, 0, 0],
        "powers": [128, 64, 32, 16, 8, 4, 2, 1],
        "near-equal": [1000, 1001, 999, 1000, 1000, 1002, 998, 1000],
        "no load": [0] * 8,
        "huge ratio": [10**9, 1, 1, 1, 1, 1, 1, 1],
    }
    machines = {
        "8 slots, 2 ranks": Topology(8, 2),
        "12 slots, 4 ranks": Topology(12, 4),
        "16 slots, 8 ranks": Topology(16, 8),
        "8 slots, 8 ranks": Topology(8, 8),
        "10 slots, 1 rank": Topology(10, 1),
        "12 slots, 4 ranks, 2 nodes": Topology(12, 4, 2, 4),
        "16 slots, 4 ranks, 4 nodes": Topology(16, 4, 4, 4),
    }
    return [
        Instance(
            np.array(list(rows.values())), machine, source=f"{len(rows)} kinds of loads on {name}"
        )
        for name, machine in machines.items()
    ]


def full_scale_instances(layers: int = 8) -> list[Instance]:
    """Sizes as in production: 256 experts on 32 to 96 ranks, both rules; generated loads."""
    machines = [
        Topology(288, 32),
        Topology(288, 32, 4, 8),
        Topology(320, 64),
        Topology(288, 72),
    ]
    families: dict[str, dict[str, Any]] = {
        "deepseek-v3": {},
        "lognormal": {"shape": 1.5},
        "zipf": {},
    }
    found = []
    for family, options in families.items():
        loads = generate(
            family, num_layers=layers, num_experts=256, tokens=10**6, seed=1, **options
        )
        for machine in machines:
            name = f"{family}, {machine.num_physical_experts} slots on {machine.num_ranks} ranks"
            found.append(Instance(loads, machine, source=f"{name}, {machine.num_nodes} nodes"))
    return found


def home_instances() -> list[Instance]:
    """Groups at home and copies anywhere, with limits of traffic: where a policy may place
    hierarchically, and is not asked for more.
    """
    small: Any = [[600, 560, 120, 120, 20, 10, 10, 10], [1000, 0, 0, 0, 0, 0, 0, 0], [0] * 8]
    large = generate("deepseek-v3", num_layers=2, num_experts=256, tokens=10**6, seed=1)
    cases = [
        (small, Topology(12, 4, 2, 4), 1.0),
        (small, Topology(16, 4, 4, 4), 0.1),
        (large, Topology(288, 32, 4, 8), 0.1),
    ]
    return [
        Instance(
            loads,
            machine,
            "home",
            f"{machine.num_physical_experts} slots, {machine.num_nodes} nodes, at home, traffic up "
            f"to {limit:g}",
            traffic_limit=limit,
        )
        for loads, machine, limit in cases
    ]


STEPS = 8
"""Drawn for a policy that looks at them."""


def with_steps(instance: Instance) -> Instance:
    """The instance with steps drawn around its loads, by :func:`heuristics.steps.draw_steps`."""
    import torch

    from heuristics.steps import draw_steps

    trace = draw_steps(torch.tensor(instance.loads), steps=STEPS).numpy()
    return replace(instance, loads=trace, source=f"{instance.source}, {STEPS} drawn steps")


def run_suite(
    name: str,
    *,
    limits: Limits | None = None,
    never_worse_than: str | None = None,
    gap_below: float | None = None,
    baseline: Path | None = None,
    tolerance: float = 1e-3,
    runner: PolicyRunner | None = None,
) -> Iterator[Finding]:
    """The findings of all checks on a policy, as they come.

    First the policy runs in a process of its own on every instance; only what survives that is
    called in this process.

    Compared is the makespan under even dispatch; of a built-in policy that is made for another
    dispatch the makespan under that. One that looks at steps is given steps, drawn ones and those
    of small traces, and compared by what it minimizes over them (``Policy.cost``).

    Args:
        name: of the policy, or its file.
        limits: of time and memory for each call.
        never_worse_than: another policy that it must not lose to, in any layer.
        gap_below: largest gap to the proven bound, over all instances.
        baseline: file of gaps; written if it is missing, else no mean gap may have risen.
        tolerance: by how much a mean gap may rise, in the ratio's own unit.
        runner: runs the policy, in place of one with ``limits``.

    Raises:
        KeyboardInterrupt: Ctrl-C; a file of gaps that is missing then has those measured.
    """
    alive, instances = True, [*small_instances(), *full_scale_instances()]
    with PolicyRunner(limits) if runner is None else nullcontext(runner) as running:
        cost = _cost_of(name, running)
        small = list[Instance]()
        if cost.objective != SUM:
            instances, small = [with_steps(instance) for instance in instances], small_traces()
        for instance in [*instances, *small]:
            failed = message_of(partial(running.run, name, instance))
            alive = alive and not failed
            yield Finding(f"valid: {instance.source}", failed)
        for instance in home_instances():
            given = instance if cost.objective == SUM else with_steps(instance)
            failed = message_of(partial(_place_at_home, name, given, cost, running))
            yield Finding(f"valid: {given.source}", failed)
        if alive:
            yield from _quality(
                name, instances, cost, running, never_worse_than, gap_below, baseline, tolerance
            )
    if not alive:
        yield Finding("contracts", "not checked: the policy must first pass the checks above")
        return
    yield from check_contracts(load_policy(name))


def _place_at_home(name: str, instance: Instance, cost: Cost, runner: PolicyRunner) -> None:
    """Homes, and under even dispatch the limit of traffic."""
    placement = runner.run(name, instance).placement
    if cost.dispatch == Dispatch.EVEN:
        assert_valid(placement, instance)


def _cost_of(name: str, runner: PolicyRunner) -> Cost:
    """What a policy minimizes; of one that cannot be loaded the checks say why."""
    try:
        return runner.cost_of(name)
    except PolicyError:
        return EVEN_SUM


def _quality(
    name: str,
    instances: list[Instance],
    cost: Cost,
    runner: PolicyRunner,
    never_worse_than: str | None,
    gap_below: float | None,
    baseline: Path | None,
    tolerance: float,
) -> Iterator[Finding]:
    same = message_of(lambda: _reproduces(name, instances, cost))
    yield Finding("same result in every process", same)
    words, judged = cost._asdict(), "" if cost == EVEN_SUM else f" ({cost})"
    compared = instances
    if cost.objective != SUM:
        yield from check_steps(name, cost, runner, gap_below)
        compared = instances + small_traces()
    if never_worse_than is not None:
        check = partial(assert_never_worse, name, never_worse_than, on=compared, **words)
        yield Finding(f"never worse than {never_worse_than}{judged}", message_of(check))
    if gap_below is None and baseline is None:
        return
    gaps: dict[str, PolicyGap] = {}
    try:
        for instance in instances:
            gaps[instance.source] = _gap(name, instance, cost, runner)
    except KeyboardInterrupt:
        if baseline is not None and not baseline.exists():
            write_gaps(baseline, _means(gaps), interrupted=True)
        raise
    if gap_below is not None:
        yield Finding(f"gap at most {gap_below:.4%}{judged}", _too_large(gaps, gap_below))
    if baseline is not None:
        yield Finding(f"gaps have not risen{judged}", risen(_means(gaps), baseline, tolerance))


def _gap(name: str, instance: Instance, cost: Cost, runner: PolicyRunner) -> PolicyGap:
    report = measure_gap(instance, [name], runner=runner, **cost._asdict())
    if report.interrupted:
        raise KeyboardInterrupt
    return report.policies[0]


def _means(gaps: dict[str, PolicyGap]) -> dict[str, float]:
    return {source: gap.gap_mean or 0.0 for source, gap in gaps.items() if gap.status == "ok"}


def _too_large(gaps: dict[str, PolicyGap], limit: float) -> str:
    """Where a gap is above the limit, the largest; or where there is none to compare."""
    for source, gap in gaps.items():
        if gap.status != "ok":
            return f"{source}: {gap.status}: {gap.message}"
    layers = [(layer, source) for source, gap in gaps.items() for layer in gap.layers]
    worst, source = max(layers, key=lambda pair: pair[0].gap)
    if worst.gap <= limit:
        return ""
    return (
        f"{source}: layer {worst.layer}: {worst.gap:.4%} above the proven bound, more than "
        f"{limit:.4%}"
    )


def _reproduces(name: str, instances: list[Instance], cost: Cost) -> None:
    with PolicyRunner() as first, PolicyRunner() as second:
        for instance in instances[-3:]:
            ours, theirs = (
                measure_makespans(name, instance, runner, cost) for runner in (first, second)
            )
            if (np.abs(ours - theirs) > 1e-9 * ours).any():
                raise AssertionError(f"{instance.source}: another makespan in another process")


def write_gaps(baseline: Path, gaps: dict[str, float], *, interrupted: bool = False) -> None:
    """Write the file of gaps."""
    document = gaps | ({"interrupted": True} if interrupted else {})
    replace_file(baseline, (json.dumps(document, indent=1) + "\n").encode())


def risen(gaps: dict[str, float], baseline: Path, tolerance: float) -> str:
    """What has become worse than in the file; writes it if there is none, or if it was begun only
    and nothing in it has become worse.
    """
    if not baseline.exists():
        write_gaps(baseline, gaps)
        return ""
    try:
        before = json.loads(baseline.read_text())
        worse = {s: g for s, g in gaps.items() if s in before and g > before[s] + tolerance}
    except (ValueError, TypeError) as error:
        return f"{baseline} is no file of gaps: {error}"
    if not worse:
        if before.get("interrupted"):
            write_gaps(baseline, gaps)
        return ""
    source = max(worse, key=lambda s: worse[s] - before[s])
    return (
        f"{source}: mean gap {before[source]:.4%} has become {worse[source]:.4%} "
        f"(and {len(worse) - 1} more)"
    )
