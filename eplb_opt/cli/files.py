"""The files of a command: what it writes is neither another output nor what it reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

CLAIMED = "eplb_opt.cli.files"
"""Where click keeps the files that the options so far have named."""
NO_FILES = ("-", "next", "initial")
"""Words in place of a file."""
SUFFIXES = {"placements": (".npz", ".json"), "page": (".html", ".htm")}
"""Of the outputs with these names."""

Value = TypeVar("Value")


def readable(ctx: click.Context, param: click.Parameter, value: Value) -> Value:
    """A file or several that a command reads: no option may write to one."""
    for path in value if isinstance(value, tuple) else (value,):
        file, array, _ = str(path).rpartition(".npz:")  # one of its arrays
        _claim(ctx, param, f"{file}.npz" if array else path, writes=False)
    return value


def policy_list(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> tuple[str, ...]:
    """``deepseek,refined``, also given one by one; a comma in the name of a file that exists parts
    nothing.
    """
    names: list[str] = []
    for value in values:
        file, _, function = value.partition(":")
        one = "," not in function and Path(file).is_file()
        names += [value] if one else [name.strip() for name in value.split(",")]
    return policy_files(ctx, param, tuple(names))


def policy_files(ctx: click.Context, param: click.Parameter, value: Value) -> Value:
    """The same for policies, which may be files ``FILE.py[:FUNCTION]``."""
    for policy in value if isinstance(value, tuple) else (value,):
        _claim(ctx, param, str(policy).partition(":")[0], writes=False)
    return value


def writable(ctx: click.Context, param: click.Parameter, value: Value) -> Value:
    """Refuse a target that cannot be written before hours of work go into it.

    Standard output is for ``--json`` alone: two documents in it could not be told apart.
    """
    if value is None or (str(value) == "-" and param.name == "json_target"):
        return value
    path = Path(str(value))
    target = Path(os.path.realpath(path))  # where a link leads to
    if not target.parent.is_dir():
        raise click.BadParameter(f"{value}: there is no folder {target.parent}")
    if target.is_symlink():
        raise click.BadParameter(f"{value}: a link that leads to itself, give a file")
    allowed = SUFFIXES.get(str(param.name), (path.suffix,))
    if path.suffix not in allowed:
        known = ", ".join(allowed)
        raise click.BadParameter(f"{value}: suffix {path.suffix!r} is not one of {known}")
    if str(value) == "-":
        raise click.BadParameter("-: only --json writes to standard output, give a file")
    if path.is_dir():
        raise click.BadParameter(f"{value}: is a folder, give a file")
    _claim(ctx, param, value, writes=True)
    return value


def not_written(option: str, target: object, why: str) -> None:
    """Say that an output was asked for and there is nothing to write."""
    click.echo(f"eplb-opt: {option} {target} is not written: {why}", err=True)


def _claim(ctx: click.Context, param: click.Parameter, value: Any, *, writes: bool) -> None:
    path = Path(str(value))
    if value is None or str(value) in NO_FILES or (path.exists() and not path.is_file()):
        return  # a device or a pipe may be named twice
    known = ctx.meta.setdefault(CLAIMED, {})
    other, written = known.setdefault(os.path.realpath(path), (param, writes))
    if other is not param and (writes or written):
        name = other.opts[0] if isinstance(other, click.Option) else other.human_readable_name
        raise click.BadParameter(f"{value} is the file of {name}, too: give another one")
