"""Decide whether evidence proves a lower bound. Every kind is checked from the loads alone.

``closed-form``  an argument is found again (:mod:`eplb_opt.certificate.closed_form`), also of homes
                 (:mod:`eplb_opt.certificate.homes`);
``pattern``      dual prices of rank patterns, priced again (:mod:`eplb_opt.certificate.patterns`);
``exhaustive``   a search small enough to be done again (:mod:`eplb_opt.certificate.exhaustive`,
                 :mod:`eplb_opt.certificate.exhaustive_steps`);
``groups``       bounds of blocks of groups, of which no partition avoids all that reach the claim;
``blocks``       bounds of the summed loads of disjoint blocks of steps, which add up;
``one-partition``  closed forms of the nodes, for each partition of the groups, or of homes;
``same-rank``    prices of experts at each step (:mod:`eplb_opt.certificate.same_rank`);
``trusted``      a solver's word: nothing to check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from eplb_opt.bounds.partitions import Block
from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError
from eplb_opt.certificate.closed_form import reaches
from eplb_opt.certificate.dispatch_bound import dispatch_reaches, steps_reach
from eplb_opt.certificate.exhaustive import nothing_below
from eplb_opt.certificate.exhaustive_steps import placement_below
from eplb_opt.certificate.groups import blocks_of, every_partition_reaches
from eplb_opt.certificate.homes import homes_reach, limit_of, one_home_proves, same_problem
from eplb_opt.certificate.one_partition import one_partition_proves
from eplb_opt.certificate.patterns import certified_pattern_bound
from eplb_opt.certificate.problem import cost_over
from eplb_opt.certificate.same_rank import same_rank_proves, steps_with_floors
from eplb_opt.certificate.statement import CertificateError, Statement, Trust
from eplb_opt.problem.evidence import (
    CLOSED_FORM,
    Blocks,
    ClosedForm,
    Evidence,
    Exhaustive,
    Groups,
    OnePartition,
    Pattern,
    SameRank,
    Trusted,
)
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, SUM, Cost, Dispatch, Objective
from eplb_opt.problem.rationals import integer_array, shown
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
    statement = replace(statement, layer=same_problem(statement.layer))
    searched = evidence.kind == "exhaustive" and statement.cost != EVEN_SUM
    if statement.counts is not None and evidence.kind not in OF_COUNTS and not searched:
        raise CertificateError(f"evidence of kind {evidence.kind!r} does not speak of given counts")
    return CHECKS[evidence.kind](statement, evidence)


OF_COUNTS = ("trusted", "closed-form", "blocks")
"""Kinds that speak of given counts, as a search over several steps does."""


def _trust(_statement: Statement, _evidence: Trusted) -> Trust:
    return Trust.TRUSTED


def _check_closed_form(claim: Statement, _evidence: ClosedForm) -> Trust:
    """Whether an argument proves the bound; what holds globally holds under any rule."""
    layer, bound, budget, counts = claim.layer, claim.bound, claim.budget, claim.counts
    objective, dispatch = claim.cost
    if objective != SUM:
        proven = steps_reach(layer, objective, bound, budget, counts)
    elif dispatch == Dispatch.EVEN:
        proven = reaches(layer, bound, budget, counts)
    else:
        proven = dispatch_reaches(layer, bound, budget)
    if not proven and objective == SUM and counts is None and layer.rule == Rule.HIERARCHICAL:
        of_node = reaches if dispatch == Dispatch.EVEN else dispatch_reaches
        nodes = layer.topology.num_nodes
        proven = nodes > 1 and every_partition_reaches(layer, bound, set(), budget, of_node)
    if not proven and objective == SUM and counts is None and layer.rule == Rule.HOME:
        proven = homes_reach(layer, dispatch, bound, budget)
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


def _check_exhaustive(claim: Statement, _evidence: Exhaustive) -> Trust:
    if claim.cost != EVEN_SUM or claim.layer.rule != Rule.GLOBAL:
        below = placement_below(claim.layer, claim.bound, claim.cost, claim.counts, claim.budget)
    else:
        below = not nothing_below(claim.layer, claim.bound, claim.budget)
    if below:
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


def _check_blocks(claim: Statement, evidence: Blocks) -> Trust:
    """Whether bounds of the summed loads of disjoint blocks of steps add up to the bound."""
    objective, dispatch = claim.cost
    loads = objective.loads_of(claim.layer)
    steps = [t for block in evidence.blocks for t in block.steps]
    claim.budget.charge(len(steps) + len(evidence.blocks))
    empty = any(not block.steps for block in evidence.blocks)
    if empty or any(not 0 <= t < len(loads) for t in steps) or len(set(steps)) < len(steps):
        raise CertificateError(f"blocks are not disjoint sets of steps from 0 to {len(loads) - 1}")
    trust = Trust.VERIFIED
    for block in evidence.blocks:
        claim.budget.charge(20 + loads.shape[1] * (1 + len(block.steps) // 8))
        total = tuple(map(int, loads[list(block.steps)].sum(axis=0)))
        layer = limit_of(claim.layer, len(block.steps), len(loads), dispatch)
        layer = replace(layer, loads=total, steps=integer_array([total]))
        statement = Statement(layer, block.bound, claim.budget, Cost(SUM, dispatch), claim.counts)
        trust = min(trust, check(statement, block.evidence))
    proven = _cost_of_blocks(objective, len(loads), evidence, claim.budget)
    if proven < claim.bound:
        raise CertificateError(f"blocks prove {shown(proven)}, not the bound {shown(claim.bound)}")
    return trust


def _cost_of_blocks(
    objective: Objective, num_steps: int, evidence: Blocks, budget: CheckBudget
) -> Fraction:
    """What their bounds prove together, in tokens.

    The makespans of a block sum to its bound at least. With each replaced by their mean, objectives
    are no higher: they are convex and do not depend on the order of steps.
    """
    means = [Fraction(0)] * num_steps
    for block in evidence.blocks:
        for t in block.steps:
            means[t] = block.bound / len(block.steps)
    return cost_over(objective, means, budget)


def _check_one_partition(claim: Statement, _evidence: OnePartition) -> Trust:
    proves = one_home_proves if claim.layer.rule == Rule.HOME else one_partition_proves
    if not proves(claim.layer, claim.cost, claim.bound, claim.budget):
        raise CertificateError(f"a partition of the groups may cost less than {shown(claim.bound)}")
    return Trust.VERIFIED


def _check_same_rank(claim: Statement, evidence: SameRank) -> Trust:
    """Whether the formula proves the bound, and closed forms the floors in it."""
    proven = same_rank_proves(claim.layer, claim.cost, evidence, claim.budget)
    if proven < claim.bound:
        raise CertificateError(
            f"same-rank proves {shown(proven)}, not the bound {shown(claim.bound)}"
        )
    cost = Cost(SUM, claim.cost.dispatch)
    for t in steps_with_floors(evidence):
        claim.budget.charge(20 + len(claim.layer.loads))
        step = claim.layer.steps[t : t + 1]
        layer = limit_of(claim.layer, 1, len(claim.layer.steps), cost.dispatch)
        layer = replace(layer, loads=tuple(map(int, step[0])), steps=step)
        check(Statement(layer, evidence.floors[t], claim.budget, cost), CLOSED_FORM)
    return Trust.VERIFIED


def _require_even_sum(claim: Statement, kind: str) -> None:
    if claim.cost != EVEN_SUM:
        raise CertificateError(f"evidence of kind {kind!r} proves nothing for {claim.cost}")


CHECKS: dict[str, Callable[[Statement, Any], Trust]] = {
    "trusted": _trust,
    "closed-form": _check_closed_form,
    "pattern": _check_pattern,
    "exhaustive": _check_exhaustive,
    "groups": _check_groups,
    "blocks": _check_blocks,
    "one-partition": _check_one_partition,
    "same-rank": _check_same_rank,
}
"""By kind; a new one has a line here, in ``parsing.READERS`` and in ``writing.FIELDS``."""
