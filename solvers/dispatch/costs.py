"""What a placement costs under an objective and a dispatch rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.evidence import Cuts, ValueEvidence
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, SUM, Cost, Dispatch, Objective, rank_loads
from solvers.bracket import Bracket
from solvers.dispatch.classes import Classes, classes_of, holders
from solvers.dispatch.even import even_makespans
from solvers.dispatch.fixed import cut_prices, fixed_value
from solvers.dispatch.optimal import optimal_makespans
from solvers.dispatch.program import SharesProgram
from solvers.dispatch.shares import best_shares, check_slots


def value(
    layer: Layer,
    phy2log: Sequence[int],
    objective: Objective | str = SUM,
    dispatch: Dispatch | str = Dispatch.EVEN,
) -> Bracket:
    """What the placement ``phy2log`` [P] costs, in tokens.

    Exact. Under ``even`` and ``optimal``, and under ``fixed`` with the objective ``sum``, value and
    bound are equal. Under ``fixed`` the value is what the placement costs with the shares of the
    result, and the bound holds for all shares: they are equal where the linear program's optimum is
    found exactly.

    Args:
        layer: the problem.
        phy2log: every expert with load has a slot.
        objective: over the steps of the layer.
        dispatch: how replicas share the tokens of a step.

    Raises:
        ValueError: (``fixed``, ``optimal``) not P slots, or none for a load.
    """
    cost = Cost.of(objective, dispatch).on(layer)
    if cost.dispatch == Dispatch.FIXED:
        return _fixed(layer, phy2log, cost)
    total = cost.objective.over(_makespans(layer, phy2log, cost))
    return Bracket(tuple(phy2log), total, total, str(cost.dispatch))


def value_evidence(layer: Layer, phy2log: Sequence[int], cost: Cost) -> ValueEvidence | None:
    """What proves the bound of :func:`value`: None under ``even``, where it is a sum."""
    cost = cost.on(layer)
    if cost.dispatch == Dispatch.EVEN:
        return None
    if cost.dispatch == Dispatch.FIXED:
        program = _shares_program(layer, phy2log, cost)
        one = len(program.loads) == 1  # then the cuts' prices are the best
        prices = cut_prices(program) if one else fixed_value(program).prices
        return replace(prices, bound=prices.bound * layer.unit)
    makespans = optimal_makespans(_classes(layer, phy2log, cost))
    loads, critical = makespans.loads.tolist(), makespans.critical
    ranks = (tuple(row.nonzero()[0].tolist()) for row in critical)
    return Cuts(tuple(cut if load else () for cut, load in zip(ranks, loads, strict=True)))


def _makespans(layer: Layer, phy2log: Sequence[int], cost: Cost) -> list[Fraction]:
    """[T] of the steps that count, in tokens, under ``even`` or ``optimal``."""
    if cost == EVEN_SUM:
        return [max(rank_loads(layer, phy2log))]
    if cost.dispatch == Dispatch.EVEN:
        loads = cost.objective.loads_of(layer)
        found = even_makespans(loads, phy2log, layer.topology.num_ranks)
    else:
        found = optimal_makespans(_classes(layer, phy2log, cost)).values
    return [makespan * layer.unit for makespan in found]


def _classes(layer: Layer, phy2log: Sequence[int], cost: Cost) -> Classes:
    return classes_of(cost.objective.loads_of(layer), _holders(layer, phy2log))


def _holders(layer: Layer, phy2log: Sequence[int]) -> NDArray[np.bool_]:
    check_slots(layer, phy2log)
    return holders(phy2log, len(layer.loads), layer.topology.num_ranks)


def _shares_program(layer: Layer, phy2log: Sequence[int], cost: Cost) -> SharesProgram:
    return SharesProgram(cost.objective.loads_of(layer), _holders(layer, phy2log), cost.objective)


def _fixed(layer: Layer, phy2log: Sequence[int], cost: Cost) -> Bracket:
    """The slots of an expert on one rank share alike, and so do all of one without load.

    Where the linear program is not solved exactly, an even split may cost less than what is found.
    """
    program = _shares_program(layer, phy2log, cost)
    copies, S = Counter(phy2log), layer.topology.slots_per_rank
    on_rank = Counter((e, p // S) for p, e in enumerate(phy2log))
    if len(program.loads) == 1:
        found = best_shares(layer, phy2log)
        value = bound = found.makespan
        parts = {
            (e, g): tokens / (layer.loads[e] * layer.unit)
            for e, row in enumerate(found.tokens)
            for g, tokens in row.items()
        }
    else:
        known = fixed_value(program)
        even = [Fraction(on_rank[pair], copies[pair[0]]) for pair in program.pairs]
        known = known if known.closed else known.with_shares(program, even)
        value, bound = known.value * layer.unit, known.prices.bound * layer.unit
        parts = dict(zip(program.pairs, known.shares, strict=True))
    choice = {e for e, _ in parts}
    shares = tuple(
        parts.get((e, p // S), Fraction(0)) / on_rank[e, p // S]
        if e in choice
        else Fraction(1, copies[e])
        for p, e in enumerate(phy2log)
    )
    return Bracket(tuple(phy2log), value, bound, str(cost.dispatch), shares=shares)
