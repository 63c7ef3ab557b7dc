"""``eplb-opt bound``: proven lower bounds, and what proves them."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.interrupts import keep_results
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
    search_options,
    time_budget_option,
)

if TYPE_CHECKING:
    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.objective import Cost
    from eplb_opt.problem.result import Result


TIME_BUDGET = 20.0
"""Seconds for all layers together unless limits are given."""


@click.command()
@instance_options
@cost_options
@search_options
@time_budget_option(TIME_BUDGET)
@json_option
def command(
    instance: Instance,
    cost: Cost,
    time_limit: float | None,
    tolerance: Fraction,
    time_budget: float | None,
    seed: int,
    workers: int,
    json_target: str | None,
) -> int:
    """Lower bounds on the fullest rank of every layer that no placement can beat.

    The search of a layer ends where a placement is within --tolerance of its bound. --time-limit 0
    gives the closed forms alone. With --objective other than sum they hold for a placement that
    stays over the steps of the trace; wait-and-see holds even for one that changes at every step.
    """
    from eplb_opt.cli.solve import LayerTimes, complete, exit_code, solve_layers
    from eplb_opt.problem.objective import EVEN_SUM

    if time_limit == 0 and cost != EVEN_SUM:
        results = _closed_forms(instance, cost)
    else:
        times = LayerTimes.of(time_limit, time_budget, TIME_BUDGET)
        limits = {"seed": seed, "workers": workers, "tolerance": tolerance}
        results = solve_layers(instance, times, cost, **limits)
    keep_results()
    if json_target is not None:
        from eplb_opt import documents

        bounds = [replace(r, objective=None, placement=None, counts=None) for r in results]
        stopped = not complete(instance, results)
        write_json(json_target, documents.solve(instance, bounds, interrupted=stopped))
    if json_target != "-":
        heading = "lower bounds, tokens on the fullest rank"
        lines = [describe(instance), *describe_cost(instance, cost), heading]
        show(*lines, _bound_table(instance, results, cost))
    return exit_code(instance, results)


def _closed_forms(instance: Instance, cost: Cost) -> list[Result]:
    """Bounds without a search, layer by layer; on Ctrl-C those so far."""
    from eplb_opt import bounds
    from eplb_opt.problem.result import Result, Stage

    results: list[Result] = []
    with progress_bar() as progress:
        for layer in instance.layers():
            progress(f"layer {layer.index}", len(results), instance.num_layers)
            start = time.perf_counter()
            try:
                bound = bounds.of(layer, *cost)
            except KeyboardInterrupt:
                break
            found = Result(Stage.JOINT, "closed forms", bound.value, bound_source=bound.source)
            seconds = time.perf_counter() - start
            results.append(replace(found, runtime=seconds, certificate=bound.evidence, cost=cost))
    return results


def _bound_table(instance: Instance, results: list[Result], cost: Cost) -> Any:
    from eplb_opt import bounds
    from eplb_opt.problem.objective import SUM, mean_load
    from eplb_opt.problem.rationals import decimal_text

    several = ["wait-and-see"] if cost.objective != SUM else []
    last = ("best known above it", "proved by", "limit", "seconds")
    found = table("layer", "bound", "over mean", *several, *last)
    for layer, result in zip(instance.layers(), results, strict=False):
        mean = mean_load(layer, cost.objective)
        loose = [bounds.wait_and_see(layer, *cost).value for _ in several]
        found.add_row(
            str(layer.index),
            decimal_text(result.lower_bound),
            percent(float(result.lower_bound / mean) - 1 if mean else None),
            *map(decimal_text, loose),
            percent(result.gap) if layer.has_load else "-",
            result.bound_source,
            result.limit or "-",
            f"{result.runtime:.2f}",
        )
    return found
