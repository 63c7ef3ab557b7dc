r"""Packing in CP-SAT, with identical replicas grouped.

    minimize    T
    subject to  sum_g x[i,g] = n_i               every replica of class i is placed
                sum_i x[i,g] = S                 every rank is full
                sum_i v_i x[i,g] = t[g] <= T     rank loads
                t[g] >= t[g+1]                   ranks are interchangeable

A class holds all replicas of one load v_i, whichever expert they come from: n_i of them. Experts
are handed out to the slots of their class afterwards, in any order. x[i,g] is an integer, not one
variable per replica, so no permutation of identical replicas is searched twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ortools.sat.python import cp_model

from eplb_opt.bounds import packing_bound
from eplb_opt.instance import Layer
from eplb_opt.metrics import exact_makespan
from eplb_opt.result import Result
from solvers import cp_sat
from solvers.greedy import largest_first
from solvers.options import Clock, Options
from solvers.scaling import scale_for


def solve_packing(layer: Layer, counts: Sequence[int], options: Options) -> Result:
    """Best packing for ``counts`` [E] under the global rule, with a proven bound."""
    clock = Clock(options)
    counts = tuple(counts)
    bound, slots = packing_bound(layer, counts), largest_first(layer, counts)
    lower, source, limit = bound.value, bound.source, None
    value = exact_makespan(layer, slots)
    if value > lower:
        scale = scale_for(layer, counts)
        replicas: dict[int, list[int]] = defaultdict(list)
        for e, count in enumerate(counts):
            replicas[scale.replica(layer, e, count)] += [e] * count
        model, x = _model(layer, replicas, scale.up(lower) if scale.exact else 0, scale.down(value))
        outcome = cp_sat.run(model, clock.remaining())
        limit = outcome.limit
        if outcome.value is not None:
            found = _slots(layer, replicas, {key: outcome.value(var) for key, var in x.items()})
            slots = min(slots, found, key=lambda s: exact_makespan(layer, s))
            value = exact_makespan(layer, slots)
        if outcome.bound is not None and outcome.bound * scale.unit > lower:
            lower, source = outcome.bound * scale.unit, "cp-sat"
    return Result(
        "packing",
        "cp-sat",
        lower,
        value,
        slots,
        counts,
        None,
        source,
        limit,
        runtime=clock.elapsed(),
    )


def _model(
    layer: Layer, replicas: dict[int, list[int]], lowest: int, highest: int
) -> tuple[cp_model.CpModel, dict[tuple[int, int], cp_model.IntVar]]:
    """The model for classes ``load -> experts``, with the makespan between ``lowest`` and
    ``highest``.
    """
    ranks, size = range(layer.topology.num_ranks), layer.topology.slots_per_rank
    model = cp_model.CpModel()
    x = {
        (load, g): model.new_int_var(0, min(size, len(experts)), f"x[{load},{g}]")
        for load, experts in replicas.items()
        for g in ranks
    }
    makespan = model.new_int_var(lowest, highest, "T")
    rank_load = [model.new_int_var(0, highest, f"t[{g}]") for g in ranks]
    for load, experts in replicas.items():
        model.add(sum(x[load, g] for g in ranks) == len(experts))
    for g in ranks:
        model.add(sum(x[load, g] for load in replicas) == size)
        model.add(sum(load * x[load, g] for load in replicas) == rank_load[g])
        model.add(rank_load[g] <= makespan)
    for g in ranks[1:]:
        model.add(rank_load[g - 1] >= rank_load[g])
    model.minimize(makespan)
    return model, x


def _slots(
    layer: Layer, replicas: dict[int, list[int]], x: dict[tuple[int, int], int]
) -> tuple[int, ...]:
    left = {load: list(experts) for load, experts in replicas.items()}
    return tuple(
        left[load].pop()
        for g in range(layer.topology.num_ranks)
        for load in replicas
        for _ in range(x[load, g])
    )
