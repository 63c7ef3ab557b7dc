"""``eplb-opt solve``: the exact optimum of one stage or of the whole problem."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import not_written, writable
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
    cost_options,
    instance_options,
    json_option,
    placements_option,
    search_options,
    time_budget_option,
)

if TYPE_CHECKING:
    from eplb_opt.gap import Progress
    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.objective import Cost
    from eplb_opt.problem.result import Result

PLACING = ("joint", "packing")
"""The stages that end with a placement."""


TIME_BUDGET = 60.0
"""Seconds for all layers together unless limits are given."""


@click.command()
@instance_options
@click.option(
    "--stage",
    type=click.Choice(["joint", "packing", "counts", "groups"]),
    default="joint",
    show_default=True,
    help="joint: everything that the rule allows; the others: one stage, earlier ones optimal.",
)
@click.option("--backend", default="auto", show_default=True, help="Solver, for instance cp-sat.")
@cost_options
@search_options
@time_budget_option(TIME_BUDGET)
@placements_option
@click.option("--certificate", metavar="FILE", callback=writable, help="Write the evidence.")
@json_option
def command(
    instance: Instance,
    cost: Cost,
    stage: str,
    backend: str,
    time_limit: float | None,
    time_budget: float | None,
    placements: str | None,
    certificate: str | None,
    json_target: str | None,
    **search: Any,
) -> int:
    """Solve every layer exactly, or as far as --tolerance, --time-limit and --time-budget ask."""
    for option, target in (("--certificate", certificate), ("--placements", placements)):
        if target is not None and stage not in PLACING:
            raise InputError(
                f"{option} {target}: --stage {stage} makes no placement, "
                f"give --stage {' or '.join(PLACING)}"
            )
    times = LayerTimes.of(time_limit, time_budget, TIME_BUDGET)
    results = solve_layers(instance, times, cost, stage=stage, backend=backend, **search)
    keep_results()
    if placements is not None:
        _write_placements(placements, instance, results)
    if json_target is not None:
        from eplb_opt import documents

        stopped = not complete(instance, results)
        write_json(json_target, documents.solve(instance, results, interrupted=stopped))
    if json_target != "-":
        heading = f"tokens on the fullest rank, stage {stage}"
        lines = [describe(instance), *describe_cost(instance, cost), heading]
        show(*lines, _result_table(instance, results))
    if certificate is not None:  # last, for it is checked before it is written
        _write_certificate(certificate, instance, results)
    return exit_code(instance, results)


def exit_code(instance: Instance, results: list[Result]) -> int:
    """0, or what Ctrl-C makes of it, with a line that says how far the work has come."""
    if complete(instance, results):
        return 0
    done = sum(result.limit != "interrupt" for result in results)
    begun = ", one is begun" * (len(results) > done)
    return report_interrupt(f"{done} of {instance.num_layers} layers are done{begun}")


@dataclass(frozen=True)
class LayerTimes:
    """Seconds for one layer and for all together; None for no limit.

    ``usual``: neither was given, so compiling the searches must not count.
    """

    layer: float | None
    total: float | None
    usual: bool

    @classmethod
    def of(cls, layer: float | None, total: float | None, default: float) -> LayerTimes:
        """As given, else ``default`` seconds for all together."""
        usual = layer is None and total is None
        return cls(layer, default if usual else total, usual)

    def share(self, spent: float, layers_left: int) -> float | None:
        """Seconds for the next layer."""
        if self.total is None:
            return self.layer
        share = max(0.0, self.total - spent) / layers_left
        return share if self.layer is None else min(share, self.layer)


def solve_layers(instance: Instance, times: LayerTimes, cost: Cost, **options: Any) -> list[Result]:
    """Results layer by layer; on Ctrl-C those so far, the last with ``limit="interrupt"``."""
    from solvers import solve
    from solvers.tree_search.count_vectors import compile_searches

    results: list[Result] = []
    options |= {"objective": cost.objective, "dispatch": cost.dispatch}
    with progress_bar() as progress, bad_input():
        if times.usual and options.get("stage") not in ("groups", "counts"):
            progress("compiling the searches, once on a machine", 0, instance.num_layers)
            compile_searches()
        start = time.perf_counter()
        for layer in instance.layers():
            tell = partial(_tell, progress, f"layer {layer.index}", len(results), instance)
            tell(None, None)
            try:
                seconds = times.share(
                    time.perf_counter() - start, instance.num_layers - len(results)
                )
                results.append(solve(layer, progress=tell, time_limit=seconds, **options))
            except KeyboardInterrupt:
                break
            if results[-1].limit == "interrupt":
                break
    return results


def _tell(
    progress: Progress,
    layer: str,
    done: int,
    instance: Instance,
    value: Fraction | None,
    bound: Fraction | None,
) -> None:
    """Show incumbent, bound and gap of the layer at work."""
    if value and bound:
        from eplb_opt.problem.rationals import decimal_text, relative_gap

        above = percent(relative_gap(value, bound))
        layer += f": {decimal_text(value)} over {decimal_text(bound)}, {above}"
    progress(layer, done, instance.num_layers)


def complete(instance: Instance, results: list[Result]) -> bool:
    """Whether all layers were solved before Ctrl-C."""
    return len(results) == instance.num_layers and results[-1].limit != "interrupt"


def _result_table(instance: Instance, results: list[Result]) -> Any:
    from eplb_opt.gap.traffic import traffic_of
    from eplb_opt.problem.rationals import decimal_text
    from eplb_opt.problem.topology import Rule

    columns = ("status", "objective", "lower bound", "gap", "proved by", "limit", "seconds")
    home = instance.rule == Rule.HOME
    result_table = table("layer", *columns, *["traffic"] * home)
    for layer, result in zip(instance.layers(), results, strict=False):
        placed, traffic = result.placement, None
        if home and placed is not None:
            traffic = traffic_of(layer, placed, result.cost, result.shares)
        result_table.add_row(
            str(layer.index),
            str(result.status),
            decimal_text(result.objective),
            decimal_text(result.lower_bound),
            percent(result.gap),
            result.bound_source,
            result.limit or "-",
            f"{result.runtime:.2f}",
            *[percent(None if traffic is None else float(traffic))] * home,
        )
    return result_table


def _write_certificate(target: str, instance: Instance, results: list[Result]) -> None:
    from eplb_opt import documents
    from eplb_opt.certificate.document import LARGEST_NUMBER
    from eplb_opt.certificate.parsing import LARGEST_FILE
    from eplb_opt.certificate.writing import too_large

    stopped = not complete(instance, results)
    possible = [i for i, result in enumerate(results) if not result.infeasible]
    if not possible:
        why = "no layer has a placement" if results else "no layer is done"
        not_written("--certificate", target, why)
        return
    if len(possible) < len(results):
        left_out = [n for i, n in enumerate(instance.numbers[: len(results)]) if i not in possible]
        told = f"nothing to certify, for infeasible, are layers {', '.join(map(str, left_out))}"
        click.echo(f"eplb-opt: {target}: {told}", err=True)
        instance, results = instance.select(possible), [results[i] for i in possible]
    with bad_input(f"--certificate {target}"):
        document = documents.certificate(instance, results, interrupted=stopped)
    write_json(target, document)
    size = Path(target).stat().st_size if Path(target).is_file() else 0
    if size > LARGEST_FILE or len(results) > LARGEST_NUMBER:
        click.echo(f"eplb-opt: {target}: too long for verify, solve fewer layers", err=True)
    if unproven := too_large(document, results):
        click.echo(
            f"eplb-opt: {target}: the proof is too large to check again, and left out, for layers "
            f"{', '.join(map(str, unproven))}",
            err=True,
        )


def _write_placements(target: str, instance: Instance, results: list[Result]) -> None:
    import numpy as np

    from eplb_opt.io import PlacedFor, write_placements
    from eplb_opt.problem.placement import Placement

    rows = {i: result.placement for i, result in enumerate(results) if result.placement is not None}
    if not rows:
        not_written("--placements", target, "no layer has a placement")
        return
    found = Placement(np.array(list(rows.values())), instance.num_logical_experts)
    placed = instance.select(list(rows))
    write_placements(target, {"exact": found}, placed_for=PlacedFor.of(placed))
