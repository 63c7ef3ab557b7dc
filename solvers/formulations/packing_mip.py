"""Packing as a mixed-integer program.

The model is that of :mod:`solvers.formulations.packing_cp_sat`, in matrix form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from eplb_opt import bounds
from eplb_opt.problem.layer import Layer
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.engines import mip
from solvers.engines.outcome import with_outcome
from solvers.formulations.replica_classes import ReplicaClass, deal_replicas, replica_classes
from solvers.local_search.start import largest_first
from solvers.options import Budget, OutOfBudgetError
from solvers.scaling import scale_for


def solve_packing(layer: Layer, counts: Sequence[int], budget: Budget, *, backend: str) -> Bracket:
    """Best packing for ``counts`` [E] under the global rule; bounds in the solver's floats."""
    start = value(layer, largest_first(layer, counts))
    known = Bracket.start(bounds.of(layer, counts=counts), [start])
    if known.closed:
        return known
    scale = scale_for(layer, counts, largest_sum=mip.LARGEST_SUM)
    classes = replica_classes(layer, counts, scale)
    try:
        program, x = _program(layer, classes, scale.up(known.incumbent), budget)
    except OutOfBudgetError:
        return replace(known, limit=budget.limit)
    outcome = mip.run(program, backend, budget)
    phy2log: tuple[int, ...] = ()
    if outcome.value is not None:
        by_rank = zip(*x, strict=True)
        phy2log = deal_replicas(classes, [[outcome.value(j) for j in rank] for rank in by_rank])
    complete = [phy2log.count(e) for e in range(len(counts))] == list(counts)
    found = value(layer, phy2log) if complete else None
    return with_outcome(known, outcome, found, scale.unit, backend, in_floats=True)


def _program(
    layer: Layer, classes: Sequence[ReplicaClass], highest: int, budget: Budget
) -> tuple[mip.Program, list[list[int]]]:
    """The program, and the indices of x[i][g]."""
    ranks, slots_per_rank = range(layer.topology.num_ranks), layer.topology.slots_per_rank
    most = 1 if layer.spread_replicas else slots_per_rank
    program = mip.Program()
    program.objective = program.variable(0, highest)
    x = [[program.variable(0, min(most, len(c.experts))) for _ in ranks] for c in classes]
    for i, c in enumerate(classes):
        budget.spend(len(ranks))
        program.add([(x[i][g], 1) for g in ranks], len(c.experts), len(c.experts))
    for g in ranks:
        budget.spend(2 * len(classes))
        program.add([(row[g], 1) for row in x], slots_per_rank, slots_per_rank)
        load = [(row[g], c.load) for row, c in zip(x, classes, strict=True) if c.load]
        program.add([(program.objective, 1), *((j, -a) for j, a in load)], 0, math.inf)
    return program, x
