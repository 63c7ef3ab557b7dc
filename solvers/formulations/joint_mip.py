"""Counts and packing as a mixed-integer program.

The model is that of :mod:`solvers.formulations.joint_cp_sat`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from eplb_opt.bounds import Window, global_bound, threshold_counts
from eplb_opt.problem.instance import Layer
from eplb_opt.problem.result import Result
from solvers.bracket import Known
from solvers.engines import mip
from solvers.engines.model_size import require_size
from solvers.formulations.joint_cp_sat import window_below
from solvers.local_search.greedy import largest_first
from solvers.options import Clock, Options
from solvers.scaling import Scale, scale_for


def solve_joint(
    layer: Layer, options: Options, initial: tuple[int, ...] | None = None, *, backend: str
) -> Result:
    """Best placement of one layer under the global rule; bounds in the solver's floats."""
    clock = Clock(options)
    starts = [largest_first(layer, threshold_counts(layer)), *([initial] if initial else [])]
    known = Known.start(layer, global_bound(layer), starts)
    if known.value > known.bound:
        window = window_below(layer, known.value)
        counts = range(1, max(window.least) + window.spare + 1)
        scale = scale_for(layer, counts, largest_sum=mip.LARGEST_SUM)
        model = _Model.build(layer, window, scale, scale.up(known.value), backend)
        outcome = mip.run(model.program, backend, clock.remaining())
        found = None if outcome.values is None else model.slots(outcome.values)
        known = mip.improved(known, outcome, found, scale, backend)
    return known.result("joint", backend, clock)


@dataclass(frozen=True)
class _Model:
    """The program; ``n[e, k]`` are the indices of its replicas by rank, ``empty`` those of z."""

    layer: Layer
    program: mip.Program
    n: dict[tuple[int, int], list[int]]
    empty: list[int]

    @classmethod
    def build(
        cls, layer: Layer, window: Window, scale: Scale, highest: int, backend: str
    ) -> _Model:
        ranks, size = range(layer.topology.num_ranks), layer.topology.slots_per_rank
        counts = {
            e: [k for k in range(least, least + window.spare + 1) if k <= layer.most_replicas]
            for e, least in enumerate(window.least)
            if layer.loads[e]
        }
        cells = sum(map(len, counts.values())) * len(ranks)
        require_size(backend, cells, 5 * cells)
        zeros = layer.loads.count(0)
        program = mip.Program()
        program.objective = program.variable(0, highest)
        most_empty = min(size, zeros) if layer.spread_replicas or not zeros else size
        empty = [program.variable(0, most_empty) for _ in ranks]
        program.add([(z, 1) for z in empty], zeros, math.inf)
        n: dict[tuple[int, int], list[int]] = {}
        for e, choices in counts.items():
            chosen = [program.variable(0, 1) for _ in choices]
            program.add([(y, 1) for y in chosen], 1, 1)
            for k, y in zip(choices, chosen, strict=True):
                most = 1 if layer.spread_replicas else min(size, k)
                n[e, k] = [program.variable(0, most) for _ in ranks]
                program.add([*((j, 1) for j in n[e, k]), (y, -k)], 0, 0)
                for j in n[e, k]:
                    program.add([(j, 1), (y, -most)], -math.inf, 0)
        for g in ranks:
            program.add([(empty[g], 1), *((row[g], 1) for row in n.values())], size, size)
            load = [(row[g], -scale.replica(layer, e, k)) for (e, k), row in n.items()]
            program.add([(program.objective, 1), *load], 0, math.inf)
        return cls(layer, program, n, empty)

    def slots(self, values: NDArray[np.int64]) -> tuple[int, ...] | None:
        """The placement [P] of a solution; None if rounding broke it."""
        zeros = cycle(e for e, w in enumerate(self.layer.loads) if not w)
        size, slots = self.layer.topology.slots_per_rank, list[int]()
        for g, z in enumerate(self.empty):
            rank = [e for (e, _), row in self.n.items() for _ in range(values[row[g]])]
            rank += islice(zeros, int(values[z]))
            if len(rank) != size or (self.layer.spread_replicas and len(set(rank)) < size):
                return None
            slots += rank
        return tuple(slots) if set(slots) == set(range(len(self.layer.loads))) else None


solve_joint_scipy = partial(solve_joint, backend="scipy")
solve_joint_cbc = partial(solve_joint, backend="cbc")
solve_joint_highs = partial(solve_joint, backend="highs")
solve_joint_scip = partial(solve_joint, backend="scip")
