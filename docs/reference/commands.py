"""Print docs/reference/commands.md, from what click knows: ``make docs``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import click

from eplb_opt.cli import COMMANDS, cli

HEAD = """# Commands

Made by `make docs` from the commands themselves; `eplb-opt COMMAND --help` says the same.

Tables go to standard output, progress and errors to standard error; `FILE|-` is a file, or `-` for
standard output. Exit codes:

- 0: done;
- 1: a check failed (`--fail-above`, `check`, `verify`, also where a claim is too large to check),
  or a policy that ran has no result;
- 2: bad input: one line that names file, field and value, before any work;
- 130, 143: ended by Ctrl-C, by SIGTERM. What was done is printed, and every file that was asked for
  is written.

## Options that several commands have
"""
MANY = 3
"""An option of at least so many commands is described once."""
Row = tuple[str, str]
"""An option and what it does."""


def commands() -> dict[str, click.Command]:
    """Every command by its name, in the order of ``eplb-opt --help``."""
    context = click.Context(cli)
    return {name: found for name in COMMANDS if (found := cli.get_command(context, name))}


def options(command: click.Command) -> list[Row]:
    """What click prints of each option, not wrapped."""
    context = click.Context(command)
    records = [p.get_help_record(context) for p in command.params if isinstance(p, click.Option)]
    return [(names, " ".join(text.split())) for names, text in filter(None, records)]


def listed(rows: list[Row]) -> Iterator[str]:
    """Lines of markdown."""
    yield from (f"- `{names}`: {text}" for names, text in rows)
    yield ""


def section(name: str, command: click.Command, shared: set[Row]) -> Iterator[str]:
    """A command: usage, help, its own options, and the names of those that it shares."""
    rows, context = options(command), click.Context(command)
    given = [p.make_metavar(context) for p in command.params if isinstance(p, click.Argument)]
    yield from (f"## {name}", f"`{' '.join(['eplb-opt', name, *given, '[OPTIONS]'])}`.")
    for paragraph in (command.help or "").split("\n\n"):
        if not paragraph.lstrip("\b\n ").startswith("eplb-opt "):  # examples are in the guide
            yield from (" ".join(paragraph.split()), "")
    if own := [row for row in rows if row not in shared]:
        yield from listed(own)
    if others := [f"`{row[0].split()[0]}`" for row in rows if row in shared]:
        yield from (f"Shared: {', '.join(others)}.", "")


def page() -> str:
    """The whole page."""
    found = commands()
    times = Counter(row for command in found.values() for row in options(command))
    shared = [row for row, number in times.items() if number >= MANY]
    lines = [HEAD, *listed(shared)]
    for name, command in found.items():
        lines += section(name, command, set(shared))
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
