"""``eplb-opt gap``: the proven optimality gap of policies on one instance."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import not_written, readable
from eplb_opt.cli.frontier_table import frontier_tables
from eplb_opt.cli.interrupts import keep_results, report_interrupt
from eplb_opt.cli.output import (
    describe,
    describe_cost,
    describe_machine,
    percent,
    progress_bar,
    show,
    table,
    write_json,
)
from eplb_opt.cli.parameters import (
    Finite,
    cost_options,
    instance_options,
    json_option,
    placements_option,
    search_options,
)
from eplb_opt.cli.policy_options import (
    policies_loaded,
    policies_option,
    policy_limits,
    tell_other_costs,
)

if TYPE_CHECKING:
    from eplb_opt.gap import Frontier, GapReport, PolicyGap
    from eplb_opt.gap.travel import Travel
    from eplb_opt.policies.process import Limits
    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.objective import Cost, Objective


def parse_travel(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Travel | None:
    """``8,7168,400,0.18``."""
    if value is None:
        return None
    from eplb_opt.gap.travel import Travel

    try:
        k, hidden, link, microseconds = value.split(",")
        return Travel(int(k), int(hidden), float(link), float(microseconds) / 1e6)
    except ValueError as error:
        why = "" if str(error).startswith(("not enough", "too many")) else f" ({error})"
        raise click.BadParameter(
            f"{value!r} is not of the form K,H,GB/s,US, for instance 8,7168,400,0.2{why}"
        ) from None


@click.command()
@partial(instance_options, several_limits=True)
@policies_option("Policy to measure; may be given several times, or as a list with commas.")
@policy_limits
@search_options
@cost_options
@click.option("--explain", is_flag=True, help="Split each policy's loss by what causes it.")
@click.option(
    "--serve-on",
    metavar="OTHER|next[:N]",
    callback=readable,
    help="Place on LOADS, measure on this file; or place on each N steps of a trace and measure on "
    "the N that follow (next: one).",
)
@click.option(
    "--travel",
    callback=parse_travel,
    metavar="K,H,GB/s,US",
    help="Also show loss and traffic as one time: experts of a token, hidden size, speed between a "
    "node and the others, microseconds of expert work for a token at an expert.",
)
@click.option(
    "--fail-above", type=Finite(min=0), help="Exit 1 if a layer's gap exceeds this ratio."
)
@placements_option
@json_option
def command(
    instance: Instance,
    cost: Cost,
    traffic: tuple[Fraction, ...],
    policies: tuple[str, ...],
    limits: Limits,
    serve_on: str | None,
    travel: Travel | None,
    fail_above: float | None,
    placements: str | None,
    json_target: str | None,
    **search: Any,
) -> int:
    """How far the placements of policies are from the best possible.

    LOADS is a file of recorded loads (json, npy, npz, csv, pt, TensorRT-LLM directory). For each
    layer a lower bound is proven; small instances are solved to optimality. With --objective other
    than sum a placement is measured at every step of a trace, and its loss over the mean load is
    shown, the served loss.

    With --explain every optimum that the split needs is searched for up to 0.2 s (10 s where there
    are at most 24 slots), or --time-limit. With --serve-on next:N the trace is cut into windows of
    N steps, what is left over is left out, and each window but the last is placed.

    Several limits of --traffic make a frontier: the hierarchical rule, --rule home with each limit
    and with none, and the global rule in one table.
    """
    served, num_layers = None, instance.num_layers
    if serve_on is not None:
        instance, served = _placed_and_served(instance, serve_on, cost.objective)
    windows = instance.num_layers // num_layers  # with --serve-on next:N
    measure = _measure(instance, cost, traffic, travel)
    with policies_loaded(policies, limits, instance) as runner, progress_bar() as progress:
        found = measure(
            instance,
            policies=policies,
            objective=cost.objective,
            dispatch=cost.dispatch,
            serve_on=served,
            runner=runner,
            progress=progress,
            **search,
        )
        keep_results()
        tell_other_costs(policies, runner, cost, instance, served)
    windowed = _describe_windows(instance.num_layers, windows)
    served_limit = _describe_served_limit(traffic, cost) if served is not None else []
    _output(found, placements, json_target, [*windowed, *served_limit])
    reports = _by_rule(found)
    limit = None if found.interrupted else fail_above
    failed = [f"{rule}{x}" for rule, r in reports.items() for x in _failures(r, limit)]
    for line in failed:
        click.echo(f"eplb-opt: {line}", err=True)
    if found.interrupted:
        return report_interrupt(_progress(reports, instance, traffic))
    return 1 if failed else 0


def _measure(
    instance: Instance, cost: Cost, traffic: tuple[Fraction, ...], travel: Travel | None
) -> Callable[..., GapReport | Frontier]:
    """What measures the policies: under one rule, or under several limits of traffic."""
    from eplb_opt.gap import measure_frontier, measure_gap
    from eplb_opt.gap.frontier import rules_of
    from eplb_opt.gap.traffic import check_travel

    if travel is not None:
        with bad_input("--travel"):
            check_travel(cost)
    if len(traffic) < 2:
        return partial(measure_gap, travel=travel)
    with bad_input("--traffic with several limits"):
        list(rules_of(instance, traffic))
    return partial(measure_frontier, limits=traffic, travel=travel)


def _placed_and_served(
    instance: Instance, other: str, objective: Objective
) -> tuple[Instance, Instance]:
    """What the policies see and what they are measured on."""
    from eplb_opt.gap.staleness import next_window, same_problem
    from eplb_opt.io import read_loads

    with bad_input("--serve-on"):
        word, _, number = other.partition(":")
        if word == "next" and ((number.isascii() and number.isdecimal()) or other == "next"):
            return next_window(instance, int(number or 1))
        with bad_input(other):
            loads, experts = read_loads(other).loads, instance.num_logical_experts
            if loads.shape[-1] != experts:
                raise InputError(
                    f"--serve-on {other}: it has {loads.shape[-1]} experts a layer, but "
                    f"{instance.source} has {experts}: serve loads of the same model"
                )
            normalize = instance.normalize_steps and loads.ndim == 3
            served = replace(instance, loads=loads, source=other, normalize_steps=normalize)
            layers = click.get_current_context().params["layers"]
            served = served if layers is None else served.select(layers)
            objective.check_steps(served)
            return instance, same_problem(instance, served)


def _by_rule(found: GapReport | Frontier) -> dict[str, GapReport]:
    """The reports, each by the words that begin a line about it."""
    from eplb_opt.gap import GapReport
    from eplb_opt.gap.frontier import name_of

    if isinstance(found, GapReport):
        return {"": found}
    return {f"{name_of(report)}: ": report for report in found.reports}


def _output(
    found: GapReport | Frontier,
    placements: str | None,
    json_target: str | None,
    serving: list[str],
) -> None:
    """Write what was asked for, and show the tables unless stdout is JSON; ``serving`` are lines
    about ``--serve-on``.
    """
    from eplb_opt.gap import GapReport

    if placements is not None:
        _write_placements(placements, found)
    if json_target is not None:
        from eplb_opt import documents

        typed = shlex.join(["eplb-opt", *sys.argv[1:]])
        if isinstance(found, GapReport):
            write_json(json_target, documents.gap(found, typed))
        else:
            write_json(json_target, documents.frontier(found, typed))
    if json_target == "-":
        return
    first = next(iter(_by_rule(found).values()))
    costs = describe_cost(first.instance, first.cost)
    if isinstance(found, GapReport):
        show(describe(found.instance), *serving, *costs, reference_line(found))
        show(policy_table(found))
    else:
        show(describe_machine(first.instance), *serving, *costs, *frontier_tables(found))
    for rule, report in _by_rule(found).items():
        show(*_split_tables(report, rule))


def _describe_windows(rows: int, windows: int) -> list[str]:
    """What a layer is with ``--serve-on next:N``: one of a window."""
    if windows == 1:
        return []
    layers = rows // windows
    return [
        f"{windows} windows x {layers} layer{'s' * (layers > 1)}, counted from 0: "
        f"layer {layers} w + i is row i of window w"
    ]


def _describe_served_limit(traffic: tuple[Fraction, ...], cost: Cost) -> list[str]:
    """Of which placements the bound is where a limit holds for those that are placed alone."""
    from eplb_opt.problem.objective import Dispatch

    if cost.dispatch == Dispatch.OPTIMAL or all(limit == 1 for limit in traffic):
        return []
    return [
        "--traffic holds for the loads that are placed: on those served traffic may be above it, "
        "and bound, gap and the best in hindsight are those of the rule home without a limit"
    ]


def _split_tables(report: GapReport, rule: str) -> list[Any]:
    """The tables of ``--explain`` and ``--serve-on``, each with the lines that explain it."""
    from eplb_opt.cli.loss_tables import STALENESS, how_to_read, split_table, why

    parts: list[Any] = []
    if report.attribution:
        how = how_to_read(report.attribution, _loaded(report))
        parts += [rule + why(report), how, split_table(report.attribution)]
    if report.staleness:
        sources = STALENESS.format(served=report.instance.source, seen=report.placed_on)
        how = how_to_read(report.staleness, _loaded(report))
        parts += [rule + sources, how, split_table(report.staleness)]
    return parts


def reference_line(report: GapReport) -> str:
    """One line that says what the gaps are measured against."""
    statuses = Counter(reference.status for reference in report.reference)
    words = {
        "optimal": "proven optimal",
        "feasible": "bounded after a search",
        "bound": "bounded",
        "no-load": "without load (left out)",
    }
    parts = [f"{statuses[s]} {word}" for s, word in words.items() if statuses[s]]
    missing = report.instance.num_layers - len(report.reference)
    parts += [f"{missing} not reached"] if missing else []
    loaded = [r for r in report.reference if r.status != "no-load"]
    if not loaded:
        return f"reference by layer: {', '.join(parts)}"
    above = sum(float(r.lower_bound / r.mean_load) - 1 for r in loaded) / len(loaded)
    return (
        f"reference by layer: {', '.join(parts)}; "
        f"the lower bound is {percent(above)} above the mean rank load on average"
    )


def policy_table(report: GapReport) -> Any:
    """Gap by policy, over layers with load."""
    from eplb_opt.problem.objective import SUM
    from eplb_opt.problem.topology import Rule

    columns = ("mean gap to bound", "max gap", "in layer", "balance", "optimal", "seconds")
    served, home = report.cost.objective != SUM, report.instance.rule == Rule.HOME
    traffic = ["traffic", "largest"] * home + ["time", "up to"] * (report.travel is not None)
    result = table("policy", *["served loss"] * served, *columns, *traffic)
    for policy in report.policies:
        if policy.status == "ok":
            loss = [percent(policy.loss_mean)] * served
            off_home = [policy.traffic_mean, policy.traffic_max] * home
            if report.travel is not None:
                off_home += [policy.time_mean, policy.time_most_mean]
            result.add_row(policy.policy, *loss, *_figures(policy), *map(percent, off_home))
        else:
            result.add_row(f"{policy.policy}\n  {policy.status}: {policy.message}")
    return result


def _figures(policy: PolicyGap) -> list[str]:
    worst = max(policy.layers, key=lambda layer: layer.gap, default=None)
    balancedness = policy.balancedness_mean
    return [
        percent(policy.gap_mean),
        percent(policy.gap_max),
        "-" if worst is None else str(worst.layer),
        "-" if balancedness is None else f"{balancedness:.4f}",
        f"{policy.num_optimal}/{len(policy.layers)}",
        "-" if policy.runtime is None else f"{policy.runtime:.3f}",
    ]


def _progress(
    reports: dict[str, GapReport], instance: Instance, traffic: tuple[Fraction, ...]
) -> str:
    """How far the work came until it was stopped."""
    from eplb_opt.gap.frontier import rules_of

    rule, report = list(reports.items())[-1]
    begun = ""
    if len(traffic) > 1:
        begun = f"rule {len(reports)} of {len(list(rules_of(instance, traffic)))}, {rule}"
    placed = sum(policy.status == "ok" for policy in report.policies)
    done = f"{begun}{placed} of {len(report.policies)} policies are measured"
    for name, splits in (("--explain", report.attribution), ("--serve-on", report.staleness)):
        if splits:
            done += f", {name} has {len(splits[0].layers)} of {_loaded(report)} layers"
    return done


def _loaded(report: GapReport) -> int:
    return sum(reference.status != "no-load" for reference in report.reference)


def _failures(report: GapReport, limit: float | None) -> list[str]:
    """A line for each policy that has no result, or whose largest gap is above the limit."""
    from eplb_opt.gap.measure import INTERRUPTED

    lines = []
    for policy in report.policies:
        worst = max(policy.layers, key=lambda layer: layer.gap, default=None)
        if policy.message == INTERRUPTED:
            continue
        if policy.status != "ok":
            lines.append(f"{policy.policy}: {policy.status}: {policy.message}")
        elif limit is not None and worst is not None and worst.gap > limit:
            lines.append(
                f"{policy.policy}: layer {worst.layer}: the gap is {percent(worst.gap)}, "
                f"above --fail-above {limit:g} ({percent(limit)})"
            )
    return lines


def _write_placements(target: str, found: GapReport | Frontier) -> None:
    """By policy; of a frontier by policy and rule, as ``refined home 0.05``."""
    from eplb_opt.io import PlacedFor, write_placements
    from eplb_opt.problem.topology import Rule

    placed = {
        f"{policy.policy} {rule}".removesuffix(": ").rstrip(): policy.placement
        for rule, report in _by_rule(found).items()
        for policy in report.policies
        if policy.placement is not None
    }
    reports = list(_by_rule(found).values())
    if placed:
        home = [report for report in reports if report.instance.rule == Rule.HOME]
        write_placements(target, placed, placed_for=PlacedFor.of((home or reports)[-1].instance))
    else:
        not_written("--placements", target, "no policy has a placement")
