"""``eplb-opt replay``: what policies are worth over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import readable
from eplb_opt.cli.interrupts import keep_results, report_interrupt
from eplb_opt.cli.output import percent, progress_bar, show, table, write_json
from eplb_opt.cli.parameters import Finite, instance_options, json_option
from eplb_opt.cli.policy_options import (
    policies_loaded,
    policies_option,
    policy_limits,
    tell_single_step,
)

if TYPE_CHECKING:
    from eplb_opt.policies.process import Limits
    from eplb_opt.problem.instance import Instance
    from eplb_opt.serving.replay import ReplayReport

READING = """\
loss: tokens on the fullest rank over the mean, less 1, over all steps and layers; traffic: tokens
served off their group's home, of all (a limit holds for the loads that a policy saw). Of the steps
after an answer of the policy: gap: to the proven bound on the loads that it saw; window: its loss
there; staleness: what changing loads add; not moved: the loss if the old placement had stayed;
hindsight: the best constant placement lies between these."""


def parse_events(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> dict[int, int]:
    """``100:24``: from step 100 on there are 24 ranks."""
    events = {}
    for value in values:
        step, _, ranks = value.partition(":")
        if not (value.isascii() and step.isdecimal() and ranks.isdecimal()):
            raise click.BadParameter(f"{value!r} is not of the form STEP:GPUS, for instance 100:24")
        events[int(step)] = int(ranks)
    return events


@click.command()
@instance_options
@policies_option(
    "May be given several times, or as a list with commas. refined:40 receives at most 40 experts "
    "a layer; refined:relabel keeps what it can."
)
@click.option(
    "--interval",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Steps between two rearrangements.",
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    help="Steps that the policy sees; default: --interval.",
)
@click.option("--async", "use_async", is_flag=True, help="Move layer by layer, one a step.")
@click.option(
    "--layer-steps",
    type=click.IntRange(min=1),
    help="With --async: steps until all ranks have a layer; default: 1.",
)
@click.option(
    "--attribute",
    type=click.Choice(["late", "early"]),
    default="late",
    show_default=True,
    help="When tokens of slots become tokens of experts: when the policy is asked, as vLLM "
    "does, or when they are recorded.",
)
@click.option(
    "--scale",
    "ranks_from",
    multiple=True,
    callback=parse_events,
    metavar="STEP:GPUS",
    help="From this step on there are so many ranks.",
)
@click.option(
    "--also",
    multiple=True,
    metavar="TRACE",
    callback=readable,
    help="Another model of the same shape on the same ranks, such as a drafter.",
)
@click.option(
    "--expert-bytes",
    type=click.IntRange(min=1),
    default=3 * 7168 * 2048,
    show_default=True,
    help="Weights of an expert in one layer.",
)
@click.option(
    "--cost",
    type=Finite(min=0),
    metavar="TOKENS",
    help="What a received byte costs, in tokens on the fullest rank: puts both on one axis.",
)
@policy_limits
@json_option
def command(
    instance: Instance,
    policies: tuple[str, ...],
    interval: int,
    window: int | None,
    use_async: bool,
    layer_steps: int | None,
    attribute: str,
    also: tuple[str, ...],
    cost: float | None,
    limits: Limits,
    json_target: str | None,
    **scenario: Any,  # ranks_from, expert_bytes
) -> int:
    """What policies are worth over time, on a trace [steps, layers, experts].

    LOADS goes step by step through the state machine of vLLM's EPLB: experts start in order, loads
    enter a window, every --interval steps the policy is asked and experts move. A step without any
    token is a dummy pass. Recordings, or 'eplb-opt generate --steps'.
    """
    from eplb_opt.serving.replay import replay
    from eplb_opt.serving.state_machine import Settings

    if layer_steps is not None and not use_async:
        raise InputError(f"--layer-steps {layer_steps} needs --async: else layers move at once")
    with policies_loaded(policies, limits, instance) as runner, bad_input():
        models = [instance, *(_read_another(instance, path) for path in also)]
        settings = Settings(window or interval, interval, use_async, attribute == "late")
        with progress_bar() as progress:
            report = replay(
                models,
                policies,
                settings,
                layer_steps=layer_steps or 1,
                tokens_per_byte=cost,
                runner=runner,
                progress=progress,
                **scenario,
            )
            keep_results()
        tell_single_step(policies, runner, "replay gives the sum of a window, as vLLM does")
    if json_target is not None:
        from eplb_opt import documents

        write_json(json_target, documents.replay(report))
    if json_target != "-":
        show(describe_replay(report), policy_table(report), READING, *failures(report))
    if report.interrupted:
        steps = len(report.scenario.trace)
        whole = sum(r.trail.steps == steps and bool(r.intervals) for r in report.policies)
        return report_interrupt(f"{whole} of {len(policies)} policies are replayed")
    return 1 if any(replayed.failures for replayed in report.policies) else 0


def _read_another(instance: Instance, path: str) -> Instance:
    from eplb_opt.io import read_loads
    from eplb_opt.problem.instance import Instance

    with bad_input(path):
        loads, limit = read_loads(path).loads, instance.traffic_limit
        other = Instance(loads, instance.topology, instance.rule, path, traffic_limit=limit)
        layers = click.get_current_context().params["layers"]
        return other if layers is None else other.select(layers)


def describe_replay(report: ReplayReport) -> str:
    """One line about what was replayed."""
    scenario = report.scenario
    machine, settings = scenario.topology, scenario.settings
    models = f"{scenario.num_models} models of " if scenario.num_models > 1 else ""
    limit = float(scenario.traffic_limit)
    rule = f"{scenario.rule} rule" + (f", traffic up to {limit:g}" if limit < 1 else "")
    mode = "asynchronous" if settings.use_async else "synchronous"
    return (
        f"{report.source}: {len(scenario.trace)} steps, {models}{scenario.num_layers} layers, "
        f"{scenario.trace.shape[2]} experts, {machine.num_physical_experts} slots on "
        f"{machine.num_ranks} ranks, {rule}; interval {settings.step_interval}, "
        f"window {settings.window_size}, {mode}"
    )


def policy_table(report: ReplayReport) -> Any:
    """One row a policy."""
    nodes = report.scenario.topology.num_nodes > 1
    columns = [
        "loss",
        *(["traffic"] if nodes else []),
        "gap",
        "window",
        "staleness",
        "not moved",
        "hindsight",
        "transfers",
        "seconds",
    ]
    columns += ["loss + moving"] if report.tokens_per_byte is not None else []
    result = table("policy", *columns)
    for replayed in report.policies:
        answers = replayed.answered
        moved = replayed.received / len(answers) / len(report.scenario.trace[0]) if answers else 0
        low, high = (replayed.mean_of(f"hindsight_{end}") for end in ("low", "high"))
        cells = [
            _percent(replayed.loss),
            *([_percent(replayed.traffic)] if nodes else []),
            percent(replayed.mean_of("gap_mean")),
            *(_percent(replayed.mean_of(t)) for t in ("on_window", "staleness", "without")),
            f"{_percent(low)} .. {_percent(high)}",
            f"{moved:.1f} a layer",
            f"{sum(i.seconds or 0.0 for i in answers):.2f}",
        ]
        if report.tokens_per_byte is not None:
            cells.append(_percent(report.loss_with_moving(replayed)))
        result.add_row(replayed.policy, *cells)
    return result


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def failures(report: ReplayReport) -> list[str]:
    """A line for each policy that failed now and then: the old placement stayed."""
    lines = []
    for replayed in report.policies:
        if failed := replayed.failures:
            first = failed[0]
            lines.append(
                f"{replayed.policy} failed {len(failed)} times and the placement stayed; "
                f"first after step {first.start - 1}: {first.message}"
            )
    return lines
