"""The file of a certificate: what was solved, what was found, and why nothing better exists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError
from eplb_opt.certificate.claim import Claim, read_claim
from eplb_opt.certificate.parsing import parse_evidence
from eplb_opt.certificate.problem import parse_cost
from eplb_opt.certificate.proof import check_bound
from eplb_opt.certificate.statement import CertificateError, Trust
from eplb_opt.problem.evidence import Blocks, Evidence
from eplb_opt.problem.objective import Cost
from eplb_opt.problem.rationals import shown

SCHEMA = "eplb-opt/certificate/1"
LARGEST_NUMBER = 2_000
"""Layers of a document."""


@dataclass(frozen=True)
class Verdict:
    """What was found about one layer: ``trust`` is None if the layer was refused for ``reason``.

    Attributes:
        layer: its number.
        objective: what the placement costs, in tokens; None without one.
        lower_bound: in tokens.
        kind: of the evidence; of blocks of steps also of theirs.
        trust: how far value and bound were checked.
        reason: why not further; empty if they are verified or trusted.
        stage: what the bound speaks of; with ``packing`` of placements with the given counts only.
        trusted: what rests on a solver's word, of ``value`` and ``bound``.
        any_shares: under fixed dispatch, no shares of this placement cost less; None if unknown.
    """

    layer: int
    objective: Fraction | None = None
    lower_bound: Fraction | None = None
    kind: str = ""
    trust: Trust | None = None
    reason: str = ""
    stage: str = ""
    trusted: tuple[str, ...] = ()
    any_shares: Fraction | None = None


def sign(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the digest of its content, which shows a change made by accident.

    It proves nothing: whoever changes a claim can compute the digest again. The checks of the
    claims themselves are what counts.
    """
    content = {key: value for key, value in document.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return content | {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def verify_document(document: Any, budget: CheckBudget | None = None) -> list[Verdict]:
    """Check every layer of a document, with no solver.

    Each layer may use an equal part of the budget that is left; what one leaves goes to those after
    it. ``budget`` is that of :mod:`eplb_opt.certificate.budget` if None.

    Raises:
        CertificateError: the document as a whole is no certificate.
    """
    machine, layers = _parts(document)
    budget = CheckBudget() if budget is None else budget
    cost = parse_cost(machine, budget)
    verdicts, numbers = [], set[int]()
    for position, entry in enumerate(layers):
        number = _number(entry)
        if number is None:
            verdicts.append(Verdict(position, reason="'layer' is missing or no number of a layer"))
        elif number in numbers:
            verdicts.append(Verdict(number, reason="a layer of this number stands before it"))
        else:
            numbers.add(number)
            with budget.part(len(layers) - position) as part:
                verdicts.append(verdict_on(machine, entry, cost, part))
    return verdicts


def _number(entry: Any) -> int | None:
    number = entry.get("layer") if isinstance(entry, dict) else None
    return number if type(number) is int and 0 <= number < 2**63 else None


def verdict_on(
    machine: dict[str, Any], entry: dict[str, Any], cost: Cost, budget: CheckBudget
) -> Verdict:
    """What the checker says about one layer of a document, whose number is one."""
    number = entry["layer"]
    try:
        return _check(read_claim(machine, entry, cost, budget), entry["evidence"], budget)
    except TooLargeToCheckError as error:
        return Verdict(number, trust=Trust.TOO_LARGE, reason=str(error))
    except ValueError as error:
        return Verdict(number, reason=str(error))


def _check(claim: Claim, given: Any, budget: CheckBudget) -> Verdict:
    evidence = parse_evidence(given, budget)
    trust = check_bound(
        claim.layer, claim.bound, evidence, claim.counts, cost=claim.cost, budget=budget
    )
    value = claim.value
    words = {
        "value": value is not None and value.trusted,
        "bound": trust is Trust.TRUSTED,
    }
    return Verdict(
        claim.layer.index,
        None if value is None else value.exact,
        claim.bound,
        _kinds(evidence),
        Trust.TRUSTED if words["value"] and trust is Trust.VERIFIED else trust,
        stage=claim.stage,
        trusted=tuple(word for word, trusted in words.items() if trusted),
        any_shares=None if value is None else value.any_shares,
    )


def _kinds(evidence: Evidence) -> str:
    """``blocks of closed-form and trusted``, for instance."""
    if not isinstance(evidence, Blocks) or not evidence.blocks:
        return evidence.kind
    kinds = sorted({block.evidence.kind for block in evidence.blocks})
    return f"{evidence.kind} of {' and '.join(kinds)}"


def _parts(document: Any) -> tuple[dict[str, Any], Sequence[Any]]:
    """The machine and the layers of a document that is whole."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise CertificateError(f"is no certificate: expected schema {SCHEMA!r}")
    if set(document) - {"interrupted"} != {"schema", "instance", "layers", "sha256"}:
        raise CertificateError(
            "a certificate has the fields schema, instance, layers, interrupted and sha256"
        )
    if _digest(document) != document["sha256"]:
        raise CertificateError("was changed: its content does not fit sha256")
    machine, layers = document["instance"], document["layers"]
    if not isinstance(machine, dict) or not isinstance(layers, list):
        raise CertificateError("instance must be an object and layers a list")
    if type(document.get("interrupted", False)) is not bool:
        raise CertificateError("interrupted must be true or false")
    if type(machine.get("num_layers")) is not int or machine["num_layers"] != len(layers):
        raise CertificateError(
            f"num_layers={shown(machine.get('num_layers'))} but there are {len(layers)} layers"
        )
    if not 0 < len(layers) <= LARGEST_NUMBER:
        raise CertificateError(f"has {len(layers)} layers, not 1 to {LARGEST_NUMBER:,}")
    return machine, layers


def _digest(document: dict[str, Any]) -> Any:
    try:
        return sign(document)["sha256"]
    except (ValueError, TypeError, RecursionError) as error:  # a document that no JSON holds
        raise CertificateError(f"is no JSON: {shown(error)}") from None
