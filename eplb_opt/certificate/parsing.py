"""From the JSON of a certificate to numbers and evidence: types and fields; nothing is proven."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from eplb_opt.certificate.proof import CertificateError
from eplb_opt.problem.evidence import (
    Block,
    ClosedForm,
    Evidence,
    Exhaustive,
    Groups,
    Pattern,
    Trusted,
)

NUMBER = re.compile("[0-9]{1,2000}(/[1-9][0-9]{0,2000})?")


def parse_exact(value: Any, name: str) -> Fraction:
    """A number in a document: ``num`` or ``num/den`` as a string.

    Raises:
        CertificateError: it is something else.
    """
    if not isinstance(value, str) or not NUMBER.fullmatch(value):
        raise CertificateError(f"{name}={str(value)[:40]!r} must be a string 'num' or 'num/den'")
    return Fraction(value)


def parse_integers(values: Any, name: str) -> tuple[int, ...]:
    """A list of integers.

    Raises:
        CertificateError: it is something else.
    """
    if not isinstance(values, list) or any(type(v) is not int for v in values):
        raise CertificateError(f"{name} must be a list of integers")
    return tuple(values)


def parse_evidence(given: Any) -> Evidence:
    """Evidence of any kind.

    Raises:
        CertificateError: no such kind, or a field is missing, too many or of a wrong type.
    """
    kind = _field(given, "kind", str)
    if kind == "closed-form":
        _only(given, {"kind"})
        return ClosedForm()
    if kind == "exhaustive":
        _only(given, {"kind"})
        return Exhaustive()
    if kind == "trusted":
        _only(given, {"kind", "solver"})
        return Trusted(_field(given, "solver", str))
    if kind == "pattern":
        return _pattern(given)
    if kind == "groups":
        _only(given, {"kind", "blocks"})
        return Groups(tuple(_block(entry) for entry in _field(given, "blocks", list)))
    raise CertificateError(f"kind={kind!r} is no kind of evidence")


def _pattern(given: dict[str, Any]) -> Pattern:
    fields = {"kind", "bound", "grid", "count_price", "levels"}
    if set(given) != fields:
        raise CertificateError(f"evidence of kind 'pattern' has the fields {sorted(fields)}")
    levels = _field(given, "levels", list)
    if not all(isinstance(level, list) and len(level) == 2 for level in levels):
        raise CertificateError("levels must be a list of [weight, price] pairs")
    grid, price = parse_integers([given.get("grid"), given.get("count_price")], "grid, count_price")
    pairs = (parse_integers(level, "the pairs of levels") for level in levels)
    bound = parse_exact(given.get("bound"), "bound")
    return Pattern(bound, grid, price, tuple((weight, price) for weight, price in pairs))


def _block(entry: Any) -> Block:
    _only(entry, {"groups", "bound", "evidence"})
    groups = parse_integers(entry.get("groups"), "groups")
    bound = parse_exact(entry.get("bound"), "bound")
    evidence = entry.get("evidence")
    if isinstance(evidence, dict) and evidence.get("kind") == "groups":
        raise CertificateError("groups within a block: a node is under the global rule")
    return Block(groups, bound, parse_evidence(evidence))


def _field(holder: Any, name: str, kind: type) -> Any:
    if not isinstance(holder, dict) or not isinstance(holder.get(name), kind):
        raise CertificateError(f"{name!r} is missing or no {kind.__name__}")
    return holder[name]


def _only(holder: Any, names: set[str]) -> None:
    if not isinstance(holder, dict) or set(holder) - names:
        raise CertificateError(f"expected an object with the fields {', '.join(sorted(names))}")
