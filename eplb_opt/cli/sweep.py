"""``eplb-opt sweep``: many policies on many instances, resumable."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import readable, writable
from eplb_opt.cli.interrupts import keep_results, report_interrupt
from eplb_opt.cli.output import percent, show, table
from eplb_opt.cli.policy_options import policies_loaded

if TYPE_CHECKING:
    from eplb_opt.sweep import Spec
    from eplb_opt.sweep.run import SweepProgress

FIRST = 10
"""Units that ``--dry-run`` prints."""


@click.command()
@click.argument("spec", type=click.Path(path_type=Path, dir_okay=False), callback=readable)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    callback=writable,
    help="File of JSON lines.",
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--dask", metavar="tcp://HOST:PORT", help="Scheduler of a dask cluster to run on.")
@click.option("--dry-run", is_flag=True, help="Print the plan and check that its files exist.")
def command(spec: Path, output: Path | None, workers: int, dask: str | None, dry_run: bool) -> int:
    """Measure what SPEC (yaml) names; append a line a unit to OUTPUT.

    What OUTPUT has already is not done again, so an interrupted sweep goes on where it ended. A
    unit that fails is a line with its status and message.
    """
    from eplb_opt.sweep import SpecError, Store, read_spec, run_sweep

    if dask is not None and workers > 1:
        raise InputError(f"--workers {workers} are local ones, --dask {dask} has its own: give one")
    try:
        found = read_spec(spec)
    except SpecError as error:
        click.echo("\n".join(f"eplb-opt: error: {e}" for e in str(error).splitlines()), err=True)
        return 2
    if dry_run:
        with bad_input():
            _print_plan(found)
        return 0
    if output is None:
        raise InputError("give the file of results: -o results.jsonl")
    if dask is None:
        _load_policies(found)
    with bad_input(), Store(output, warn=lambda text: click.echo(text, err=True)) as store:
        before = len(store.done)
        failed, stopped = 0, False
        try:
            with _progress() as progress:
                failed = run_sweep(found, store, workers=workers, dask=dask, progress=progress)
        except KeyboardInterrupt:
            stopped = True
        keep_results()
        new = len(store.done) - before
        _summarize(output, new, before)
    if stopped:
        return report_interrupt(f"{new} new units are in {output}, a rerun does the others")
    return 1 if failed else 0


def _load_policies(spec: Spec) -> None:
    """Refuse users' files that cannot be imported or have no such function; names are checked."""
    from eplb_opt.policies.names import is_user_file
    from eplb_opt.policies.process import Limits

    limits = Limits(spec.policy_timeout, int(spec.policy_memory_gb * 2**30))
    names = dict.fromkeys(name for block in spec.blocks for name in block.policies)
    with policies_loaded(filter(is_user_file, names), limits):
        pass


def _print_plan(spec: Spec) -> None:
    from eplb_opt.sweep.tasks import left

    first: list[str] = []
    axes: dict[str, set[str]] = {
        "loads": set(),
        "machines": set(),
        "rules": set(),
        "policies": set(),
    }
    total = tasks = 0
    for task in left(spec, set()):
        tasks += 1
        total += len(task.units)
        first += itertools.islice(task.units, max(0, FIRST - len(first)))
        axes["loads"].add(task.source.key)
        axes["machines"].add(str(task.machine))
        axes["rules"].add(task.rule)
        axes["policies"].update(unit.rsplit(" | ", 1)[1] for unit in task.units)
    sizes = ", ".join(f"{len(values)} {name}" for name, values in axes.items())
    show(f"{total} units in {tasks} tasks: {sizes}", *first)
    if total > len(first):
        show(f"... and {total - len(first)} more")


@contextmanager
def _progress() -> Iterator[SweepProgress]:
    """On a terminal a bar, elsewhere a line every now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        TextColumn("{task.completed:.0f} / {task.total:.0f} units, {task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    terminal = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not terminal) as bar:
        task = bar.add_task("", failed=0)
        yield lambda done, total, failed: bar.update(
            task, completed=done, total=total, failed=failed
        )


def _summarize(output: Path, new: int, before: int) -> None:
    from eplb_opt.sweep.store import rows

    statuses: dict[str, Counter[str]] = {}
    gaps: dict[str, list[float]] = {}
    for row in rows(output):
        statuses.setdefault(row["policy"], Counter())[row["status"]] += 1
        if row.get("gap_mean") is not None:
            gaps.setdefault(row["policy"], []).append(row["gap_mean"])
    result = table("policy", "units", "ok", "failed", "mean gap", "worst mean gap")
    for policy, counts in statuses.items():
        found = gaps.get(policy, [])
        mean = sum(found) / len(found) if found else None
        result.add_row(
            policy,
            str(counts.total()),
            str(counts["ok"]),
            str(counts.total() - counts["ok"]),
            percent(mean),
            percent(max(found, default=None)),
        )
    show(f"{output}: {new} new units, {before} were there", result)
