"""What a placement costs under an objective and a dispatch rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem import homes
from eplb_opt.problem.evidence import Cuts, LimitedCuts, Prices, ValueEvidence
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, SUM, Cost, Dispatch, Objective, rank_loads
from eplb_opt.problem.topology import Rule
from solvers.bracket import Bracket
from solvers.dispatch.classes import Classes, classes_of, holders
from solvers.dispatch.even import even_makespans
from solvers.dispatch.fixed import cut_prices, fixed_value
from solvers.dispatch.limited import (
    Sharing,
    best_shares,
    is_limited,
    limited_makespans,
    sharing_of,
)
from solvers.dispatch.optimal import optimal_makespans
from solvers.dispatch.program import SharesProgram
from solvers.dispatch.shares import check_slots


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
    found exactly. Shares under ``optimal`` and ``fixed`` meet a limit of traffic; under ``even`` it
    is for the caller to look at (:func:`eplb_opt.problem.validity.over_limit`).

    Args:
        layer: the problem.
        phy2log: every expert with load has a slot.
        objective: over the steps of the layer.
        dispatch: how replicas share the tokens of a step.

    Raises:
        ValueError: (``fixed``, ``optimal``) not P slots, or none for a load, or no homes under a
            limit of traffic.
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
        one = len(program.loads) == 1  # then the prices of optimal dispatch are the best
        prices = _prices_of_step(program) if one else fixed_value(program).prices
        return replace(prices, bound=prices.bound * layer.unit)
    if is_limited(layer):
        found = limited_makespans(*_limited(layer, phy2log, cost))
        return LimitedCuts(tuple(found.prices), tuple(found.traffic_prices))
    makespans = optimal_makespans(_classes(layer, phy2log, cost))
    loads, critical = makespans.loads.tolist(), makespans.critical
    ranks = (tuple(row.nonzero()[0].tolist()) for row in critical)
    return Cuts(tuple(cut if load else () for cut, load in zip(ranks, loads, strict=True)))


def traffic(layer: Layer, phy2log: Sequence[int], cost: Cost = EVEN_SUM) -> Fraction:
    """The part of the layer's tokens, of all steps together, that is served off home; exact.

    Under ``even`` dispatch that of the placement; under ``fixed`` that of the shares of
    :func:`value`; under ``optimal`` the least of all shares with which each step has its least
    makespan under the layer's limit. 0 for a layer without load.

    Args:
        layer: under any rule; under other rules than ``home`` experts need not be at home.
        phy2log: [P] the expert in each slot; every expert has one.
        cost: objective and dispatch.

    Raises:
        ValueError: not P slots, or under the rule ``home`` no homes.
    """
    cost, present = cost.on(layer), layer.rule == Rule.HOME
    loads = cost.objective.loads_of(layer)
    sharing = sharing_of(layer, phy2log, loads, present=present)
    if cost.dispatch == Dispatch.OPTIMAL:
        total = sum(layer.loads)
        limit = layer.traffic_limit if present else Fraction(1)
        return sum(limited_makespans(sharing, limit).away, Fraction(0)) / (total or 1)
    shares = value(layer, phy2log, *cost).shares  # None under even dispatch
    return homes.traffic(layer, phy2log, shares, present=present) or Fraction(0)


def _makespans(layer: Layer, phy2log: Sequence[int], cost: Cost) -> list[Fraction]:
    """[T] of the steps that count, in tokens, under ``even`` or ``optimal``."""
    if cost == EVEN_SUM:
        return [max(rank_loads(layer, phy2log))]
    if cost.dispatch == Dispatch.EVEN:
        loads = cost.objective.loads_of(layer)
        found = even_makespans(loads, phy2log, layer.topology.num_ranks)
    elif is_limited(layer):
        found = limited_makespans(*_limited(layer, phy2log, cost)).values
    else:
        found = optimal_makespans(_classes(layer, phy2log, cost)).values
    return [makespan * layer.unit for makespan in found]


def _limited(layer: Layer, phy2log: Sequence[int], cost: Cost) -> tuple[Sharing, Fraction]:
    return sharing_of(layer, phy2log, cost.objective.loads_of(layer)), layer.traffic_limit


def _classes(layer: Layer, phy2log: Sequence[int], cost: Cost) -> Classes:
    return classes_of(cost.objective.loads_of(layer), _holders(layer, phy2log))


def _holders(layer: Layer, phy2log: Sequence[int]) -> NDArray[np.bool_]:
    check_slots(layer, phy2log)
    return holders(phy2log, len(layer.loads), layer.topology.num_ranks)


def _shares_program(layer: Layer, phy2log: Sequence[int], cost: Cost) -> SharesProgram:
    loads = cost.objective.loads_of(layer)
    if is_limited(layer):
        ranks = sharing_of(layer, phy2log, loads)
        limit = layer.traffic_limit
        return SharesProgram(loads, ranks.held, cost.objective, ranks.off_home, limit)
    return SharesProgram(loads, _holders(layer, phy2log), cost.objective)


def _prices_of_step(program: SharesProgram) -> Prices:
    """Those that prove the cost of the only step."""
    if program.off_home is None:
        return cut_prices(program)
    sharing = Sharing(program.loads, program.held, program.off_home)
    found = limited_makespans(sharing, program.limit)
    (prices,), (of_traffic,) = found.prices, found.traffic_prices
    return program.prices(np.array([prices], dtype=object), sum(prices), of_traffic)


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
