"""What a placement costs under an objective and a dispatch rule."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from eplb_opt.problem.evidence import Cuts, ValueEvidence
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, SUM, Cost, Dispatch, Objective, rank_loads
from solvers.bracket import Bracket
from solvers.dispatch.classes import classes_of, holders
from solvers.dispatch.even import even_makespans
from solvers.dispatch.optimal import Makespans, optimal_makespans
from solvers.dispatch.shares import check_slots


def value(
    layer: Layer,
    phy2log: Sequence[int],
    objective: Objective | str = SUM,
    dispatch: Dispatch | str = Dispatch.EVEN,
) -> Bracket:
    """What the placement ``phy2log`` [P] costs, in tokens.

    Under ``even`` and ``optimal`` it is exact, so value and bound are equal.

    Args:
        layer: the problem.
        phy2log: every expert with load has a slot.
        objective: over the steps of the layer.
        dispatch: ``fixed`` for the objective ``sum`` only, where it is ``optimal``.

    Raises:
        ValueError: ``fixed`` with another objective, or (``optimal``) no slot for a load.
    """
    cost = Cost.of(objective, dispatch).on(layer)
    if cost.dispatch == Dispatch.FIXED and cost.objective != SUM:
        raise ValueError(f"dispatch='fixed' with objective={str(objective)!r}: use 'sum'")
    total = cost.objective.over(_makespans(layer, phy2log, cost))
    return Bracket(tuple(phy2log), total, total, str(cost.dispatch))


def _makespans(layer: Layer, phy2log: Sequence[int], cost: Cost) -> list[Fraction]:
    """[T] of the steps that count, in tokens."""
    if cost == EVEN_SUM:
        return [max(rank_loads(layer, phy2log))]
    if cost.dispatch == Dispatch.EVEN:
        loads = cost.objective.loads_of(layer)
        found = even_makespans(loads, phy2log, layer.topology.num_ranks)
    else:
        found = _optimal(layer, phy2log, cost).values
    return [makespan * layer.unit for makespan in found]


def _optimal(layer: Layer, phy2log: Sequence[int], cost: Cost) -> Makespans:
    check_slots(layer, phy2log)
    held = holders(phy2log, len(layer.loads), layer.topology.num_ranks)
    return optimal_makespans(classes_of(cost.objective.loads_of(layer), held))


def value_evidence(layer: Layer, phy2log: Sequence[int], cost: Cost) -> ValueEvidence | None:
    """What proves the bound of :func:`value`: None under ``even``, where it is a sum."""
    cost = cost.on(layer)
    if cost.dispatch == Dispatch.EVEN:
        return None
    found = _optimal(layer, phy2log, cost)
    loads, critical = found.loads.tolist(), found.critical
    ranks = (tuple(row.nonzero()[0].tolist()) for row in critical)
    return Cuts(tuple(cut if load else () for cut, load in zip(ranks, loads, strict=True)))
