"""``eplb-opt solve``: the exact optimum of one stage or of the whole problem."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.output import describe, percent, progress_bar, show, table, write_json
from eplb_opt.cli.parameters import (
    instance_options,
    json_option,
    placements_option,
    search_options,
    writable,
)

if TYPE_CHECKING:
    from eplb_opt.gap import Progress
    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.result import Result


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
@search_options
@placements_option
@click.option("--certificate", metavar="FILE", callback=writable, help="Write the evidence.")
@json_option
def command(
    instance: Instance,
    stage: str,
    backend: str,
    time_limit: float | None,
    seed: int,
    workers: int,
    placements: str | None,
    certificate: str | None,
    json_target: str | None,
) -> int:
    """Solve every layer exactly, or as far as --time-limit (default 60 s a layer) allows."""
    results = solve_layers(
        instance,
        stage=stage,
        backend=backend,
        time_limit=60.0 if time_limit is None else time_limit,
        seed=seed,
        workers=workers,
    )
    if certificate is not None:
        _write_certificate(certificate, instance, results)
    if placements is not None:
        _write_placements(placements, instance, results)
    if json_target is not None:
        from eplb_opt import documents

        interrupted = not complete(instance, results)
        write_json(json_target, documents.solve(instance, results, interrupted=interrupted))
    if json_target != "-":
        heading = f"tokens on the fullest rank, stage {stage}"
        show(describe(instance), heading, _result_table(instance, results))
    return 0 if complete(instance, results) else 130


def solve_layers(instance: Instance, **options: Any) -> list[Result]:
    """Results layer by layer; on Ctrl-C those so far, the last with ``limit="interrupt"``."""
    from solvers import solve

    results: list[Result] = []
    with progress_bar() as progress, bad_input():
        for layer in instance.layers():
            tell = partial(_tell, progress, f"layer {layer.index}", len(results), instance)
            tell(None, None)
            try:
                results.append(solve(layer, progress=tell, **options))
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
    from eplb_opt.problem.rationals import decimal_text

    columns = ("status", "objective", "lower bound", "gap", "proved by", "limit", "seconds")
    result_table = table("layer", *columns)
    for layer, result in zip(instance.numbers, results, strict=False):
        result_table.add_row(
            str(layer),
            str(result.status),
            decimal_text(result.objective),
            decimal_text(result.lower_bound),
            percent(result.gap),
            result.bound_source,
            result.limit or "-",
            f"{result.runtime:.2f}",
        )
    return result_table


def _write_certificate(target: str, instance: Instance, results: list[Result]) -> None:
    from eplb_opt import documents
    from eplb_opt.certificate.document import LARGEST_NUMBER
    from eplb_opt.certificate.parsing import LARGEST_FILE
    from eplb_opt.certificate.writing import too_large

    if results and results[0].stage not in ("joint", "packing"):
        raise InputError(f"--certificate {target}: for the stages joint and packing only")
    if not results:
        click.echo(f"eplb-opt: no layer was solved: {target} is not written", err=True)
        return
    interrupted = not complete(instance, results)
    with bad_input(f"--certificate {target}"):
        document = documents.certificate(instance, results, interrupted=interrupted)
    write_json(target, document)
    size = Path(target).stat().st_size if Path(target).is_file() else 0
    if size > LARGEST_FILE or len(results) > LARGEST_NUMBER:
        click.echo(f"eplb-opt: {target}: too long for verify, solve fewer layers", err=True)
    unproven = too_large(document, results)
    if unproven:
        click.echo(
            f"eplb-opt: {target}: the proof is too large to check again, and left out, for layers "
            f"{', '.join(map(str, unproven))}",
            err=True,
        )


def _write_placements(target: str, instance: Instance, results: list[Result]) -> None:
    import numpy as np

    from eplb_opt.io import write_placements
    from eplb_opt.problem.placement import Placement

    rows = [result.placement for result in results]
    if len(rows) < instance.num_layers or None in rows:
        raise InputError(f"--placements {target}: not every layer has a placement, see --stage")
    found = Placement(np.array(rows), instance.num_logical_experts)
    write_placements(target, {"exact": found})
