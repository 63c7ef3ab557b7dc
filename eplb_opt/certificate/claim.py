"""What is claimed of one layer, checked but for the evidence: the problem, the counts given, the
placement and what it costs, and that the status follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from eplb_opt.certificate import value
from eplb_opt.certificate.budget import CheckBudget
from eplb_opt.certificate.homes import require_budget_for_homes, require_limit
from eplb_opt.certificate.parsing import parse_exact, parse_integers, parse_value_evidence
from eplb_opt.certificate.problem import parse_layer
from eplb_opt.certificate.statement import CertificateError
from eplb_opt.problem.evidence import Cuts, LimitedCuts, Prices, Trusted, ValueEvidence
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import SUM, Cost, Dispatch
from eplb_opt.problem.rationals import shown
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import layer_violation

LAYER_FIELDS = {
    "layer", "stage", "phy2log", "counts", "objective_exact", "lower_bound_exact", "status",
    "evidence",
}  # fmt: skip
"""Besides ``loads``, or ``steps`` for an objective over steps."""
MORE_FIELDS = {"shares", "value_evidence"}
"""Which may be missing."""
STAGES = ("joint", "packing")


@dataclass(frozen=True)
class Value:
    """What a placement costs, in tokens.

    Attributes:
        exact: as claimed, and computed again unless it is ``trusted``.
        trusted: it is a solver's word.
        any_shares: under fixed dispatch, no shares of this placement cost less; None if unknown.
    """

    exact: Fraction
    trusted: bool = False
    any_shares: Fraction | None = None


@dataclass(frozen=True)
class Claim:
    """That every placement of ``layer`` (with ``counts`` [E], if they are given) costs at least
    ``bound`` tokens by ``cost``; ``value`` is that of the best one known.
    """

    layer: Layer
    cost: Cost
    stage: str
    counts: tuple[int, ...] | None
    value: Value | None
    bound: Fraction


def read_claim(
    machine: dict[str, Any], entry: dict[str, Any], cost: Cost, budget: CheckBudget
) -> Claim:
    """The claim in one layer of a document.

    Raises:
        CertificateError: it is malformed or not true.
        TooLargeToCheckError: the budget does not suffice to find out.
    """
    fields = LAYER_FIELDS | {"loads" if cost.objective == SUM else "steps"}
    if set(entry) - MORE_FIELDS != fields:
        raise CertificateError(f"a layer has the fields {', '.join(sorted(fields))}")
    stage = entry["stage"]
    if stage not in STAGES:
        raise CertificateError(f"stage={shown(stage)!r} is not one of {', '.join(STAGES)}")
    layer = parse_layer(machine, entry, cost, budget)
    if stage == "packing" and cost.dispatch != Dispatch.EVEN:
        raise CertificateError("counts are given for dispatch 'even' only")
    counts = _counts(layer, entry["counts"], budget) if stage == "packing" else None
    if counts is None and entry["counts"] is not None:
        raise CertificateError("counts are given for the stage packing only")
    bound = parse_exact(entry["lower_bound_exact"], "lower_bound_exact", budget)
    found = _value(layer, entry, cost, counts, budget)
    if _status(found, bound) != entry["status"]:
        raise CertificateError(f"status={shown(entry['status'])!r} does not follow from the values")
    return Claim(layer, cost, stage, counts, found, bound)


def _counts(layer: Layer, given: Any, budget: CheckBudget) -> tuple[int, ...]:
    """Those of a packing, which some placement must be able to have."""
    counts = parse_integers(given, "counts")
    budget.charge(1 + len(counts) // 4)
    num_slots, most = layer.topology.num_physical_experts, layer.most_replicas
    if len(counts) != len(layer.loads):
        raise CertificateError(f"{len(counts)} counts of {len(layer.loads)} experts")
    for expert, count in enumerate(counts):
        if not 1 <= count <= most:
            raise CertificateError(f"counts[{expert}]={shown(count)} is not from 1 to {most}")
    if sum(counts) != num_slots:
        raise CertificateError(f"the counts sum to {sum(counts)}, not to {num_slots} slots")
    return counts


def _value(
    layer: Layer,
    entry: dict[str, Any],
    cost: Cost,
    counts: Sequence[int] | None,
    budget: CheckBudget,
) -> Value | None:
    """Of the placement, which must be valid and cost what is claimed."""
    evidence = parse_value_evidence(entry.get("value_evidence"), budget)
    if entry["phy2log"] is None:
        if entry["objective_exact"] is not None or evidence or entry.get("shares") is not None:
            raise CertificateError("an objective without a placement")
        nodes = layer.topology.num_nodes if layer.rule != Rule.GLOBAL else 1
        if counts is not None and nodes > 1:
            raise CertificateError("counts under this rule need a placement, which shows they fit")
        return None
    phy2log = parse_integers(entry["phy2log"], "phy2log")
    budget.charge(1 + len(phy2log))
    _require_valid(layer, phy2log, budget)
    if counts is not None and Counter(phy2log) != dict(enumerate(counts)):
        raise CertificateError("the placement has not the given counts")
    shares = _shares(phy2log, entry.get("shares"), cost, budget)
    if cost.dispatch == Dispatch.EVEN or shares is not None:
        require_limit(layer, phy2log, shares or value.even_shares(phy2log), budget)
    claimed = parse_exact(entry["objective_exact"], "objective_exact", budget)
    if isinstance(evidence, Trusted):
        return Value(claimed, trusted=True)
    found = _cost(layer, phy2log, cost, shares, evidence, budget)
    if found.exact != claimed:
        raise CertificateError(
            f"the placement is worth {shown(found.exact)}, not objective_exact={shown(claimed)}"
        )
    return found


def _require_valid(layer: Layer, phy2log: Sequence[int], budget: CheckBudget) -> None:
    """That the placement is valid under the rule.

    Raises:
        CertificateError: it is not.
    """
    if layer.rule == Rule.HOME:
        if layer.topology.num_nodes == 1:
            layer = layer.without_nodes()
        else:
            require_budget_for_homes(layer, budget)
    wrong = layer_violation(layer, phy2log)
    if wrong is not None:
        raise CertificateError(f"phy2log is no valid placement: {wrong}")


def _shares(
    phy2log: Sequence[int], given: Any, cost: Cost, budget: CheckBudget
) -> list[Fraction] | None:
    """[P] as given, which must be whole."""
    if given is None:
        return None
    if cost.dispatch != Dispatch.FIXED:
        raise CertificateError("shares are given for dispatch 'fixed' only")
    if not isinstance(given, list):
        raise CertificateError("shares must be a list of numbers")
    shares = [parse_exact(share, "shares", budget) for share in given]
    value.require_whole(phy2log, shares, budget)
    return shares


def _cost(
    layer: Layer,
    phy2log: Sequence[int],
    cost: Cost,
    shares: list[Fraction] | None,
    evidence: ValueEvidence | None,
    budget: CheckBudget,
) -> Value:
    """What the placement costs, computed again."""
    objective, dispatch = cost
    if isinstance(evidence, Cuts) and dispatch == Dispatch.EVEN:
        raise CertificateError("cuts prove nothing of dispatch 'even'")
    if isinstance(evidence, Prices) and dispatch != Dispatch.FIXED:
        raise CertificateError("prices are for dispatch 'fixed' only")
    if isinstance(evidence, LimitedCuts) and dispatch != Dispatch.OPTIMAL:
        raise CertificateError("cuts under a limit of traffic are for dispatch 'optimal' only")
    if dispatch == Dispatch.EVEN:
        shares = value.even_shares(phy2log)
    if shares is None:
        if dispatch == Dispatch.FIXED and len(objective.loads_of(layer)) > 1:
            raise CertificateError("dispatch 'fixed' over several steps needs shares")
        cuts = evidence if isinstance(evidence, Cuts | LimitedCuts) else None
        exact = value.best_cost(layer, phy2log, objective, cuts, budget)
    else:
        exact = value.cost_of_shares(layer, phy2log, shares, objective, budget)
    if dispatch != Dispatch.FIXED or evidence is None or isinstance(evidence, LimitedCuts):
        return Value(exact)
    least = value.least_cost(layer, phy2log, objective, evidence, budget)
    return Value(exact, any_shares=least)


def _status(found: Value | None, bound: Fraction) -> str:
    if found is None:
        return "unknown"
    if found.exact < bound:
        raise CertificateError(
            f"the placement is worth {shown(found.exact)}, below the bound {shown(bound)}"
        )
    return "optimal" if found.exact == bound else "feasible"
