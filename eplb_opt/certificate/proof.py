"""Decide whether evidence proves a lower bound. Every kind is checked from the loads alone.

``closed-form``  an argument is found again (:mod:`eplb_opt.certificate.closed_form`);
``pattern``      dual prices of rank patterns, priced again (:mod:`eplb_opt.certificate.patterns`);
``exhaustive``   a search small enough to be done again (:mod:`eplb_opt.certificate.exhaustive`);
``groups``       bounds of blocks of groups, of which no partition avoids all that reach the claim;
``trusted``      a solver's word: nothing to check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from eplb_opt.bounds.partitions import Block
from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError
from eplb_opt.certificate.closed_form import reaches
from eplb_opt.certificate.exhaustive import nothing_below
from eplb_opt.certificate.groups import blocks_of, every_partition_reaches
from eplb_opt.certificate.patterns import certified_pattern_bound
from eplb_opt.certificate.statement import CertificateError, Statement, Trust
from eplb_opt.problem.evidence import ClosedForm, Evidence, Exhaustive, Groups, Pattern, Trusted
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, Cost
from eplb_opt.problem.rationals import shown
from eplb_opt.problem.topology import Rule


def check_bound(
    layer: Layer,
    bound: Fraction,
    evidence: Evidence,
    counts: Sequence[int] | None = None,
    *,
    cost: Cost = EVEN_SUM,
    budget: CheckBudget | None = None,
) -> Trust:
    """Check that every placement of ``layer`` costs at least ``bound`` tokens by ``cost``.

    With ``counts`` [E], every placement with these counts. ``budget`` is that of a whole document
    if None.

    Raises:
        CertificateError: the evidence does not prove the bound.
    """
    budget = CheckBudget() if budget is None else budget
    try:
        return check(Statement(layer, bound, budget, cost.on(layer), counts), evidence)
    except TooLargeToCheckError:
        return Trust.TOO_LARGE


def check(statement: Statement, evidence: Evidence) -> Trust:
    """The check of the kind of ``evidence``.

    Raises:
        CertificateError: it does not prove the statement.
        TooLargeToCheckError: the budget does not suffice to find out.
    """
    if statement.counts is not None and not isinstance(evidence, ClosedForm | Trusted):
        raise CertificateError(f"evidence of kind {evidence.kind!r} does not speak of given counts")
    return CHECKS[evidence.kind](statement, evidence)


def _trust(_statement: Statement, _evidence: Trusted) -> Trust:
    return Trust.TRUSTED


def _check_closed_form(claim: Statement, _evidence: ClosedForm) -> Trust:
    """Whether an argument proves the bound; what holds globally holds under any rule."""
    layer, bound, budget, counts = claim.layer, claim.bound, claim.budget, claim.counts
    _require_even_sum(claim, "closed-form")
    proven = reaches(layer, bound, budget, counts)
    if not proven and counts is None and layer.rule == Rule.HIERARCHICAL:
        nodes = layer.topology.num_nodes
        proven = nodes > 1 and every_partition_reaches(layer, bound, set(), budget)
    if not proven:
        raise CertificateError(f"closed forms prove less than the bound {shown(bound)}")
    return Trust.VERIFIED


def _check_pattern(claim: Statement, evidence: Pattern) -> Trust:
    _require_even_sum(claim, evidence.kind)
    try:
        proven = certified_pattern_bound(claim.layer, evidence, claim.budget)
    except ValueError as error:
        raise CertificateError(str(error)) from None
    if proven < claim.bound:
        raise CertificateError(
            f"patterns prove {shown(proven)}, not the bound {shown(claim.bound)}"
        )
    return Trust.VERIFIED


def _check_exhaustive(claim: Statement, evidence: Exhaustive) -> Trust:
    _require_even_sum(claim, evidence.kind)
    if claim.layer.rule != Rule.GLOBAL:
        raise CertificateError("evidence of kind 'exhaustive' is for the global rule only")
    if not nothing_below(claim.layer, claim.bound, claim.budget):
        raise CertificateError(f"there is a placement below the bound {shown(claim.bound)}")
    return Trust.VERIFIED


def _check_groups(claim: Statement, evidence: Groups) -> Trust:
    """Whether every partition of the groups has a block that reaches the bound, by its evidence or
    by a closed form.
    """
    layer, bound, budget = claim.layer, claim.bound, claim.budget
    _require_even_sum(claim, evidence.kind)
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
        trust = min(trust, check(Statement(problem, block.bound, budget), block.evidence))
        if block.bound >= bound:
            reaching.add(block.groups)
    if not every_partition_reaches(layer, bound, reaching, budget):
        raise CertificateError(f"a partition of the groups may stay below the bound {shown(bound)}")
    return trust


def _require_even_sum(claim: Statement, kind: str) -> None:
    if claim.cost != EVEN_SUM:
        raise CertificateError(f"evidence of kind {kind!r} proves nothing for {claim.cost}")


CHECKS: dict[str, Callable[[Statement, Any], Trust]] = {
    "trusted": _trust,
    "closed-form": _check_closed_form,
    "pattern": _check_pattern,
    "exhaustive": _check_exhaustive,
    "groups": _check_groups,
}
"""By kind; a new one has a line here, in ``parsing.READERS`` and in ``writing.FIELDS``."""
