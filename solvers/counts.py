"""How many replicas each expert gets, before anything is packed: minimize the heaviest replica."""

from __future__ import annotations

from fractions import Fraction

from eplb_opt.bounds import threshold_counts
from eplb_opt.instance import Layer
from eplb_opt.result import Result


def solve_counts(layer: Layer) -> Result:
    """Counts [E] that minimize ``max w_e / c_e`` under the global rule; always optimal.

    Polynomial: the greedy rule is exact, see :func:`eplb_opt.bounds.threshold_counts` for it and
        the proof.
    """
    counts = threshold_counts(layer)
    heaviest = max(Fraction(w, c) for w, c in zip(layer.loads, counts, strict=True)) * layer.unit
    return Result(
        "counts", "greedy", heaviest, heaviest, counts=counts, bound_source="exchange argument"
    )
