"""``eplb-opt gap``: the proven optimality gap of policies on one instance."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import not_written, readable
from eplb_opt.cli.interrupts import keep_results, report_interrupt
from eplb_opt.cli.output import (
    describe,
    describe_cost,
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
    from eplb_opt.gap import GapReport, PolicyGap
    from eplb_opt.policies.process import Limits
    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.objective import Cost, Objective


@click.command()
@instance_options
@policies_option("Policy to measure; may be given several times.")
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
    "--fail-above", type=Finite(min=0), help="Exit 1 if a layer's gap exceeds this ratio."
)
@placements_option
@json_option
def command(
    instance: Instance,
    cost: Cost,
    policies: tuple[str, ...],
    limits: Limits,
    serve_on: str | None,
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
    """
    from eplb_opt.gap import measure_gap

    served, num_layers = None, instance.num_layers
    if serve_on is not None:
        instance, served = _placed_and_served(instance, serve_on, cost.objective)
    windows = instance.num_layers // num_layers  # with --serve-on next:N
    with policies_loaded(policies, limits, instance) as runner, progress_bar() as progress:
        report = measure_gap(
            instance,
            policies,
            objective=cost.objective,
            dispatch=cost.dispatch,
            serve_on=served,
            runner=runner,
            progress=progress,
            **search,
        )
        keep_results()
        tell_other_costs(policies, runner, cost, instance, served)
    _output(report, placements, json_target, windows)
    if report.interrupted:
        return report_interrupt(_progress(report))
    failed = _failures(report, fail_above)
    for line in failed:
        click.echo(f"eplb-opt: {line}", err=True)
    return 1 if failed else 0


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


def _output(
    report: GapReport, placements: str | None, json_target: str | None, windows: int
) -> None:
    """Write what was asked for, and show the tables unless stdout is JSON."""
    if placements is not None:
        _write_placements(placements, report)
    if json_target is not None:
        from eplb_opt import documents

        write_json(json_target, documents.gap(report, shlex.join(["eplb-opt", *sys.argv[1:]])))
    if json_target != "-":
        show(
            describe(report.instance),
            *_describe_windows(report.instance.num_layers, windows),
            *describe_cost(report.instance, report.cost),
            reference_line(report),
        )
        show(policy_table(report))
        show(*_split_tables(report))


def _describe_windows(rows: int, windows: int) -> list[str]:
    """What a layer is with ``--serve-on next:N``: one of a window."""
    if windows == 1:
        return []
    layers = rows // windows
    return [
        f"{windows} windows x {layers} layer{'s' * (layers > 1)}, counted from 0: "
        f"layer {layers} w + i is row i of window w"
    ]


def _split_tables(report: GapReport) -> list[Any]:
    """The tables of ``--explain`` and ``--serve-on``, each with the lines that explain it."""
    from eplb_opt.cli.loss_tables import (
        ATTRIBUTION,
        STALENESS,
        how_to_read,
        served_loss,
        split_table,
    )
    from eplb_opt.problem.objective import EVEN_SUM

    parts: list[Any] = []
    if report.attribution:
        how = how_to_read(report.attribution, _loaded(report))
        why = ATTRIBUTION if report.cost == EVEN_SUM else served_loss(report)
        parts += [why, how, split_table(report.attribution)]
    if report.staleness:
        sources = STALENESS.format(served=report.instance.source, seen=report.placed_on)
        how = how_to_read(report.staleness, _loaded(report))
        parts += [sources, how, split_table(report.staleness)]
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

    columns = ("mean gap to bound", "max gap", "in layer", "balance", "optimal", "seconds")
    served = report.cost.objective != SUM
    result = table("policy", *["served loss"] * served, *columns)
    for policy in report.policies:
        if policy.status == "ok":
            loss = [percent(policy.loss_mean)] * served
            result.add_row(policy.policy, *loss, *_figures(policy))
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


def _progress(report: GapReport) -> str:
    """How far the work came until it was stopped."""
    placed = sum(policy.status == "ok" for policy in report.policies)
    done = f"{placed} of {len(report.policies)} policies are measured"
    for name, splits in (("--explain", report.attribution), ("--serve-on", report.staleness)):
        if splits:
            done += f", {name} has {len(splits[0].layers)} of {_loaded(report)} layers"
    return done


def _loaded(report: GapReport) -> int:
    return sum(reference.status != "no-load" for reference in report.reference)


def _failures(report: GapReport, limit: float | None) -> list[str]:
    """A line for each policy that has no result, or whose largest gap is above the limit."""
    lines = []
    for policy in report.policies:
        worst = max(policy.layers, key=lambda layer: layer.gap, default=None)
        if policy.status != "ok":
            lines.append(f"{policy.policy}: {policy.status}: {policy.message}")
        elif limit is not None and worst is not None and worst.gap > limit:
            lines.append(
                f"{policy.policy}: layer {worst.layer}: the gap is {percent(worst.gap)}, "
                f"above --fail-above {limit:g} ({percent(limit)})"
            )
    return lines


def _write_placements(target: str, report: GapReport) -> None:
    from eplb_opt.io import PlacedFor, write_placements

    found = {p.policy: p.placement for p in report.policies if p.placement is not None}
    if found:
        write_placements(target, found, placed_for=PlacedFor.of(report.instance))
    else:
        not_written("--placements", target, "no policy has a placement")
