"""``eplb-opt bound``: proven lower bounds, and what proves them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.output import describe, percent, show, table, write_json
from eplb_opt.cli.parameters import instance_options, json_option, search_options

if TYPE_CHECKING:
    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.result import Result


@click.command()
@instance_options
@search_options
@json_option
def command(
    instance: Instance,
    time_limit: float | None,
    seed: int,
    workers: int,
    json_target: str | None,
) -> int:
    """Lower bounds on the fullest rank of every layer that no placement can beat.

    At most --time-limit seconds a layer (default 10; 0 for the closed forms alone) are spent, and
    less where a placement is found that meets the bound.
    """
    from eplb_opt.cli.solve import complete, solve_layers
    from eplb_opt.gap import TOLERANCE

    limit = 10.0 if time_limit is None else time_limit
    results = solve_layers(
        instance, time_limit=limit, seed=seed, workers=workers, tolerance=TOLERANCE
    )
    if json_target is not None:
        from eplb_opt import documents

        bounds = [replace(r, objective=None, placement=None, counts=None) for r in results]
        interrupted = not complete(instance, results)
        write_json(json_target, documents.solve(instance, bounds, interrupted=interrupted))
    if json_target != "-":
        heading = "lower bounds, tokens on the fullest rank"
        show(describe(instance), heading, _bound_table(instance, results))
    return 0 if complete(instance, results) else 130


def _bound_table(instance: Instance, results: list[Result]) -> Any:
    from eplb_opt.problem.objective import mean_load
    from eplb_opt.problem.rationals import decimal_text

    found = table("layer", "bound", "over mean", "best known above it", "proved by", "seconds")
    for layer, result in zip(instance.layers(), results, strict=False):
        over = float(result.lower_bound / mean_load(layer)) - 1 if layer.has_load else None
        found.add_row(
            str(layer.index),
            decimal_text(result.lower_bound),
            percent(over),
            percent(result.gap) if layer.has_load else "-",
            result.bound_source,
            f"{result.runtime:.2f}",
        )
    return found
