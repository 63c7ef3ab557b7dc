"""Decide whether evidence proves a lower bound. Every kind is checked from the loads alone.

``closed-form``  the bound is recomputed (:mod:`eplb_opt.bounds`);
``pattern``      dual prices of rank patterns, priced again (:mod:`eplb_opt.certificate.patterns`);
``exhaustive``   a search small enough to be done again (:mod:`eplb_opt.certificate.exhaustive`);
``groups``       bounds of blocks of groups, none of them needed being below the claim;
``trusted``      a solver's word: nothing to check.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from fractions import Fraction

from eplb_opt import bounds
from eplb_opt.bounds.partitions import Block, all_blocks, bottleneck_partition, can_enumerate
from eplb_opt.certificate.exhaustive import TooLargeError, nothing_below
from eplb_opt.certificate.patterns import certified_pattern_bound
from eplb_opt.problem.evidence import ClosedForm, Evidence, Exhaustive, Groups, Pattern, Trusted
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.topology import Rule


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
    layer: Layer, bound: Fraction, evidence: Evidence, counts: Sequence[int] | None = None
) -> Trust:
    """Check that every placement of ``layer`` has a makespan of at least ``bound`` tokens.

    With ``counts`` [E], every placement with these counts.

    Raises:
        CertificateError: the evidence does not prove the bound.
    """
    if isinstance(evidence, ClosedForm):
        best = bounds.of(layer, counts=counts).value
        if best < bound:
            raise CertificateError(f"closed forms prove {best}, not the bound {bound}")
        return Trust.VERIFIED
    if isinstance(evidence, Trusted):
        return Trust.TRUSTED
    if counts is not None:
        raise CertificateError(f"evidence of kind {evidence.kind!r} does not speak of given counts")
    if isinstance(evidence, Pattern):
        return _check_pattern(layer, bound, evidence)
    if isinstance(evidence, Exhaustive):
        return _check_exhaustive(layer, bound)
    return _check_groups(layer, bound, evidence)


def _check_pattern(layer: Layer, bound: Fraction, evidence: Pattern) -> Trust:
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


def _check_groups(layer: Layer, bound: Fraction, evidence: Groups) -> Trust:
    """Whether every partition of the groups has a block that reaches ``bound``.

    Blocks without evidence count with their closed-form bound.
    """
    topology = layer.topology
    if layer.rule != Rule.HIERARCHICAL:
        raise CertificateError("evidence of kind 'groups' is for the hierarchical rule only")
    if not can_enumerate(topology.num_groups, topology.num_nodes):
        raise CertificateError(f"{topology.num_groups} groups have too many partitions to check")
    blocks = all_blocks(topology.num_groups, topology.num_nodes)
    proven: dict[Block, Fraction] = {}
    trust = Trust.VERIFIED
    for block in evidence.blocks:
        if block.groups not in blocks:
            raise CertificateError(f"groups={str(block.groups)[:40]} is no block of this topology")
        problem = layer.node_problem(block.groups)
        proven[block.groups] = block.bound
        trust = min(trust, check_bound(problem, block.bound, block.evidence))
    for groups in blocks:
        if groups not in proven:
            proven[groups] = bounds.of(layer.node_problem(groups)).value
    value = max(proven[groups] for groups in bottleneck_partition(proven, topology.num_groups))
    if value < bound:
        raise CertificateError(
            f"a partition of the groups reaches {value}, below the bound {bound}"
        )
    return trust
