"""``eplb-opt bound``: proven lower bounds, and what proves them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.interrupts import keep_results
from eplb_opt.cli.output import describe, percent, show, table, write_json
from eplb_opt.cli.parameters import (
    instance_options,
    json_option,
    search_options,
    time_budget_option,
)

if TYPE_CHECKING:
    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.result import Result


TIME_BUDGET = 20.0
"""Seconds for all layers together unless limits are given."""


@click.command()
@instance_options
@search_options
@time_budget_option(TIME_BUDGET)
@json_option
def command(
    instance: Instance,
    time_limit: float | None,
    tolerance: Fraction,
    time_budget: float | None,
    seed: int,
    workers: int,
    json_target: str | None,
) -> int:
    """Lower bounds on the fullest rank of every layer that no placement can beat.

    The search of a layer ends where a placement is within --tolerance of its bound. --time-limit 0
    gives the closed forms alone.
    """
    from eplb_opt.cli.solve import LayerTimes, complete, exit_code, solve_layers

    times = LayerTimes.of(time_limit, time_budget, TIME_BUDGET)
    results = solve_layers(instance, times, seed=seed, workers=workers, tolerance=tolerance)
    keep_results()
    if json_target is not None:
        from eplb_opt import documents

        bounds = [replace(r, objective=None, placement=None, counts=None) for r in results]
        stopped = not complete(instance, results)
        write_json(json_target, documents.solve(instance, bounds, interrupted=stopped))
    if json_target != "-":
        heading = "lower bounds, tokens on the fullest rank"
        show(describe(instance), heading, _bound_table(instance, results))
    return exit_code(instance, results)


def _bound_table(instance: Instance, results: list[Result]) -> Any:
    from eplb_opt.problem.objective import mean_load
    from eplb_opt.problem.rationals import decimal_text

    found = table(
        "layer", "bound", "over mean", "best known above it", "proved by", "limit", "seconds"
    )
    for layer, result in zip(instance.layers(), results, strict=False):
        over = float(result.lower_bound / mean_load(layer)) - 1 if layer.has_load else None
        found.add_row(
            str(layer.index),
            decimal_text(result.lower_bound),
            percent(over),
            percent(result.gap) if layer.has_load else "-",
            result.bound_source,
            result.limit or "-",
            f"{result.runtime:.2f}",
        )
    return found
