"""``eplb-opt policies``: what can be given to ``--policy``."""

from __future__ import annotations

import click

from eplb_opt.cli.output import show, table


@click.command()
def command() -> int:
    """List the built-in policies."""
    import importlib

    from eplb_opt.registry import BUILT_IN

    found = table("policy", "what it does")
    found.columns[1].justify = "left"
    for name, target in BUILT_IN.items():
        module, _, function = target.partition(":")
        doc = getattr(importlib.import_module(module), function).__doc__ or ""
        found.add_row(name, doc.strip().splitlines()[0])
    show(found, "A program of your own: --policy path/to/file.py[:function]")
    return 0
