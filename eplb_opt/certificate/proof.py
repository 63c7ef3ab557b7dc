"""Decide whether evidence proves a lower bound. Every kind is checked from the loads alone.

``closed-form``  an argument is found again (:mod:`eplb_opt.certificate.closed_form`);
``pattern``      dual prices of rank patterns, priced again (:mod:`eplb_opt.certificate.patterns`);
``exhaustive``   a search small enough to be done again (:mod:`eplb_opt.certificate.exhaustive`);
``groups``       bounds of blocks of groups, of which no partition avoids all that reach the claim;
``trusted``      a solver's word: nothing to check.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from fractions import Fraction

from eplb_opt.bounds.partitions import Block
from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError
from eplb_opt.certificate.closed_form import reaches
from eplb_opt.certificate.exhaustive import nothing_below
from eplb_opt.certificate.groups import blocks_of, every_partition_reaches
from eplb_opt.certificate.patterns import certified_pattern_bound
from eplb_opt.problem.evidence import ClosedForm, Evidence, Exhaustive, Groups, Pattern, Trusted
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.rationals import shown
from eplb_opt.problem.topology import Rule


class CertificateError(ValueError):
    """The document is malformed, or what it claims is not so; the message is one line."""


class Trust(IntEnum):
    """How far a bound was checked, worst first."""

    TRUSTED = 0
    """A solver's word, not verified."""
    TOO_LARGE = 1
    """It may be so, but the budget of work does not suffice to find out."""
    VERIFIED = 2
    """Proven again from the loads."""


def check_bound(
    layer: Layer,
    bound: Fraction,
    evidence: Evidence,
    counts: Sequence[int] | None = None,
    *,
    budget: CheckBudget | None = None,
) -> Trust:
    """Check that every placement of ``layer`` has a makespan of at least ``bound`` tokens.

    With ``counts`` [E], every placement with these counts. ``budget`` is that of a whole document
    if None.

    Raises:
        CertificateError: the evidence does not prove the bound.
    """
    try:
        return _check(layer, bound, evidence, counts, CheckBudget() if budget is None else budget)
    except TooLargeToCheckError:
        return Trust.TOO_LARGE


def _check(
    layer: Layer,
    bound: Fraction,
    evidence: Evidence,
    counts: Sequence[int] | None,
    budget: CheckBudget,
) -> Trust:
    if isinstance(evidence, Trusted):
        return Trust.TRUSTED
    if isinstance(evidence, ClosedForm):
        if not _follows(layer, bound, counts, budget):
            raise CertificateError(f"closed forms prove less than the bound {shown(bound)}")
        return Trust.VERIFIED
    if counts is not None:
        raise CertificateError(f"evidence of kind {evidence.kind!r} does not speak of given counts")
    if isinstance(evidence, Pattern):
        return _check_pattern(layer, bound, evidence, budget)
    if isinstance(evidence, Exhaustive):
        return _check_exhaustive(layer, bound, budget)
    if isinstance(evidence, Groups):
        return _check_groups(layer, bound, evidence, budget)
    raise CertificateError(f"evidence of kind {evidence.kind!r} is for several steps")


def _follows(
    layer: Layer, bound: Fraction, counts: Sequence[int] | None, budget: CheckBudget
) -> bool:
    """Whether an argument proves the bound; what holds globally holds under any rule."""
    if reaches(layer, bound, budget, counts):
        return True
    nodes = layer.topology.num_nodes if layer.rule == Rule.HIERARCHICAL else 1
    return nodes > 1 and counts is None and every_partition_reaches(layer, bound, set(), budget)


def _check_pattern(layer: Layer, bound: Fraction, evidence: Pattern, budget: CheckBudget) -> Trust:
    try:
        proven = certified_pattern_bound(layer, evidence, budget)
    except ValueError as error:
        raise CertificateError(str(error)) from None
    if proven < bound:
        raise CertificateError(f"patterns prove {shown(proven)}, not the bound {shown(bound)}")
    return Trust.VERIFIED


def _check_exhaustive(layer: Layer, bound: Fraction, budget: CheckBudget) -> Trust:
    if layer.rule != Rule.GLOBAL:
        raise CertificateError("evidence of kind 'exhaustive' is for the global rule only")
    if not nothing_below(layer, bound, budget):
        raise CertificateError(f"there is a placement below the bound {shown(bound)}")
    return Trust.VERIFIED


def _check_groups(layer: Layer, bound: Fraction, evidence: Groups, budget: CheckBudget) -> Trust:
    """Whether every partition of the groups has a block that reaches ``bound``, by its evidence or
    by a closed form.
    """
    if layer.rule != Rule.HIERARCHICAL:
        raise CertificateError("evidence of kind 'groups' is for the hierarchical rule only")
    blocks = blocks_of(layer, budget)
    if blocks is None:
        raise CertificateError(
            f"{layer.topology.num_groups} groups have too many partitions to check"
        )
    possible, reaching, trust = set(blocks), set[Block](), Trust.VERIFIED
    for block in evidence.blocks:
        budget.charge(50 + len(layer.loads))
        if block.groups not in possible:
            raise CertificateError(f"groups={shown(block.groups)} is no block of this topology")
        problem = layer.node_problem(block.groups)
        trust = min(trust, _check(problem, block.bound, block.evidence, None, budget))
        if block.bound >= bound:
            reaching.add(block.groups)
    if not every_partition_reaches(layer, bound, reaching, budget):
        raise CertificateError(f"a partition of the groups may stay below the bound {shown(bound)}")
    return trust
