"""Decide whether evidence proves a lower bound. Every kind is checked from the loads alone.

``closed-form``  the bound is recomputed (:mod:`eplb_opt.bounds`);
``pattern``      dual prices of rank patterns, priced again (:mod:`eplb_opt.certificate.patterns`);
``exhaustive``   a search small enough to be done again (:mod:`eplb_opt.certificate.exhaustive`);
``groups``       bounds of blocks of groups, none of them needed being below the claim;
``trusted``      a solver's word: nothing to check.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from fractions import Fraction
from typing import Any

from eplb_opt.bounds import global_bound, lower_bound, packing_bound
from eplb_opt.bounds.partitions import Block, all_blocks, bottleneck_partition, can_enumerate
from eplb_opt.certificate.exhaustive import TooLargeError, nothing_below
from eplb_opt.certificate.patterns import certified_pattern_bound
from eplb_opt.problem.instance import Layer, Rule

NUMBER = re.compile("[0-9]{1,2000}(/[1-9][0-9]{0,2000})?")


class CertificateError(ValueError):
    """The document is malformed, or what it claims is not so; the message is one line."""


class Trust(IntEnum):
    """How far a bound was checked, worst first."""

    TRUSTED = 0
    """A solver's word, not verified."""
    TOO_LARGE = 1
    """It could be verified, but not in reasonable time."""
    VERIFIED = 2
    """Proven again from the loads."""


def check_bound(
    layer: Layer, bound: Fraction, evidence: Any, counts: Sequence[int] | None = None
) -> Trust:
    """Check that every placement of ``layer`` has a makespan of at least ``bound`` tokens.

    With ``counts`` [E], every placement with these counts.

    Raises:
        CertificateError: the evidence is malformed or does not prove the bound.
    """
    kind = _field(evidence, "kind", str)
    if kind == "closed-form":
        _only(evidence, {"kind"})
        best = lower_bound(layer) if counts is None else packing_bound(layer, counts)
        if best.value < bound:
            raise CertificateError(f"closed forms prove {best.value}, not the bound {bound}")
        return Trust.VERIFIED
    if kind == "trusted":
        _only(evidence, {"kind", "solver"})
        _field(evidence, "solver", str)
        return Trust.TRUSTED
    if counts is not None:
        raise CertificateError(f"evidence of kind {kind!r} does not speak of given counts")
    if kind == "pattern":
        return _check_pattern(layer, bound, evidence)
    if kind == "exhaustive":
        _only(evidence, {"kind"})
        return _check_exhaustive(layer, bound)
    if kind == "groups":
        return _check_groups(layer, bound, evidence)
    raise CertificateError(f"kind={kind!r} is no kind of evidence")


def parse_exact(value: Any, name: str) -> Fraction:
    """A number in a document: ``num`` or ``num/den`` as a string.

    Raises:
        CertificateError: it is something else.
    """
    if not isinstance(value, str) or not NUMBER.fullmatch(value):
        raise CertificateError(f"{name}={str(value)[:40]!r} must be a string 'num' or 'num/den'")
    return Fraction(value)


def _check_pattern(layer: Layer, bound: Fraction, evidence: dict[str, Any]) -> Trust:
    try:
        proven = certified_pattern_bound(layer, evidence)
    except ValueError as error:
        raise CertificateError(str(error)) from None
    if proven < bound:
        raise CertificateError(f"patterns prove {proven}, not the bound {bound}")
    return Trust.VERIFIED


def _check_exhaustive(layer: Layer, bound: Fraction) -> Trust:
    if layer.rule != Rule.GLOBAL:
        raise CertificateError("evidence of kind 'exhaustive' is for the global rule only")
    try:
        if nothing_below(layer, bound):
            return Trust.VERIFIED
    except TooLargeError:
        return Trust.TOO_LARGE
    raise CertificateError(f"there is a placement below the bound {bound}")


def _check_groups(layer: Layer, bound: Fraction, evidence: dict[str, Any]) -> Trust:
    """Whether every partition of the groups has a block that reaches ``bound``.

    Blocks without evidence count with their closed-form bound.
    """
    _only(evidence, {"kind", "blocks"})
    topology = layer.topology
    if layer.rule != Rule.HIERARCHICAL:
        raise CertificateError("evidence of kind 'groups' is for the hierarchical rule only")
    if not can_enumerate(topology.num_groups, topology.num_nodes):
        raise CertificateError(f"{topology.num_groups} groups have too many partitions to check")
    blocks = all_blocks(topology.num_groups, topology.num_nodes)
    proven: dict[Block, Fraction] = {}
    trust = Trust.VERIFIED
    for entry in _field(evidence, "blocks", list):
        _only(entry, {"groups", "bound", "evidence"})
        block = tuple(_field(entry, "groups", list))
        if block not in blocks or any(type(k) is not int for k in block):
            raise CertificateError(f"groups={str(block)[:40]} is no block of this topology")
        proven[block] = parse_exact(entry.get("bound"), "bound")
        found = check_bound(layer.node_problem(block), proven[block], entry.get("evidence"))
        trust = min(trust, found)
    for block in blocks:
        if block not in proven:
            proven[block] = global_bound(layer.node_problem(block)).value
    value = max(proven[block] for block in bottleneck_partition(proven, topology.num_groups))
    if value < bound:
        raise CertificateError(
            f"a partition of the groups reaches {value}, below the bound {bound}"
        )
    return trust


def _field(holder: Any, name: str, kind: type) -> Any:
    if not isinstance(holder, dict) or not isinstance(holder.get(name), kind):
        raise CertificateError(f"{name!r} is missing or no {kind.__name__}")
    return holder[name]


def _only(holder: Any, names: set[str]) -> None:
    if not isinstance(holder, dict) or set(holder) - names:
        raise CertificateError(f"expected an object with the fields {', '.join(sorted(names))}")
