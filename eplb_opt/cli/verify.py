"""``eplb-opt verify``: check a certificate without any solver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.output import show, table

if TYPE_CHECKING:
    from eplb_opt.certificate import Verdict


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="Exit 1 also for bounds that are not verified.")
def command(file: Path, strict: bool) -> int:
    """Recompute what a certificate claims, in exact arithmetic and from the loads alone.

    Exit code 1 if a claim is refused. A bound that rests on a solver's word is shown as such.
    """
    from eplb_opt.certificate import Trust, verify_document

    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: no JSON: {error}") from error
    with bad_input(str(file)):
        verdicts = verify_document(document)
    found = table("layer", "objective", "lower bound", "evidence", "verdict")
    for verdict in verdicts:
        found.add_row(*_row(verdict))
    show(found)
    worst = min((-1 if v.trust is None else v.trust for v in verdicts), default=Trust.VERIFIED)
    return 1 if worst < 0 or (strict and worst < Trust.VERIFIED) else 0


def _row(verdict: Verdict) -> list[str]:
    from eplb_opt.certificate import Trust

    words: dict[Any, str] = {
        Trust.VERIFIED: "verified",
        Trust.TOO_LARGE: "bound not verified: too large to search again",
        Trust.TRUSTED: "bound trusted, not verified",
        None: f"REFUSED: {verdict.reason}",
    }
    values = [verdict.objective, verdict.lower_bound]
    numbers = ["-" if value is None else f"{float(value):.3f}" for value in values]
    return [str(verdict.layer), *numbers, verdict.kind, words[verdict.trust]]
