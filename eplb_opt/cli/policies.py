"""``eplb-opt policies``: what can be given to ``--policy``."""

from __future__ import annotations

import click

from eplb_opt.cli.output import show, table


@click.command()
def command() -> int:
    """List the built-in policies."""
    from heuristics.policies import FORMS, NAMED

    found = table("policy", "idea")
    found.columns[1].justify = "left"
    for name, policy in NAMED.items():
        found.add_row(name, policy.idea)
    show(
        found,
        "From an old placement:  --policy refined:40, dispatch-aware:fast:40, refined:relabel",
        f"All words:              {', '.join(FORMS.values())}",
        "Stages by name:         --policy 'huntington-hill + snake + pair-resplit'",
        "A program of your own:  --policy path/to/file.py[:function]",
    )
    return 0
