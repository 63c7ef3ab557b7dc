"""How many replicas each expert gets, before anything is packed: minimize the heaviest replica."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from eplb_opt.bounds.closed_form import threshold_counts
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import Result, Stage


def solve_counts(
    layer: Layer, least: Sequence[int] | None = None, most: Sequence[int] | None = None
) -> Result:
    """Counts [E] within the limits that minimize ``max w_e / c_e`` under the global rule.

    Always optimal, and polynomial: the greedy rule is exact, even for the whole sorted vector of
    replica loads. The proof and the limits: :func:`eplb_opt.bounds.closed_form.threshold_counts`.
    """
    counts = threshold_counts(layer, least, most)
    heaviest = max(Fraction(w, c) for w, c in zip(layer.loads, counts, strict=True)) * layer.unit
    return Result(
        Stage.COUNTS,
        "greedy",
        heaviest,
        heaviest,
        counts=counts,
        bound_source="exchange argument",
    )
