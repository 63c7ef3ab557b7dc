"""Proven lower bounds on what a placement costs, by argument alone: no search, no solver."""

from collections.abc import Sequence

from eplb_opt.bounds.closed_form import Bound
from eplb_opt.bounds.steps import constant_bound, wait_and_see
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import SUM, Cost, Dispatch, Objective

__all__ = ["Bound", "of", "wait_and_see"]


def of(
    layer: Layer,
    objective: Objective | str = SUM,
    dispatch: Dispatch | str = Dispatch.EVEN,
    *,
    counts: Sequence[int] | None = None,
) -> Bound:
    """The best bound in tokens that an argument proves for every constant placement under the
    layer's rule.

    Guarantee: valid, exact arithmetic throughout. 0 for a layer without load. The source names the
    argument: of a sum ``no-load``, ``mean``, ``threshold``, ``heaviest-with-lightest``,
    ``pigeonhole``, one of these behind ``groups:`` when it bounds the worst node of the best
    partition of groups, or ``homes`` under the rule ``home``; over steps ``wait-and-see``,
    ``one-partition``, ``same-rank``, or behind ``sum:`` that of the summed loads.

    Args:
        layer: the problem.
        objective: over its steps.
        dispatch: how replicas share tokens.
        counts: [E], for the placements with these counts alone, under the global rule and ``even``
            dispatch.

    Raises:
        ValueError: counts with another dispatch, or an unknown objective or dispatch.
    """
    cost = Cost.of(objective, dispatch).on(layer)
    if counts is not None and cost.dispatch != Dispatch.EVEN:
        raise ValueError(f"dispatch={str(cost.dispatch)!r} with counts: use 'even'")
    return constant_bound(layer, cost, counts)
