"""``eplb-opt bench``: speed and quality of policies side by side, in one process."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError
from eplb_opt.cli.interrupts import keep_results, report_interrupt
from eplb_opt.cli.output import describe, describe_cost, percent, progress_bar, show, table
from eplb_opt.cli.parameters import cost_options, instance_options
from eplb_opt.cli.policy_options import (
    policies_loaded,
    policies_option,
    policy_limits,
    tell_other_costs,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eplb_opt.gap import GapReport
    from eplb_opt.policies.process import Limits
    from eplb_opt.policies.runner import PolicyRunner
    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.objective import Cost


@click.command()
@instance_options
@policies_option(
    "Default: all built-in ones. The first is the one that times are compared with.", default=()
)
@click.option("--repeat", type=int, default=7, show_default=True, help="Timed runs of each.")
@policy_limits
@cost_options
def command(
    instance: Instance, cost: Cost, policies: tuple[str, ...], repeat: int, limits: Limits
) -> int:
    """Time policies on LOADS, in turns so that all see the same machine; medians and ratios."""
    from eplb_opt.gap import measure_gap
    from heuristics import POLICIES

    if repeat < 1:
        raise InputError(f"--repeat {repeat} must be at least 1")
    names = policies or tuple(POLICIES)
    with policies_loaded(names, limits, instance) as runner:
        report = measure_gap(
            instance,
            names,
            objective=cost.objective,
            dispatch=cost.dispatch,
            time_limit=0.0,
            runner=runner,
        )
        timing = _Timing([p.policy for p in report.policies if p.status == "ok"])
        if not report.interrupted:
            timing.run(runner, instance, repeat)
        keep_results()
        tell_other_costs(names, runner, cost, instance)
    heading = f"median of {timing.rounds} runs, all layers at once"
    show(
        describe(instance),
        *describe_cost(instance, report.cost),
        heading,
        _bench_table(report, timing),
    )
    if report.interrupted or timing.interrupted:
        return report_interrupt(f"{timing.rounds} of {repeat} runs are done")
    return 1 if any(p.status != "ok" for p in report.policies) or timing.failed else 0


def _bench_table(report: GapReport, timing: _Timing) -> Any:
    from eplb_opt.problem.topology import Rule

    home = report.instance.rule == Rule.HOME
    found = table("policy", "median ms", "ratio", "mean gap", "max gap", *["traffic"] * home)
    seconds = timing.medians()
    base = next(iter(seconds.values()), None)
    for policy in report.policies:
        failure = timing.failed.get(policy.policy, "")
        if policy.status != "ok" or failure:
            status, message = ("error", failure) if failure else (policy.status, policy.message)
            found.add_row(f"{policy.policy}\n  {status}: {message}")
            continue
        time = seconds.get(policy.policy)
        found.add_row(
            policy.policy,
            "-" if time is None else f"{1000 * time:.2f}",
            "-" if time is None or base is None else f"{time / base:.2f}",
            percent(policy.gap_mean),
            percent(policy.gap_max),
            *[percent(policy.traffic_mean)] * home,
        )
    return found


class _Timing:
    """Runs in rounds over all policies, so that drift hits all alike.

    On a busy machine refined took 2.4 to 3.1 times as long as deepseek in ten such timings, 2.1 to
    3.9 times by the seconds of ten `eplb-opt gap`, which times each policy by itself.

    Attributes:
        rounds: complete ones.
        failed: messages of policies that failed on the way; they are run no more.
        interrupted: Ctrl-C ended it.
    """

    def __init__(self, policies: Sequence[str]) -> None:
        self.times: dict[str, list[float]] = {name: [] for name in policies}
        self.failed: dict[str, str] = {}
        self.rounds, self.interrupted = 0, False

    def run(self, runner: PolicyRunner, instance: Instance, repeat: int) -> None:
        """Run every policy ``repeat`` times."""
        from eplb_opt.policies.names import PolicyError

        try:
            with progress_bar() as progress:
                while self.rounds < repeat:
                    progress("timing", self.rounds, repeat)
                    for name in [name for name in self.times if name not in self.failed]:
                        try:
                            self.times[name].append(runner.run(name, instance).runtime)
                        except PolicyError as error:
                            self.failed[name] = str(error)
                    self.rounds += 1
        except KeyboardInterrupt:
            self.interrupted = True

    def medians(self) -> dict[str, float]:
        """Seconds of the policies that ran."""
        return {name: median(values) for name, values in self.times.items() if values}
