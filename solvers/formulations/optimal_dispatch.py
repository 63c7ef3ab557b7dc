r"""Placement and token shares together, in CP-SAT, for small layers.

    minimize    T
    subject to  sum_r f[e,r] = w_e               every token is served
                f[e,r] <= w_e x[e,r]             by a rank that holds its expert
                sum_e x[e,r] <= S                (= S with ``spread_replicas``)
                sum_e f[e,r] <= T                rank loads
                sum_r x[e,r] >= 1                every expert has a slot

A second copy of an expert on a rank changes no share, so x[e,r] is 0 or 1, and slots that are left
are filled with repetitions. The best makespan is a ratio with a denominator of at most G (see
:mod:`solvers.dispatch`), so in units of 1 / lcm(1..G) all is integer.

Reference: Chung, Graham, Mao, Varghese, TOCS 39 (2006) 829 (splittable items with cardinality
limits).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from ortools.sat.python import cp_model

from eplb_opt import bounds
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import SUM, Dispatch
from eplb_opt.problem.topology import Rule
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.engines import cp_sat
from solvers.engines.outcome import with_outcome
from solvers.model_size import require_size
from solvers.options import Budget, OutOfBudgetError

LARGEST_INTEGER = 2**50


def solve_joint(layer: Layer, budget: Budget, initial: Sequence[int] | None = None) -> Bracket:
    """Best placement under optimal dispatch of the summed loads, under the global rule.

    Exact, resting on CP-SAT's word where the optimum is above the closed form; the value is that of
    :func:`solvers.dispatch.best_shares`. ``initial`` [P] is a placement to start from.

    Raises:
        ValueError: the rule is not global, or the integers would be too large.
    """
    scale = math.lcm(*range(1, layer.topology.num_ranks + 1))
    if layer.rule != Rule.GLOBAL:
        raise ValueError(f"rule={layer.rule}: dispatch='optimal' is solved under the global rule")
    if sum(layer.loads) * scale >= LARGEST_INTEGER:
        raise ValueError(
            f"total load {sum(layer.loads)} times lcm(1..num_ranks)={scale} exceeds "
            f"{LARGEST_INTEGER}: round the loads or use fewer ranks"
        )
    starts = [] if initial is None else [_value(layer, initial)]
    known = Bracket.start(bounds.of(layer, SUM, Dispatch.OPTIMAL), starts)
    if known.closed:
        return known
    cells = len(layer.loads) * layer.topology.num_ranks
    require_size("cp-sat", 2 * cells, 7 * cells)
    try:
        model, held = _model(layer, scale, known.bound / layer.unit, budget)
    except OutOfBudgetError:
        return replace(known, limit=budget.limit)
    outcome = cp_sat.run(model, budget)
    found = None
    if outcome.value is not None:
        read = outcome.value
        chosen = [[e for e, x in enumerate(rank) if read(x)] for rank in held]
        found = _value(layer, _fill_up(layer, chosen))
    return with_outcome(known, outcome, found, layer.unit / scale, "cp-sat")


def _value(layer: Layer, phy2log: Sequence[int]) -> Bracket:
    return value(layer, phy2log, SUM, Dispatch.OPTIMAL)


def _model(
    layer: Layer, scale: int, bound: Fraction, budget: Budget
) -> tuple[cp_model.CpModel, list[list[cp_model.IntVar]]]:
    """The model in units of 1 / scale; returns held[r][e] as well."""
    G, S = layer.topology.num_ranks, layer.topology.slots_per_rank
    experts, total = range(len(layer.loads)), sum(layer.loads) * scale
    model = cp_model.CpModel()
    makespan = model.new_int_var(math.ceil(bound * scale), total, "")
    held = [[model.new_bool_var("") for _ in experts] for _ in range(G)]
    sent = [[model.new_int_var(0, w * scale, "") for w in layer.loads] for _ in range(G)]
    for e, load in enumerate(layer.loads):
        budget.spend(5 * G)
        model.add_bool_or(row[e] for row in held)
        model.add(sum(row[e] for row in sent) == load * scale)
        for r in range(G):
            model.add(sent[r][e] <= load * scale * held[r][e])
    for r in range(G):
        budget.spend(2 * len(experts))
        model.add(sum(held[r]) == S if layer.spread_replicas else sum(held[r]) <= S)
        model.add(sum(sent[r]) <= makespan)
    # ranks are alike: let the heaviest expert be on the first one
    model.add(held[0][max(experts, key=layer.loads.__getitem__)] == 1)
    model.minimize(makespan)
    return model, held


def _fill_up(layer: Layer, chosen: list[list[int]]) -> tuple[int, ...]:
    """Slots of each rank, the free ones filled with a repetition, which changes no split."""
    S = layer.topology.slots_per_rank
    return tuple(e for held in chosen for e in (held + (held or [0])[:1] * S)[:S])
