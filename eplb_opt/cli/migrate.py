"""``eplb-opt migrate``: what a few transfers buy, starting from the placement now."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import not_written, readable, writable
from eplb_opt.cli.interrupts import keep_results, report_interrupt
from eplb_opt.cli.output import describe, percent, show, table, write_json
from eplb_opt.cli.parameters import (
    Finite,
    instance_options,
    json_option,
    read_one_placement,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from eplb_opt.migration import LayerPlan, MigrationPlan
    from eplb_opt.problem.instance import Instance

INITIAL = "initial"
"""In place of a file: expert ``i mod E`` in slot ``i``."""


@click.command()
@click.argument("old", metavar="OLD|initial", callback=readable)
@instance_options
@click.option(
    "--budget",
    type=click.IntRange(min=0),
    default=40,
    show_default=True,
    help="Transfers of a layer at most.",
)
@click.option(
    "--within",
    type=Finite(min=0),
    help="Take the fewest transfers found that come within this ratio above the lower bound, for "
    "instance 0.01.",
)
@click.option(
    "--prove",
    type=Finite(min=0, min_open=True),
    metavar="SECONDS",
    help="Search each layer so long for fewer transfers, or for the proof that it needs as many.",
)
@click.option("--policy", help="Which placement of OLD, if it holds several.")
@click.option(
    "-o",
    "--placements",
    metavar="FILE",
    callback=writable,
    help="Write phy2log, under the name 'migrated' (.npz or .json).",
)
@json_option
def command(
    old: str,
    instance: Instance,
    budget: int,
    within: float | None,
    prove: float | None,
    policy: str | None,
    placements: str | None,
    json_target: str | None,
) -> int:
    """Change the placement OLD for the loads LOADS, with at most --budget transfers a layer.

    OLD is a file of placements (--placements of another command, or SGLang's json), or the word
    'initial' for expert i mod E in slot i. A transfer sends an expert to a rank that must hold
    it and did not; slots that are filled from the rank's own memory are copied. Under the
    hierarchical rule groups stay on their nodes, under 'home' at home where OLD has them. Layers
    whose OLD is above --traffic for these loads come below it, or nearer if --budget is too small:
    exit 1.

    \b
    eplb-opt gap before.json --redundant 32 --gpus 32 --policy refined --placements old.npz
    eplb-opt migrate old.npz now.json --redundant 32 --gpus 32 --budget 20 -o new.npz
    eplb-opt migrate initial small.json --redundant 4 --gpus 4 --within 0.01 --prove 10
    """  # noqa: D301 - click needs the character
    from eplb_opt.migration import plan_migration
    from solvers.options import SearchOptions

    if instance.spread_replicas:
        raise InputError("--spread-replicas: migrate does not keep replicas apart, leave it out")
    if old == INITIAL and policy is not None:
        raise InputError(f"--policy {policy} chooses from a file of placements, OLD is {INITIAL}")
    before = _initial(instance) if old == INITIAL else _read_old(old, policy, instance)
    plan = plan_migration(
        instance,
        before,
        budget=budget,
        within=None if within is None else Fraction(within),
        search=None if prove is None else SearchOptions(prove),
    )
    keep_results()
    if placements is not None and plan.layers:
        from eplb_opt.io import PlacedFor, write_placements

        write_placements(
            placements, {"migrated": plan.placement}, placed_for=PlacedFor.of(instance)
        )
    elif placements is not None:
        not_written("--placements", placements, "no layer is done")
    if json_target is not None:
        from eplb_opt import documents

        write_json(json_target, documents.migrate(plan, old, budget, within))
    if json_target != "-":
        show(describe(instance), _layer_table(plan))
        if any(layer.missed for layer in plan.layers):
            show(_tell_missed(plan, within, prove is not None))
        if any(layer.over_before for layer in plan.layers):
            show(_tell_before(plan))
        if any(layer.over_limit for layer in plan.layers):
            show(_tell_traffic(plan, budget))
        show("fullest rank over the lower bound by transfers", _front_table(plan))
    if plan.interrupted:
        proven = sum(layer.transfers_at_least is not None for layer in plan.layers)
        proofs = f", {proven} with a proof" if prove is not None else ""
        return report_interrupt(
            f"{len(plan.layers)} of {instance.num_layers} layers are done{proofs}"
        )
    return 1 if any(layer.over_limit for layer in plan.layers) else 0


def _initial(instance: Instance) -> NDArray[np.int64]:
    import numpy as np

    from eplb_opt.problem.topology import Rule

    if instance.rule != Rule.GLOBAL and instance.topology.num_nodes > 1:
        raise InputError(
            f"OLD {INITIAL}: slots in order break the rule {str(instance.rule)!r}, give a file or "
            "--rule global"
        )
    row = np.arange(instance.topology.num_physical_experts) % instance.num_logical_experts
    return np.tile(row, (instance.num_layers, 1))


def _read_old(old: str, policy: str | None, instance: Instance) -> NDArray[np.int64]:
    """The placement in the file, its rows those of the instance, checked."""
    from eplb_opt.io import read_placed_for
    from eplb_opt.problem.placement import Placement
    from eplb_opt.problem.validity import find_violations

    path, numbers = Path(old), list(instance.numbers)
    with bad_input(old):
        _, rows = read_one_placement(path, policy)
        placed_for = read_placed_for(path)
        if placed_for is not None:
            placed_for.require(path, instance)
            rows = placed_for.rows(path, rows, numbers)
        elif max(numbers) < len(rows):
            rows = rows[numbers]
        elif len(rows) != len(numbers):
            raise InputError(
                f"{old}: {len(rows)} layers of placements do not go with the layers "
                f"0..{max(numbers)} of {instance.source}: give --layers"
            )
        placement = Placement(rows, instance.num_logical_experts)
    violations = find_violations(placement, instance)
    if violations:
        raise InputError(f"{old}: {violations[0].message}: it must be a placement of the machine")
    return placement.phy2log


def _layer_table(plan: MigrationPlan) -> Any:
    proven = any(layer.transfers_at_least is not None for layer in plan.layers)
    home = any(layer.after.traffic is not None for layer in plan.layers)
    result = table(
        "layer",
        "now",
        "after",
        "lower bound",
        "now above",
        "after above",
        "transfers",
        "copies",
        *(["traffic now", "traffic after"] if home else []),
        *(["transfers needed"] if proven else []),
    )
    for layer in plan.layers:
        before, after = layer.before, layer.after
        result.add_row(
            str(layer.layer),
            *(f"{float(x):.3f}" for x in (before.makespan, after.makespan, layer.lower_bound)),
            percent(before.gap),
            percent(after.gap),
            str(after.transfers),
            str(after.copies),
            *([percent(float(x.traffic or 0)) for x in (before, after)] if home else []),
            *([_needed(layer)] if proven else []),
        )
    return result


def _tell_missed(plan: MigrationPlan, within: float | None, searched: bool) -> str:
    """Which layers do not keep --within, and what the table shows of them in its place."""
    missed = [str(layer.layer) for layer in plan.layers if layer.missed]
    needed = "; 'transfers needed' are those for no larger a makespan" if searched else ""
    return (
        f"--within {within:g} is missed in {len(missed)} of {len(plan.layers)} layers "
        f"({', '.join(missed)}): 'after' is the least makespan found{needed}"
    )


def _tell_before(plan: MigrationPlan) -> str:
    """Of which layers ``now`` is no placement that the lower bound speaks of."""
    over = [str(layer.layer) for layer in plan.layers if layer.over_before]
    return (
        f"OLD is above --traffic {float(plan.instance.traffic_limit):g} in {len(over)} of "
        f"{len(plan.layers)} layers ({', '.join(over)}): 'now' may be below the lower bound, which "
        "is of placements that keep the limit; with 0 transfers, copies alone come nearer to it"
    )


def _tell_traffic(plan: MigrationPlan, budget: int) -> str:
    """Which layers are still above --traffic."""
    over = [str(layer.layer) for layer in plan.layers if layer.over_limit]
    return (
        f"--traffic {float(plan.instance.traffic_limit):g} is exceeded in {len(over)} of "
        f"{len(plan.layers)} layers ({', '.join(over)}), as OLD does for these loads: --budget "
        f"{budget} is too small"
    )


def _needed(layer: LayerPlan) -> str:
    least, transfers = layer.transfers_at_least, layer.after.transfers
    if least is None:
        return "-"
    return f"{transfers}, proven" if least == transfers else f"{least} .. {transfers}"


def _front_table(plan: MigrationPlan) -> Any:
    result = table("transfers at most", "mean above", "max above", "transfers, mean")
    for budget, mean, most, transfers in plan.summary():
        result.add_row(str(budget), percent(mean), percent(most), f"{transfers:.1f}")
    return result
