"""``eplb-opt verify``: check a certificate without any solver."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.output import show, table

if TYPE_CHECKING:
    from eplb_opt.certificate import Verdict


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="Exit 1 also for bounds that rest on a solver's word.")
def command(file: Path, strict: bool) -> int:
    """Recompute what a certificate claims, in exact arithmetic and from the loads alone.

    Exit code 1 if a claim is refused or too large to check, after a minute at most. A bound that
    rests on a solver's word is shown as such.
    """
    from eplb_opt.certificate import Trust, parse_document, verify_document

    with bad_input(str(file)):
        document = parse_document(_content(file))
        verdicts = verify_document(document)
    found = table("layer", "stage", "objective", "lower bound", "evidence", "verdict")
    for verdict in verdicts:
        found.add_row(*_row(verdict))
    show(found)
    if document.get("interrupted"):
        show("the solve was interrupted: layers that it did not come to are not in this file")
    accepted = (Trust.VERIFIED,) if strict else (Trust.VERIFIED, Trust.TRUSTED)
    return 0 if all(verdict.trust in accepted for verdict in verdicts) else 1


def _content(file: Path) -> bytes:
    """No more of it than can be checked."""
    from eplb_opt.certificate.parsing import LARGEST_FILE

    if file.exists() and not file.is_file():
        raise InputError(f"{file}: is no regular file; write the certificate to one")
    with file.open("rb") as source:
        return source.read(LARGEST_FILE + 1)


def _row(verdict: Verdict) -> list[str]:
    from eplb_opt.certificate import Trust
    from eplb_opt.problem.rationals import decimal_text

    words: dict[Any, str] = {
        Trust.VERIFIED: "verified",
        Trust.TOO_LARGE: "bound not verified: too large to check",
        Trust.TRUSTED: "bound trusted, not verified",
        None: f"REFUSED: {verdict.reason}",
    }
    stage = "packing, counts given" if verdict.stage == "packing" else verdict.stage
    numbers = [decimal_text(value) for value in (verdict.objective, verdict.lower_bound)]
    return [str(verdict.layer), stage, *numbers, verdict.kind, words[verdict.trust]]
