"""``eplb-opt convert``: loads between formats, placements into what serving engines read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import readable, writable
from eplb_opt.cli.parameters import Steps, read_one_placement, reading_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from eplb_opt.io.placed_for import PlacedFor


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE.. [TARGET]"
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File, in place of TARGET.")
@click.option(
    "--to",
    "kind",
    type=click.Choice(["loads", "placements", "sglang", "trtllm"]),
    default="loads",
    show_default=True,
    help="What SOURCE is turned into; all but loads take a file of --placements.",
)
@click.option("--policy", help="Which placement of SOURCE, if it holds several.")
@click.option("--sum", "summed", is_flag=True, help="Sum a trace over time.")
@reading_options
def command(
    files: tuple[Path, ...],
    output: Path | None,
    kind: str,
    policy: str | None,
    summed: bool,
    format: str | None,
    steps: Steps | None,
) -> int:
    """Convert recorded loads, or a placement to the file that SGLang or TensorRT-LLM serves from.

    Several SOURCEs, with -o, are joined as the steps of a trace. FILE.npz:NAME is one array of it.

    \b
    eplb-opt convert recording.pt loads.npy
    eplb-opt convert monday.json tuesday.json -o trace.npy
    eplb-opt gap loads.npy --redundant 32 --gpus 32 --placements placements.npz
    eplb-opt convert placements.npz init.json --to sglang
    """  # noqa: D301 - click needs the character
    from eplb_opt import io
    from eplb_opt.problem.loads import sum_over_time

    if kind == "loads" and policy is not None:
        raise InputError(f"--policy {policy} chooses a placement, but --to is {kind}")
    if kind != "loads" and output is not None and len(files) > 1:
        raise InputError(f"{len(files)} files are joined as steps of loads, but --to is {kind}")
    if kind != "loads" and (summed or format is not None or steps is not None):
        raise InputError(f"--sum, --format and --steps are about loads, but --to is {kind}")
    sources, target = _sources_and_target(files, output)
    if kind == "loads":
        recordings = []
        for source in sources:
            with bad_input(str(source)):
                recordings.append(io.read_loads(source, format=format, steps=steps))
        with bad_input():
            loads = recordings[0].loads if len(sources) == 1 else io.join_steps(recordings)
            io.write_loads(target, sum_over_time(loads) if summed and loads.ndim == 3 else loads)
        return 0
    (source,) = sources
    with bad_input(str(source)):
        name, phy2log = read_one_placement(source, policy)
        _convert(kind, target, name, phy2log, io.read_placed_for(source))
    return 0


SOURCE, TARGET = click.Argument(["source"]), click.Argument(["target"])


def _sources_and_target(
    files: tuple[Path, ...], output: Path | None
) -> tuple[tuple[Path, ...], Path]:
    """All files are read if there is an ``output``, else the first of two."""
    if output is None and len(files) != 2:
        raise InputError(
            f"give SOURCE and TARGET, or sources and -o TARGET, not {len(files)} file"
            f"{'s' * (len(files) > 1)} alone"
        )
    sources, target = (files, output) if output is not None else (files[:1], files[1])
    context = click.get_current_context()
    readable(context, SOURCE, sources)
    return sources, writable(context, TARGET, target)


def _convert(
    kind: str, target: Path, name: str, phy2log: NDArray[np.int64], placed_for: PlacedFor | None
) -> None:
    from eplb_opt import io
    from eplb_opt.problem.placement import Placement

    experts = int(phy2log.max()) + 1 if placed_for is None else placed_for.num_logical_experts
    layers = tuple(range(len(phy2log))) if placed_for is None else placed_for.layers
    placement = Placement(phy2log, experts)
    if kind == "placements":
        io.write_placements(target, {name: placement}, placed_for=placed_for)
    elif kind == "trtllm":
        io.write_trtllm_placement(target, placement, layers=layers)
    elif layers == tuple(range(len(layers))):
        io.write_sglang_placement(target, placement)
    else:
        raise InputError(
            f"--to sglang: rows are all layers of the model, but these are of {list(layers)}: "
            "place them without --layers"
        )
