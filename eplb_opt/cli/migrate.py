"""``eplb-opt migrate``: what a few received experts buy, starting from the placement now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.output import describe, percent, show, table, write_json
from eplb_opt.cli.parameters import instance_options, json_option, writable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.placement import Placement

INITIAL = "initial"
"""In place of a file: expert ``i mod E`` in slot ``i``."""
STEPS = (0, 5, 10, 20, 40, 80, 160)
"""Receives at which the front is shown, up to the budget."""


@click.command()
@click.argument("old", metavar="OLD|initial")
@instance_options
@click.option(
    "--budget",
    type=click.IntRange(min=0),
    default=40,
    show_default=True,
    help="Received experts of a layer at most.",
)
@click.option(
    "--within",
    type=click.FloatRange(min=0),
    help="Receive no more than this ratio above the lower bound needs, for instance 0.01.",
)
@click.option(
    "--prove",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Search each layer so long for fewer receives, or for the proof that it needs as many.",
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
    """Change the placement OLD for the loads LOADS, receiving at most --budget experts a layer.

    OLD is a file of placements (--placements of another command, or SGLang's json), or the word
    'initial' for expert i mod E in slot i. A rank receives an expert that it must hold and did not
    hold; slots that are filled from the rank's own memory are copied. Under the hierarchical rule
    groups stay on their nodes.

    \b
    eplb-opt gap before.json --redundant 32 --gpus 32 --policy refined --placements old.npz
    eplb-opt migrate old.npz now.json --redundant 32 --gpus 32 --budget 20 -o new.npz
    eplb-opt migrate initial small.json --redundant 4 --gpus 4 --within 0.01 --prove 10
    """  # noqa: D301 - click needs the character
    if instance.spread_replicas:
        raise InputError("--spread-replicas: migrate does not keep replicas apart, leave it out")
    before = _initial(instance) if old == INITIAL else _read_old(old, policy, instance)
    front = _front(instance, before, budget, None if within is None else Fraction(within))
    if prove is not None:
        share = None if within is None else Fraction(within)
        front = _proven(instance, front, budget, share, prove)
    if placements is not None:
        from eplb_opt.io import write_placements

        write_placements(placements, {"migrated": front.chosen(instance)})
    if json_target is not None:
        write_json(json_target, _document(instance, old, budget, within, front))
    if json_target != "-":
        show(describe(instance), _layer_table(instance, front))
        show("fullest rank over the lower bound by received experts", _front_table(front))
    return 0


@dataclass(frozen=True)
class _Point:
    """A placement [P] of one layer: its exact makespan, and what its ranks receive and copy."""

    slots: tuple[int, ...]
    makespan: Fraction
    received: int
    copied: int


@dataclass(frozen=True)
class _Front:
    """By layer: the lower bound, the placement for each of ``budgets``, and the one chosen, and
    with ``--prove`` how many receives its makespan takes at least.
    """

    budgets: tuple[int, ...]
    bounds: list[Fraction]
    before: list[_Point]
    points: list[list[_Point]]
    choices: list[_Point]
    at_least: list[int] | None = None

    def chosen(self, instance: Instance) -> Placement:
        """The placement chosen for each layer."""
        import numpy as np

        from eplb_opt.problem.placement import Placement

        slots = np.array([point.slots for point in self.choices])
        return Placement(slots, instance.num_logical_experts)

    def above(self, layer: int, point: _Point) -> float | None:
        """Makespan over the bound less 1; None for a layer without load."""
        from eplb_opt.problem.objective import relative_gap

        bound = self.bounds[layer]
        return relative_gap(point.makespan, bound) if bound > 0 else None


def _front(
    instance: Instance, before: NDArray[np.int64], budget: int, within: Fraction | None
) -> _Front:
    import torch

    from eplb_opt.bounds import lower_bound
    from eplb_opt.problem.instance import Rule
    from heuristics.migration import migrate

    shown = [step for step in (*STEPS, budget) if step <= budget]
    topology = instance.topology
    nodes = topology.num_nodes if instance.rule == Rule.HIERARCHICAL else 1
    found = migrate(
        torch.tensor(instance.loads, dtype=torch.float64),
        torch.tensor(before),
        topology.num_ranks,
        range(budget + 1) if within is not None else shown,
        num_nodes=nodes,
        every_budget=within is None,
    )
    maps = found.phy2log.numpy()
    points = [
        [_point(instance, i, before, maps[i, j]) for j in range(len(found.budgets))]
        for i in range(instance.num_layers)
    ]
    bounds = [lower_bound(layer).value for layer in instance.layers()]
    choices = [_choose(*pair, within) for pair in zip(points, bounds, strict=True)]
    now = [_point(instance, i, before, before[i]) for i in range(instance.num_layers)]
    kept = [[row[found.budgets.index(b)] for b in sorted(set(shown))] for row in points]
    return _Front(tuple(sorted(set(shown))), bounds, now, kept, choices)


def _proven(
    instance: Instance, front: _Front, budget: int, within: Fraction | None, seconds: float
) -> _Front:
    """With proven numbers of receives, and with the placements that the proofs came upon."""
    import numpy as np

    from solvers.migration import fewest_moves

    choices, at_least = list(front.choices), list[int]()
    before = np.array([point.slots for point in front.before])
    for i, layer in enumerate(instance.layers()):
        old, start = front.before[i].slots, choices[i]
        wanted = start.makespan if within is None else (1 + within) * front.bounds[i]
        for limit in (wanted, start.makespan):  # the second if the first takes too many receives
            result = fewest_moves(layer, old, limit, time_limit=seconds, initial=[start.slots])
            if result.moves is not None and result.moves <= budget:
                break
        at_least.append(result.lower_bound)
        if result.placement is not None and result.placement != start.slots:
            choices[i] = _point(instance, i, before, np.array(result.placement))
    return replace(front, choices=choices, at_least=at_least)


def _point(
    instance: Instance, layer: int, before: NDArray[np.int64], after: NDArray[np.int64]
) -> _Point:
    from eplb_opt.problem.objective import exact_makespan
    from eplb_opt.problem.transfer import copied, received

    size, old, new = instance.topology.slots_per_rank, before[layer][None], after[None]
    slots = tuple(int(e) for e in after)
    moves, copies = (int(count(old, new, size).sum()) for count in (received, copied))
    return _Point(slots, exact_makespan(instance.layer(layer), slots), moves, copies)


def _choose(points: list[_Point], bound: Fraction, within: Fraction | None) -> _Point:
    """The fewest receives that come within the ratio; else the least makespan."""
    if within is not None:
        near = [point for point in points if point.makespan <= (1 + within) * bound]
        if near:
            return min(near, key=lambda point: (point.received, point.makespan))
    return min(points, key=lambda point: (point.makespan, point.received))


def _initial(instance: Instance) -> NDArray[np.int64]:
    import numpy as np

    from eplb_opt.problem.instance import Rule

    if instance.rule == Rule.HIERARCHICAL and instance.topology.num_nodes > 1:
        raise InputError(
            f"OLD {INITIAL}: slots in order break the hierarchical rule, give a file or --rule "
            "global"
        )
    row = np.arange(instance.topology.num_physical_experts) % instance.num_logical_experts
    return np.tile(row, (instance.num_layers, 1))


def _read_old(old: str, policy: str | None, instance: Instance) -> NDArray[np.int64]:
    """The placement in the file, its rows those of the instance, checked."""
    from eplb_opt.io import read_placements
    from eplb_opt.problem.placement import Placement
    from eplb_opt.problem.validity import find_violations

    with bad_input(old):
        maps = read_placements(Path(old))
        if policy is None and len(maps) != 1:
            raise InputError(f"{old} holds {', '.join(maps)}: choose one with --policy")
        name = policy if policy is not None else next(iter(maps))
        if name not in maps:
            raise InputError(f"{old} has no placement of {name!r}, but {', '.join(maps)}")
        rows, numbers = maps[name], list(instance.numbers)
        if max(numbers) < len(rows):
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


def _layer_table(instance: Instance, front: _Front) -> Any:
    result = table(
        "layer",
        "now",
        "after",
        "lower bound",
        "now above",
        "after above",
        "received",
        "copied",
        *(["receives needed"] if front.at_least is not None else []),
    )
    for i, layer in enumerate(instance.numbers):
        before, after = front.before[i], front.choices[i]
        result.add_row(
            str(layer),
            *(f"{float(x):.3f}" for x in (before.makespan, after.makespan, front.bounds[i])),
            percent(front.above(i, before)),
            percent(front.above(i, after)),
            str(after.received),
            str(after.copied),
            *([] if front.at_least is None else [_needed(front.at_least[i], after.received)]),
        )
    return result


def _needed(at_least: int, received: int) -> str:
    return f"{received}, proven" if at_least == received else f"{at_least} .. {received}"


def _summary(front: _Front) -> list[tuple[int, float, float, float]]:
    """For each budget: mean and maximum over the bound, and mean receives, of layers with load."""
    loaded = [i for i, bound in enumerate(front.bounds) if bound > 0]
    rows = []
    for j, budget in enumerate(front.budgets):
        above = [front.above(i, front.points[i][j]) or 0.0 for i in loaded]
        moves = [front.points[i][j].received for i in loaded]
        if loaded:
            mean = sum(above) / len(loaded)
            rows.append((budget, mean, max(above), sum(moves) / len(loaded)))
    return rows


def _front_table(front: _Front) -> Any:
    result = table("received at most", "mean above", "max above", "received, mean")
    for budget, mean, most, moves in _summary(front):
        result.add_row(str(budget), percent(mean), percent(most), f"{moves:.1f}")
    return result


def _document(
    instance: Instance, old: str, budget: int, within: float | None, front: _Front
) -> dict[str, Any]:
    """``eplb-opt/migrate/1``."""
    from eplb_opt.gap import describe_instance

    summary = [
        {"budget": b, "above_mean": mean, "above_max": most, "received_mean": moves}
        for b, mean, most, moves in _summary(front)
    ]
    return {
        "schema": "eplb-opt/migrate/1",
        "instance": describe_instance(instance),
        "old": old,
        "budget": budget,
        "within": within,
        "layers": [_layer_json(layer, i, front) for i, layer in enumerate(instance.numbers)],
        "front": summary,
    }


def _layer_json(layer: int, i: int, front: _Front) -> dict[str, Any]:
    from eplb_opt.problem.result import exact_text, float_below

    return {
        "layer": layer,
        "status": "ok" if front.bounds[i] > 0 else "no-load",
        "lower_bound": float_below(front.bounds[i]),
        "lower_bound_exact": exact_text(front.bounds[i]),
        "before": _point_json(i, front.before[i], front),
        "after": {**_point_json(i, front.choices[i], front), "phy2log": front.choices[i].slots},
        "received_at_least": None if front.at_least is None else front.at_least[i],
        "front": [
            {"budget": budget, **_point_json(i, point, front)}
            for budget, point in zip(front.budgets, front.points[i], strict=True)
        ],
    }


def _point_json(i: int, point: _Point, front: _Front) -> dict[str, Any]:
    from eplb_opt.problem.result import exact_text

    return {
        "makespan": float(point.makespan),
        "makespan_exact": exact_text(point.makespan),
        "above": front.above(i, point),
        "received": point.received,
        "copied": point.copied,
    }
