"""What people see: tables on stdout, progress on stderr, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from eplb_opt.gap import Progress
    from eplb_opt.problem.instance import Instance

FILE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""


def write_json(target: str, document: dict[str, Any]) -> None:
    """Write ``document`` to a file, whole or not at all, or to stdout for ``-``."""
    text = json.dumps(document, indent=1, allow_nan=False)
    if target == "-":
        print(text)
    else:
        from eplb_opt.io.atomic import replace_file

        replace_file(Path(target), (text + "\n").encode())


def table(*columns: str) -> Table:
    """An empty table; the first column is text, the others are numbers."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        result.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return result


def show(*parts: Any) -> None:
    """Print tables and lines on stdout; names and messages cannot steer the terminal."""
    from rich.console import Console
    from rich.text import Text

    from eplb_opt.problem.shown import printable

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    console = Plain(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    for part in parts:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))


def percent(value: float | None) -> str:
    """``0.0123`` as ``1.230 %``; a small value keeps its first digit."""
    if value is None:
        return "-"
    return f"{100 * value:.0e} %" if 0 < value < 1e-5 else f"{100 * value:.3f} %"


def describe(instance: Instance) -> str:
    """One line about an instance."""
    machine = instance.topology
    nodes = f", {machine.num_nodes} nodes, {machine.num_groups} groups"
    return (
        f"{instance.source}: {instance.num_layers} layer{'s' * (instance.num_layers > 1)}, "
        f"{instance.num_logical_experts} experts, "
        f"{machine.num_physical_experts} slots on {machine.num_ranks} ranks"
        f"{nodes if machine.num_nodes > 1 else ''}, {instance.rule} rule"
    )


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress function that draws a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )
