"""``eplb-opt bound``: proven lower bounds, without a search for placements."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from eplb_opt.cli.options import instance_options, json_option
from eplb_opt.cli.output import describe, percent, progress_bar, show, table, write_json

if TYPE_CHECKING:
    from eplb_opt.instance import Instance


@click.command()
@instance_options
@json_option
def command(instance: Instance, json_target: str | None) -> int:
    """Lower bounds on the fullest rank of every layer that no placement can beat."""
    from eplb_opt.bounds import lower_bound, mean_load
    from eplb_opt.cli.solve import document
    from eplb_opt.result import Result

    results: list[Result] = []
    found = table("layer", "bound", "over mean", "by")
    with progress_bar() as progress:
        for layer in instance.layers():
            progress("bounds", len(results), instance.num_layers)
            start = time.perf_counter()
            bound = lower_bound(layer)
            runtime = time.perf_counter() - start
            results.append(
                Result(
                    "joint",
                    "closed-form",
                    bound.value,
                    bound_source=bound.source,
                    runtime=runtime,
                )
            )
            over = float(bound.value / mean_load(layer)) - 1 if layer.has_load else None
            value = f"{float(bound.value):.3f}"
            found.add_row(str(layer.index), value, percent(over), bound.source)
    if json_target is not None:
        write_json(json_target, document(instance, results))
    if json_target != "-":
        show(describe(instance), "lower bounds, tokens on the fullest rank", found)
    return 0
