"""``eplb-opt generate``: synthetic loads, calibrated on recordings."""

from __future__ import annotations

from pathlib import Path

import click

from eplb_opt.cli.errors import bad_input
from eplb_opt.cli.files import writable
from eplb_opt.cli.parameters import SEED, Finite


@click.command()
@click.argument("family", metavar="FAMILY")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    callback=writable,
    required=True,
    help="File.",
)
@click.option("--layers", "num_layers", type=int, default=58, show_default=True)
@click.option("--experts", "num_experts", type=int, default=256, show_default=True)
@click.option("--groups", "num_groups", type=int, default=8, show_default=True)
@click.option("--tokens", type=int, default=1 << 20, show_default=True, help="Per layer and step.")
@click.option(
    "--shape", type=Finite(min=0, min_open=True), help="lognormal sigma, gamma k, zipf exponent."
)
@click.option("--steps", type=int, help="Make a trace of so many steps, with drift.")
@click.option(
    "--phi",
    type=Finite(min=0, max=1, max_open=True),
    help="Drift: correlation of one step with the next.",
)
@click.option("--sd", type=Finite(min=0), help="Drift: standard deviation of the log-load.")
@click.option("--seed", type=SEED, default=0, show_default=True)
def command(
    family: str,
    output: Path,
    num_layers: int,
    num_experts: int,
    num_groups: int,
    tokens: int,
    shape: float | None,
    steps: int | None,
    phi: float | None,
    sd: float | None,
    seed: int,
) -> int:
    """Write token counts per expert to a file (.npy, .npz, .json or .csv).

    FAMILY is deepseek-v3 (fitted to recordings of that model), lognormal, gamma or zipf.
    """
    from eplb_opt.io import write_loads
    from eplb_opt.io.synthetic import Drift, generate

    given = {name: value for name, value in (("phi", phi), ("sd", sd)) if value is not None}
    with bad_input():
        loads = generate(
            family,
            num_layers=num_layers,
            num_experts=num_experts,
            tokens=tokens,
            seed=seed,
            num_groups=num_groups,
            shape=shape,
            steps=steps,
            drift=Drift(**given) if given else None,
        )
        write_loads(output, loads)
    sizes = " x ".join(str(n) for n in loads.shape)
    click.echo(f"{output}: {sizes} token counts, family {family}, seed {seed}", err=True)
    return 0
