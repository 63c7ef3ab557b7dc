"""``eplb-opt bench``: speed and quality of policies side by side, in one process."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import click

from eplb_opt.cli.errors import InputError
from eplb_opt.cli.output import describe, percent, progress_bar, show, table
from eplb_opt.cli.parameters import instance_options, policies_option, policy_limits

if TYPE_CHECKING:
    from eplb_opt.policies.runner import Limits, PolicyRunner
    from eplb_opt.problem.instance import Instance


@click.command()
@instance_options
@policies_option(
    "Default: all built-in ones. The first is the one that times are compared with.", default=()
)
@click.option("--repeat", type=int, default=7, show_default=True, help="Timed runs of each.")
@policy_limits
def command(instance: Instance, policies: tuple[str, ...], repeat: int, limits: Limits) -> int:
    """Time policies on LOADS, in turns so that all see the same machine; medians and ratios."""
    from eplb_opt.gap import measure_gap
    from eplb_opt.policies.names import PolicyError
    from eplb_opt.policies.runner import PolicyRunner
    from heuristics import POLICIES

    if repeat < 1:
        raise InputError(f"--repeat {repeat} must be at least 1")
    names = policies or tuple(POLICIES)
    with PolicyRunner(limits) as runner:
        report = measure_gap(instance, names, time_limit=0.0, runner=runner)
        runnable = [p.policy for p in report.policies if p.status == "ok"]
        try:
            seconds = _seconds(runner, instance, runnable, repeat)
        except PolicyError as error:
            raise InputError(str(error)) from error
    base = next(iter(seconds.values()), 0.0)
    columns = ("median ms", "ratio", "mean gap", "max gap")
    found = table("policy", *columns)
    for policy in report.policies:
        if policy.status != "ok":
            found.add_row(f"{policy.policy}\n  {policy.status}: {policy.message}")
            continue
        time = seconds[policy.policy]
        found.add_row(
            policy.policy,
            f"{1000 * time:.2f}",
            f"{time / base:.2f}",
            percent(policy.gap_mean),
            percent(policy.gap_max),
        )
    show(describe(instance), f"median of {repeat} runs, all layers at once", found)
    return 0


def _seconds(
    runner: PolicyRunner, instance: Instance, policies: list[str], repeat: int
) -> dict[str, float]:
    """Median seconds of each policy; rounds over all policies, so that drift hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in policies}
    with progress_bar() as progress:
        for i in range(repeat):
            progress("timing", i, repeat)
            for name in policies:
                times[name].append(runner.run(name, instance).runtime)
    return {name: median(values) for name, values in times.items()}
