r"""A bound over steps from which experts share a rank: a semidefinite relaxation in exact numbers.

Let ``v[e, g]`` be the part of expert e's tokens that rank g serves, the same at every step (so for
``even`` and ``fixed`` dispatch), and ``X = V V^T`` [E, E]; it is 1 for two single experts on one
rank. For every placement

- ``m_t >= sum over f of X[e, f] w[t, f]`` for each expert e: the right side is the mean of the
  loads of the ranks g that hold e, weighted by ``v[e, g]``;
- ``X - J / G`` is positive semidefinite, J all ones, since each row of V sums to 1;
- ``0 <= X[e, f] <= 1``, and ``X[e, e] >= 1 / min(c_e, r)``, since c_e numbers that sum to 1 have
  squares of at least 1 / c_e, and no expert is on more than r ranks (of a node).

So for weights ``q`` of the steps that the objective admits, bounds ``b_t <= m_t``, prices ``p[t, e]
>= 0`` with ``sum over e of p[t, e] <= q_t``, and any matrix F, with ``A = sum over t of p[t, e]
w[t, f] + its transpose`` and ``R = A - F F^T``:

    2 * cost >= 2 * sum of (q_t - sum over e of p[t, e]) b_t  +  1^T F F^T 1 / G
                + min over counts of sum over e of max(0, R[e, e]) / min(c_e, r)
                + sum over e of min(0, R[e, e])  +  sum over e != f of min(0, R[e, f]).

All of it is evaluated in integers; floats (:mod:`eplb_opt.bounds.saddle_point`) only choose q, p
and F. The idea: at a step where an expert has more tokens than usual its rank has, too, and no
companions make up for it at every step.

The relaxation of X is that of graph partitioning: W. Donath, A. Hoffman, IBM J. of Research and
Development 17 (1973) 420; S. Karisch, F. Rendl, Fields Institute Communications 18 (1998) 77.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.bounds.closed_form import Bound
from eplb_opt.bounds.saddle_point import Floats, saddle_points
from eplb_opt.problem.evidence import SameRank
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Objective
from eplb_opt.problem.rationals import Integers
from eplb_opt.problem.topology import Rule

PRICE_BITS = 26
"""Of a step's weight."""
LARGEST_LOAD = 2**900
"""Beyond, no float is near."""


def same_rank_bound(
    layer: Layer, objective: Objective, floors: Sequence[Fraction], effort: float = 1.0
) -> Bound | None:
    """The bound for ``even`` and ``fixed`` dispatch, for several steps; None if nothing was found
    that is above 0.

    Args:
        layer: the problem.
        objective: over its steps, not ``sum``.
        floors: [T] proven bounds of each step in tokens.
        effort: of the search for prices, 1 for about a second.
    """
    in_units = [floor / layer.unit for floor in floors]
    if layer.topology.num_ranks == 1 or max(in_units, default=Fraction(0)) > LARGEST_LOAD:
        return None
    best: Bound | None = None
    for found in saddle_points(layer, objective, in_units, effort):
        evidence = _rounded(objective, floors, found)
        value = same_rank_value(layer, evidence)
        if value > 0 and (best is None or value > best.value):
            best = Bound(value, "same-rank", evidence)
    return best


def same_rank_value(layer: Layer, evidence: SameRank) -> Fraction:
    """What the formula proves, in tokens."""
    scale = sum(evidence.steps)
    slack = Fraction(0)
    priced = _priced_loads(layer, evidence)
    for weight, prices, floor in zip(evidence.steps, evidence.prices, evidence.floors, strict=True):
        slack += (weight - sum(price for _, price in prices)) * floor
    factors = _exact_matrix(evidence.factors)
    left = priced + priced.T - factors @ factors.T
    diagonal = [int(left[e, e]) for e in range(len(left))]
    spread = sum(int(column) ** 2 for column in factors.sum(axis=0))
    twice = sum(map(int, left[left < 0])) + Fraction(spread, layer.topology.num_ranks)
    twice += _least_sum([max(0, d) for d in diagonal], layer)
    return (2 * slack + twice * layer.unit) / (2 * scale)


def most_ranks(layer: Layer) -> int:
    """On which one expert can be."""
    topology = layer.topology
    hierarchical = layer.rule == Rule.HIERARCHICAL
    return topology.ranks_per_node if hierarchical else topology.num_ranks


def _least_sum(weights: Sequence[int], layer: Layer) -> Fraction:
    """Min over counts of ``sum of weights[e] / min(c_e, r)``: the terms are convex in the counts,
    so each further replica goes where it takes most off.
    """
    most, total = most_ranks(layer), Fraction(sum(weights))
    heap = [(Fraction(-weight, 2), 1, weight) for weight in weights if weight and most > 1]
    heapq.heapify(heap)
    for _ in range(layer.num_redundant_experts):
        if not heap:
            break
        less, count, weight = heap[0]
        total += less
        if count + 1 < most:
            following = Fraction(-weight, (count + 1) * (count + 2))
            heapq.heapreplace(heap, (following, count + 1, weight))
        else:
            heapq.heappop(heap)
    return total


def _priced_loads(layer: Layer, evidence: SameRank) -> Integers:
    """[E, E] ``sum over t of p[t, e] w[t, f]``."""
    experts = layer.num_logical_experts
    most = max(int(layer.steps.max(initial=0)), 1) * sum(evidence.steps)
    kind: Any = np.int64 if most < 2**60 else object
    found: Any = np.zeros((experts, experts), dtype=kind)
    for step, prices in zip(layer.steps.astype(kind), evidence.prices, strict=True):
        for expert, price in prices:
            found[expert] += price * step
    return np.asarray(found)


def _exact_matrix(rows: Sequence[Sequence[int]]) -> NDArray[Any]:
    """[E, r] whose product with its transpose is exact."""
    largest = max((abs(value) for row in rows for value in row), default=0)
    width = max((len(row) for row in rows), default=0)
    kind: Any = np.int64 if largest**2 * max(width, len(rows)) < 2**60 else object
    return np.array(rows, dtype=kind).reshape(len(rows), width)


def _rounded(objective: Objective, floors: Sequence[Fraction], found: Floats) -> SameRank:
    """Integers near what floats found, within the limits that the bound asks for."""
    weights = _rounded_weights(objective, found.prices.sum(axis=1) + found.slack)
    scale = sum(weights)
    prices = []
    for weight, row in zip(weights, found.prices * float(scale), strict=True):
        pairs = [(int(e), int(row[e])) for e in np.flatnonzero(row >= 1)]
        over = sum(price for _, price in pairs) - weight
        if over > 0:  # by rounding
            pairs = [(e, price * weight // (weight + over)) for e, price in pairs]
        prices.append(tuple(pairs))
    factors = found.factors * float(scale) ** 0.5
    rows = tuple(tuple(int(value) for value in row) for row in np.rint(factors).tolist())
    return SameRank(tuple(weights), tuple(prices), tuple(floors), rows)


def _rounded_weights(objective: Objective, wished: NDArray[np.float64]) -> list[int]:
    """Weights of the steps near ``wished`` that the objective admits: none is above the ``1 / (a
    T)`` part of their sum.
    """
    steps = len(wished)
    counted, parts = (objective.share * steps).as_integer_ratio()
    if objective.name == "worst" or counted < parts:
        counted = parts = 1
    unit = 1 << PRICE_BITS
    most, left = parts * unit, counted * unit
    found = [0] * steps
    total = float(wished.sum())
    shares = wished / total * left if total > 0 else wished
    for t in np.argsort(-wished).tolist():
        found[t] = min(most, left, int(shares[t]) + 1)
        left -= found[t]
    for t in np.argsort(-wished).tolist():
        more = min(most - found[t], left)
        found[t], left = found[t] + more, left - more
    return found
