"""What people see: tables on stdout, progress on stderr, JSON for machines."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from eplb_opt.gap import Progress
    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.objective import Cost

SPEAK_EVERY = 5.0
"""Seconds between two lines of progress where stderr is no terminal."""
FILE_WIDTH = 160
"""Columns that a table in a file or a pipe may take; a split with all its intervals needs 140."""
UNLIMITED = 10**6
"""Columns of a terminal on which everything fits."""


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
    console = _console()
    for part in parts:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))


def fits(*tables: Table) -> bool:
    """Whether tables are shown with every cell on one line."""
    console = _console()
    unlimited = console.options.update(max_width=UNLIMITED)
    widest = (console.measure(shown, options=unlimited).maximum for shown in tables)
    return max(widest, default=0) <= console.width


def _console() -> Console:
    """Standard output."""
    from rich.console import Console
    from rich.text import Text

    from eplb_opt.problem.shown import printable

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    return Plain(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)


def percent(value: float | None) -> str:
    """``0.0123`` as ``1.230 %``; a small value keeps its first digit."""
    if value is None:
        return "-"
    return f"{100 * value:.0e} %" if 0 < value < 1e-5 else f"{100 * value:.3f} %"


def describe(instance: Instance) -> str:
    """One line about an instance."""
    limit = float(instance.traffic_limit)
    limited = f", traffic up to {limit:g}" * (limit < 1)
    return f"{describe_machine(instance)}, {instance.rule} rule{limited}"


def describe_machine(instance: Instance) -> str:
    """One line about an instance, whatever its rule."""
    machine = instance.topology
    nodes = f", {machine.num_nodes} nodes, {machine.num_groups} groups"
    return (
        f"{instance.source}: {instance.num_layers} layer{'s' * (instance.num_layers > 1)}, "
        f"{instance.num_logical_experts} experts, "
        f"{machine.num_physical_experts} slots on {machine.num_ranks} ranks"
        f"{nodes if machine.num_nodes > 1 else ''}"
    )


def describe_cost(instance: Instance, cost: Cost) -> list[str]:
    """A line about what is measured, if that is not the sum under even dispatch."""
    from eplb_opt.problem.objective import EVEN_SUM, SUM

    if cost == EVEN_SUM:
        return []
    line = f"objective {cost.objective}, {cost.dispatch} dispatch"
    if cost.objective == SUM or instance.trace is None:
        return [line]
    loaded = instance.trace[:, instance.loads.sum(axis=1) > 0]
    idle = (loaded.sum(axis=2) == 0).sum(axis=0)
    ends = {int(idle.min(initial=len(loaded))), int(idle.max(initial=0))}
    without = " to ".join(map(str, sorted(ends)))
    steps = f"{len(loaded)} steps{' that weigh alike' * instance.normalize_steps}"
    return [f"{line}, {steps}; {without} of them without load, which cost 0"]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress function: a bar on stderr if that is a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        with _spoken() as progress:
            yield progress
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )


@contextmanager
def _spoken() -> Iterator[Progress]:
    """What is being done, said every few seconds however long one step takes."""
    state: list[tuple[str, int, int]] = []
    ended = threading.Event()

    def speak() -> None:
        while not ended.wait(SPEAK_EVERY):
            for what, done, total in state:
                print(f"eplb-opt: {what}, {done} of {total} done", file=sys.stderr, flush=True)

    def listen(what: str, done: int, total: int) -> None:
        state[:] = [(what, done, total)]

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield listen
    finally:
        ended.set()
        speaker.join()
