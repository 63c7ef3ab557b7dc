"""``eplb-opt convert``: loads between formats, placements into what serving engines read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import readable, writable
from eplb_opt.cli.parameters import Steps, read_one_placement, reading_options

if TYPE_CHECKING:
    from eplb_opt.problem.placement import Placement


@click.command()
@click.argument("source", type=click.Path(path_type=Path), callback=readable)
@click.argument("target", type=click.Path(path_type=Path), callback=writable)
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
    source: Path,
    target: Path,
    kind: str,
    policy: str | None,
    summed: bool,
    format: str | None,
    steps: Steps | None,
) -> int:
    r"""Convert recorded loads, or a placement to the file that SGLang or TensorRT-LLM serves from.

    \b
    eplb-opt convert recording.pt loads.npy
    eplb-opt gap loads.npy --redundant 32 --gpus 32 --placements placements.npz
    eplb-opt convert placements.npz init.json --to sglang
    """
    from eplb_opt import io

    if kind == "loads" and policy is not None:
        raise InputError(f"--policy {policy} chooses a placement, but --to is {kind}")
    if kind != "loads" and (summed or format is not None or steps is not None):
        raise InputError(f"--sum, --format and --steps are about loads, but --to is {kind}")
    with bad_input(str(source)):
        if kind == "loads":
            loads = io.read_loads(source, format=format, steps=steps).loads
            io.write_loads(target, loads.sum(axis=0) if summed and loads.ndim == 3 else loads)
            return 0
        name, placement = _placement(source, policy)
        if kind == "sglang":
            io.write_sglang_placement(target, placement)
        elif kind == "trtllm":
            io.write_trtllm_placement(target, placement)
        else:
            io.write_placements(target, {name: placement})
    return 0


def _placement(source: Path, policy: str | None) -> tuple[str, Placement]:
    from eplb_opt.problem.placement import Placement

    name, phy2log = read_one_placement(source, policy)
    return name, Placement(phy2log, int(phy2log.max()) + 1)
