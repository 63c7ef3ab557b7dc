"""``eplb-opt export``: results of a sweep as a table."""

from __future__ import annotations

from pathlib import Path

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import readable, writable


@click.command()
@click.argument("results", type=click.Path(path_type=Path, dir_okay=False), callback=readable)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=writable,
    required=True,
    help="Table: .csv, or .parquet with the lists of layers.",
)
def command(results: Path, output: Path) -> int:
    """Write RESULTS of a sweep as csv or parquet."""
    from eplb_opt.sweep import export

    with bad_input():
        try:
            count = export(results, output)
        except ImportError as error:
            raise InputError(str(error)) from error
    click.echo(f"{output}: {count} rows", err=True)
    return 0
