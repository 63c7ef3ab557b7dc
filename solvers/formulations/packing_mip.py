"""Packing as a mixed-integer program.

The model is that of :mod:`solvers.formulations.packing_cp_sat`, in matrix form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from eplb_opt.bounds import packing_bound
from eplb_opt.problem.instance import Layer
from eplb_opt.problem.result import Result
from solvers.bracket import Known
from solvers.engines import mip
from solvers.formulations.replica_classes import ReplicaClass, dealt_slots, replica_classes
from solvers.local_search.greedy import largest_first
from solvers.options import Clock, Options
from solvers.scaling import scale_for


def solve_packing(layer: Layer, counts: Sequence[int], options: Options, *, backend: str) -> Result:
    """Best packing for ``counts`` [E] under the global rule; bounds in the solver's floats."""
    clock = Clock(options)
    known = Known.start(layer, packing_bound(layer, counts), [largest_first(layer, counts)])
    if known.value > known.bound:
        scale = scale_for(layer, counts, largest_sum=mip.LARGEST_SUM)
        classes = replica_classes(layer, counts, scale)
        program, x = _program(layer, classes, scale.up(known.value))
        outcome = mip.run(program, backend, clock.remaining())
        found = () if outcome.values is None else dealt_slots(classes, outcome.values[x].T)
        complete = [found.count(e) for e in range(len(counts))] == list(counts)
        known = mip.improved(known, outcome, found if complete else None, scale, backend)
    return known.result("packing", backend, clock)


def _program(
    layer: Layer, classes: Sequence[ReplicaClass], highest: int
) -> tuple[mip.Program, list[list[int]]]:
    """The program, and the indices of x[i][g]."""
    ranks, size = range(layer.topology.num_ranks), layer.topology.slots_per_rank
    most = 1 if layer.spread_replicas else size
    program = mip.Program()
    program.objective = program.variable(0, highest)
    x = [[program.variable(0, min(most, len(c.experts))) for _ in ranks] for c in classes]
    for i, c in enumerate(classes):
        program.add([(x[i][g], 1) for g in ranks], len(c.experts), len(c.experts))
    for g in ranks:
        program.add([(row[g], 1) for row in x], size, size)
        load = [(row[g], c.load) for row, c in zip(x, classes, strict=True) if c.load]
        program.add([(program.objective, 1), *((j, -a) for j, a in load)], 0, math.inf)
    return program, x


solve_packing_scipy = partial(solve_packing, backend="scipy")
solve_packing_cbc = partial(solve_packing, backend="cbc")
solve_packing_highs = partial(solve_packing, backend="highs")
solve_packing_scip = partial(solve_packing, backend="scip")
