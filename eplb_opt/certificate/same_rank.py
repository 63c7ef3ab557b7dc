"""Check the bound from which experts share a rank: a second implementation of the formula that
:mod:`eplb_opt.bounds.same_rank` explains, on a budget.
"""

from __future__ import annotations

import heapq
from fractions import Fraction
from typing import Any

import numpy as np

from eplb_opt.certificate.budget import CheckBudget
from eplb_opt.certificate.statement import CertificateError
from eplb_opt.problem.evidence import SameRank
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import SUM, Cost, Dispatch
from eplb_opt.problem.topology import Rule


def same_rank_proves(layer: Layer, cost: Cost, found: SameRank, budget: CheckBudget) -> Fraction:
    """The bound in tokens that weights, prices and factors prove, given the floors of the steps.

    Raises:
        CertificateError: they are not what the formula asks for.
        TooLargeToCheckError: the budget does not suffice.
    """
    steps, experts = layer.steps.shape
    if cost.dispatch == Dispatch.OPTIMAL or cost.objective == SUM:
        raise CertificateError(f"evidence of kind 'same-rank' proves nothing for {cost}")
    if not len(found.steps) == len(found.prices) == len(found.floors) == steps:
        raise CertificateError(f"weights, prices and floors are not those of {steps} steps")
    width = len(found.factors[0]) if found.factors else 0
    if len(found.factors) != experts or any(len(row) != width for row in found.factors):
        raise CertificateError(f"factors are not {experts} rows of one length")
    budget.charge(5 * steps + sum(map(len, found.prices)) + experts * width // 8)
    total = sum(found.steps)
    if total <= 0 or not cost.objective.admits([Fraction(q, total) for q in found.steps]):
        raise CertificateError(f"the weights of the steps are not admitted by {cost}")
    slack = Fraction(0)
    for weight, prices, floor in zip(found.steps, found.prices, found.floors, strict=True):
        spent = sum(price for _, price in prices)
        if spent > weight or any(price < 0 or not 0 <= e < experts for e, price in prices):
            raise CertificateError("prices of a step are negative, or above its weight")
        slack += (weight - spent) * floor
    rest = _rest(layer, found, budget)
    doubled = 2 * slack + layer.unit * _least(layer, rest, budget)
    spread = sum(sum(column) ** 2 for column in zip(*found.factors, strict=True))
    return (doubled + layer.unit * Fraction(spread, layer.topology.num_ranks)) / (2 * total)


def steps_with_floors(found: SameRank) -> list[int]:
    """Those whose floor counts: not all of their weight is spent on prices."""
    priced = zip(found.steps, found.prices, found.floors, strict=True)
    return [
        t for t, (weight, prices, floor) in enumerate(priced)
        if floor > 0 and weight > sum(price for _, price in prices)
    ]  # fmt: skip


def _rest(layer: Layer, found: SameRank, budget: CheckBudget) -> list[list[int]]:
    """R [E, E]."""
    experts, width = layer.steps.shape[1], len(found.factors[0])
    largest = max((abs(value) for row in found.factors for value in row), default=0)
    most = max(2 * sum(found.steps) * int(layer.steps.max(initial=1)), largest**2 * max(1, width))
    bits = most.bit_length()
    work = experts * sum(map(len, found.prices)) + experts**2 * width + 4 * experts**2
    budget.charge(work // 8 if bits < 61 else work * (1 + bits // 4096))
    kind: Any = np.int64 if bits < 61 else object
    rest: Any = np.zeros((experts, experts), dtype=kind)
    for step, prices in zip(layer.steps.astype(kind), found.prices, strict=True):
        for expert, price in prices:
            rest[expert, :] += step * price
            rest[:, expert] += step * price
    for column in zip(*found.factors, strict=True):
        factor = np.array(column, dtype=kind)
        rest -= np.multiply.outer(factor, factor)
    rows: list[list[int]] = rest.tolist()
    return rows


def _least(layer: Layer, rest: list[list[int]], budget: CheckBudget) -> Fraction:
    """The least sum of ``R[e, f] X[e, f]``, apart from what the factors prove.

    The diagonal at the best counts: of all that further replicas save, ``d / c - d / (c + 1)``
    each, the P - E largest (they fall with c, so the largest are the first of each expert).
    """
    topology, spare = layer.topology, layer.num_redundant_experts
    hierarchical = layer.rule == Rule.HIERARCHICAL
    most = topology.ranks_per_node if hierarchical else topology.num_ranks
    diagonal = [row[e] for e, row in enumerate(rest)]
    counts = range(1, min(most, spare + 1))
    budget.charge(10 * len(rest) * (1 + len(counts)))
    saved = (Fraction(d, c * (c + 1)) for d in diagonal if d > 0 for c in counts)
    total = Fraction(sum(diagonal))
    total -= sum(heapq.nlargest(spare, saved), Fraction(0))
    return total + sum(
        value for e, row in enumerate(rest) for f, value in enumerate(row) if value < 0 and e != f
    )
