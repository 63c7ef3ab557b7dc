"""``eplb-opt report``: a page about a gap measurement, a replay or a sweep."""

from __future__ import annotations

from pathlib import Path

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import readable, writable


@click.command()
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False), callback=readable)
@click.option(
    "-o",
    "--output",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=writable,
    required=True,
    help="The page (.html); one file that needs nothing else.",
)
def command(source: Path, page: Path) -> int:
    """Make a page of SOURCE: what `gap` (also with several limits of traffic) or `replay --json`
    wrote, or the results of a sweep.
    """
    from eplb_opt.report import write_page

    with bad_input():
        try:
            size = write_page(source, page)
        except ImportError as error:
            raise InputError(str(error)) from error
    click.echo(f"{page}: {size / 1000:.0f} kB", err=True)
    return 0
