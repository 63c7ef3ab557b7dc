"""Write certificates: the counterpart of :mod:`eplb_opt.certificate.claim` and ``parsing``.

What is written was read and checked by the checker itself, on the same budget: evidence that is too
large for it is written as the word of what found it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from eplb_opt.certificate.budget import CheckBudget
from eplb_opt.certificate.document import SCHEMA, sign, verdict_on
from eplb_opt.certificate.problem import parse_cost
from eplb_opt.certificate.statement import Trust
from eplb_opt.problem.evidence import (
    Blocks,
    Cuts,
    Evidence,
    Exhaustive,
    Groups,
    LimitedCuts,
    Pattern,
    Prices,
    SameRank,
    Trusted,
    ValueEvidence,
)
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, SUM, Cost
from eplb_opt.problem.rationals import exact_text
from eplb_opt.problem.result import Result, Stage
from eplb_opt.problem.topology import Rule

Document = dict[str, Any]

LONGEST_BITS = 6640
"""Of a number that is written: 2,000 digits (``parsing.NUMBER``)."""
REDO_EXPERTS = 16
"""Up to so many experts a search over several steps can be redone."""
IN_HASTE = 1_000_000
"""Units of work after an interrupt: below a second."""


def certificate(
    machine: Document,
    layers: Sequence[Layer],
    results: Sequence[Result],
    *,
    interrupted: bool,
    budget: CheckBudget | None = None,
) -> Document:
    """``eplb-opt/certificate/1`` for the first of ``layers``; ``machine`` is its ``instance``.

    ``budget`` is that of a whole document if None, and a small one after an interrupt, when people
    wait. Ctrl-C leaves the layers that are not checked yet on trust.

    Raises:
        ValueError: a layer that has no placement, or stands twice: there is nothing to certify.
        RuntimeError: the checker refuses what was solved: an error of this package.
    """
    if budget is None:
        budget = CheckBudget(IN_HASTE) if interrupted else CheckBudget()
    cost = parse_cost(machine, budget)
    claims: list[Document] = []
    solved = [layer.index for layer, _ in zip(layers, results, strict=False)]
    if len(set(solved)) < len(solved):
        raise ValueError(f"layers {solved}: a certificate holds a layer once")
    for position, (layer, result) in enumerate(zip(layers, results, strict=False)):
        if result.infeasible:
            raise ValueError(f"layer {layer.index} is infeasible: there is nothing to certify")
        with budget.part(len(results) - position) as part:
            claims.append(_check(machine, layer, result, cost, part))
    return sign(
        {"schema": SCHEMA, "instance": machine, "layers": claims, "interrupted": interrupted}
    )


def too_large(document: Document, results: Sequence[Result]) -> list[int]:
    """The layers whose evidence or placement in ``results`` was too large to be written, or whose
    value is too large to be computed again; by their numbers.
    """
    return [
        claim["layer"]
        for claim, result in zip(document["layers"], results, strict=True)
        if (claim["evidence"]["kind"] == "trusted" and not _is_word(result.certificate))
        or (claim.get("value_evidence") or {}).get("kind") == "trusted"
        or (result.placement is not None and claim["phy2log"] is None)
    ]


def _is_word(found: Evidence | None) -> bool:
    return found is None or isinstance(found, Trusted)


def evidence(found: Evidence | ValueEvidence) -> Document:
    """Evidence for a bound or a value."""
    fields = FIELDS.get(found.kind)
    return {"kind": found.kind} | ({} if fields is None else fields(found))


def _trusted(found: Trusted) -> Document:
    return {"solver": found.solver}


def _pattern(found: Pattern) -> Document:
    return {
        "bound": str(found.bound),
        "grid": found.grid,
        "count_price": found.count_price,
        "levels": [list(level) for level in found.levels],
    }


def _groups(found: Groups) -> Document:
    blocks = [
        {
            "groups": list(block.groups),
            "bound": exact_text(block.bound),
            "evidence": evidence(block.evidence),
        }
        for block in found.blocks
    ]
    return {"blocks": blocks}


def _blocks(found: Blocks) -> Document:
    blocks = [
        {
            "steps": list(block.steps),
            "bound": exact_text(block.bound),
            "evidence": evidence(block.evidence),
        }
        for block in found.blocks
    ]
    return {"blocks": blocks}


def _same_rank(found: SameRank) -> Document:
    return {
        "steps": list(found.steps),
        "prices": [[list(pair) for pair in row] for row in found.prices],
        "floors": [exact_text(floor) for floor in found.floors],
        "factors": [list(row) for row in found.factors],
    }


def _cuts(found: Cuts) -> Document:
    return {"ranks": [list(ranks) for ranks in found.ranks]}


def _prices(found: Prices) -> Document:
    prices = [list(row) for row in found.prices]
    document = {"scale": found.scale, "prices": prices, "bound": exact_text(found.bound)}
    return document | ({"traffic_price": found.traffic_price} if found.traffic_price else {})


def _limited_cuts(found: LimitedCuts) -> Document:
    prices = [list(row) for row in found.prices]
    return {"prices": prices, "traffic_prices": list(found.traffic_prices)}


FIELDS: dict[str, Callable[[Any], Document]] = {
    "trusted": _trusted,
    "pattern": _pattern,
    "groups": _groups,
    "blocks": _blocks,
    "same-rank": _same_rank,
    "cuts": _cuts,
    "limited-cuts": _limited_cuts,
    "prices": _prices,
}
"""What evidence has besides its kind."""


def _check(
    machine: Document, layer: Layer, result: Result, cost: Cost, budget: CheckBudget
) -> Document:
    """The claim with its evidence if the checker accepts that; what is too large is on trust."""
    trusted = Trusted(result.bound_source)
    claim = _claim(layer, result, _evidence(layer, result))
    try:
        verdict = verdict_on(machine, claim, cost, budget)
        if verdict.trust is Trust.TOO_LARGE and not verdict.kind and result.objective is not None:
            # already the value, which then is a solver's word
            claim |= {"shares": None, "value_evidence": evidence(Trusted(result.backend))}
            verdict = verdict_on(machine, claim, cost, budget)
    except KeyboardInterrupt:
        budget.left = 0
        return claim | {"evidence": evidence(trusted)}
    if verdict.trust is None:
        raise RuntimeError(
            f"layer {layer.index}: the checker refuses what {result.backend} found: "
            f"{verdict.reason}"
        )
    if verdict.trust is Trust.TOO_LARGE:
        claim["evidence"] = evidence(trusted)
    return claim


def _evidence(layer: Layer, result: Result) -> Evidence:
    """What came with the bound; without any a search if it may be redone, over several steps and
    under the rule ``home``, there also where a solver only gave its word.
    """
    found, home = result.certificate, layer.rule == Rule.HOME
    searched = home or result.cost.on(layer) != EVEN_SUM
    missing = found is None or (home and _is_word(found))
    if missing and searched and layer.num_logical_experts <= REDO_EXPERTS:
        return Exhaustive()
    return found or Trusted(result.bound_source)


def _short(*numbers: Fraction | int) -> bool:
    """Whether the checker reads numbers of so many digits."""
    return all(max(map(int.bit_length, n.as_integer_ratio())) <= LONGEST_BITS for n in numbers)


def _readable(result: Result) -> Result:
    """Without a placement whose value or shares have too many digits, and without such prices."""
    if result.objective is not None and not _short(result.objective, *(result.shares or ())):
        return replace(result, objective=None, placement=None, shares=None, value_evidence=None)
    found = result.value_evidence
    if isinstance(found, Prices):
        prices = (price for row in found.prices for price in row)
        if not _short(found.scale, found.bound, found.traffic_price, *prices):
            return replace(result, value_evidence=None)
    return result


def _claim(layer: Layer, result: Result, found: Evidence) -> Document:
    result = _readable(result)
    value, objective = result.objective, result.cost.objective
    rows = [[load * layer.unit for load in row] for row in objective.loads_of(layer).tolist()]
    claim = {
        "layer": layer.index,
        "stage": str(result.stage),
        "phy2log": None if result.placement is None else list(result.placement),
        "counts": list(result.counts or ()) if result.stage == Stage.PACKING else None,
        "objective_exact": None if value is None else exact_text(value),
        "lower_bound_exact": exact_text(result.lower_bound),
        "status": str(result.status),
        "evidence": evidence(found),
    }
    if objective == SUM:
        claim["loads"] = [exact_text(load) for load in rows[0]]
    else:
        claim["steps"] = [[str(load) for load in row] for row in rows]
    if result.shares is not None:
        claim["shares"] = [exact_text(share) for share in result.shares]
    if result.value_evidence is not None:
        claim["value_evidence"] = evidence(result.value_evidence)
    return claim
