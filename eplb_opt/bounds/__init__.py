"""Proven lower bounds on what a placement costs, by argument alone: no search, no solver."""

from collections.abc import Sequence
from fractions import Fraction

from eplb_opt.bounds.closed_form import Bound, dispatch_bound, packing_bound, placement_bound
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import SUM, Cost, Dispatch, Objective

__all__ = ["Bound", "of"]

BOUNDS = {
    Dispatch.EVEN: placement_bound,
    Dispatch.FIXED: dispatch_bound,
    Dispatch.OPTIMAL: dispatch_bound,
}
"""Of the sum, by dispatch rule."""


def of(
    layer: Layer,
    objective: Objective | str = SUM,
    dispatch: Dispatch | str = Dispatch.EVEN,
    *,
    counts: Sequence[int] | None = None,
) -> Bound:
    """The best bound in tokens that an argument proves for every placement under the layer's rule.

    Guarantee: valid, exact arithmetic throughout. 0 for a layer without load. The source names the
    argument: ``no-load``, ``mean``, ``threshold``, ``heaviest-with-lightest``, ``pigeonhole``, or
    one of these behind ``groups:`` when it bounds the worst node of the best partition of groups.

    Args:
        layer: the problem.
        objective: over its steps; ``sum`` so far.
        dispatch: ``even``, or ``optimal``, which for the sum is ``fixed``.
        counts: [E], for the placements with these counts alone, under the global rule.

    Raises:
        ValueError: no argument is known for this objective or dispatch.
    """
    cost = Cost.of(objective, dispatch)
    if cost.objective != SUM or (counts is not None and cost.dispatch != Dispatch.EVEN):
        given = " with counts" if counts is not None else ""
        raise ValueError(f"{cost}{given}: no bound is known, use objective='sum'")
    if not layer.has_load:
        return Bound(Fraction(0), "no-load")
    if counts is not None:
        return packing_bound(layer, counts)
    return BOUNDS[cost.dispatch](layer)
