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
@click.option("--strict", is_flag=True, help="Exit 1 also for what rests on a solver's word.")
def command(file: Path, strict: bool) -> int:
    """Recompute what a certificate claims, in exact arithmetic and from the loads alone.

    Exit code 1 if a claim is refused or too large to check, after a minute at most. A bound that
    rests on a solver's word is shown as such.
    """
    from eplb_opt.certificate import Trust, parse_document, verify_document

    with bad_input(str(file)):
        document = parse_document(_content(file))
        verdicts = verify_document(document)
    show(*_rule(document["instance"]), *_cost(document["instance"]), _table(verdicts))
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


def _rule(instance: dict[str, Any]) -> list[str]:
    """A line about the rule ``home`` and its limit, which a claim is about."""
    limit = instance.get("traffic_limit_exact")
    return [f"rule home, traffic up to {limit}"] if instance["rule"] == "home" else []


def _cost(instance: dict[str, Any]) -> list[str]:
    """A line about the objective; none for the sum under even dispatch."""
    from eplb_opt.problem.objective import Cost

    cost = Cost.of(instance.get("objective", "sum"), instance.get("dispatch", "even"))
    if cost == Cost():
        return []
    steps = instance.get("num_steps")
    over = f" over {steps:,} steps" if cost.objective.name != "sum" else ""
    return [f"objective {cost.objective}{over}, dispatch {cost.dispatch}"]


def _table(verdicts: list[Verdict]) -> Any:
    """A row for each layer; with prices also what no shares of its placement can cost less than."""
    from eplb_opt.problem.rationals import decimal_text

    shares = any(verdict.any_shares is not None for verdict in verdicts)
    more = ("any shares, at least",) if shares else ()
    found = table("layer", "stage", "objective", *more, "lower bound", "evidence", "verdict")
    for verdict in verdicts:
        stage = "packing, counts given" if verdict.stage == "packing" else verdict.stage
        values = [verdict.objective, *([verdict.any_shares] if shares else []), verdict.lower_bound]
        numbers = map(decimal_text, values)
        found.add_row(str(verdict.layer), stage, *numbers, verdict.kind, _words(verdict))
    return found


def _words(verdict: Verdict) -> str:
    from eplb_opt.certificate import Trust

    words: dict[Any, str] = {
        Trust.VERIFIED: "verified",
        Trust.TOO_LARGE: "bound not verified: too large to check",
        Trust.TRUSTED: f"{' and '.join(verdict.trusted)} trusted, not verified",
        None: f"REFUSED: {verdict.reason}",
    }
    return words[verdict.trust]
