"""Counts and packing as a mixed-integer program.

The model is that of :mod:`solvers.formulations.joint_cp_sat`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle, islice

from eplb_opt.bounds.closed_form import Window
from eplb_opt.problem.layer import Layer
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.engines import mip
from solvers.engines.outcome import with_outcome
from solvers.formulations.count_window import choices, window_below
from solvers.local_search.start import first_bracket
from solvers.model_size import require_size
from solvers.options import Budget, OutOfBudgetError
from solvers.scaling import Scale, scale_for


def solve_joint(
    layer: Layer, budget: Budget, initial: tuple[int, ...] | None = None, *, backend: str
) -> Bracket:
    """Best placement of one layer under the global rule; bounds in the solver's floats."""
    known = first_bracket(layer, initial)
    if known.closed:
        return known
    window = window_below(layer, known.incumbent)
    counts = range(1, max(window.least) + window.spare + 1)
    scale = scale_for(layer, counts, largest_sum=mip.LARGEST_SUM)
    try:
        model = _Model.build(layer, window, scale, scale.up(known.incumbent), backend, budget)
    except OutOfBudgetError:
        return replace(known, limit=budget.limit)
    outcome = mip.run(model.program, backend, budget)
    phy2log = None if outcome.value is None else model.phy2log(outcome.value)
    found = None if phy2log is None else value(layer, phy2log)
    return with_outcome(known, outcome, found, scale.unit, backend, in_floats=True)


@dataclass(frozen=True)
class _Model:
    """The program; ``n[e, k]`` are the indices of its replicas by rank, ``empty`` those of z."""

    layer: Layer
    program: mip.Program
    n: dict[tuple[int, int], list[int]]
    empty: list[int]

    @classmethod
    def build(
        cls,
        layer: Layer,
        window: Window,
        scale: Scale,
        highest: int,
        backend: str,
        budget: Budget,
    ) -> _Model:
        ranks, S = range(layer.topology.num_ranks), layer.topology.slots_per_rank
        counts = choices(layer, window)
        cells = sum(map(len, counts.values())) * len(ranks)
        require_size(backend, cells, 5 * cells)
        zeros = layer.loads.count(0)
        program = mip.Program()
        program.objective = program.variable(0, highest)
        most_empty = min(S, zeros) if layer.spread_replicas or not zeros else S
        empty = [program.variable(0, most_empty) for _ in ranks]
        program.add([(z, 1) for z in empty], zeros, math.inf)
        n: dict[tuple[int, int], list[int]] = {}
        for e, own in counts.items():
            chosen = [program.variable(0, 1) for _ in own]
            program.add([(y, 1) for y in chosen], 1, 1)
            for k, y in zip(own, chosen, strict=True):
                budget.spend(3 * len(ranks))
                most = 1 if layer.spread_replicas else min(S, k)
                n[e, k] = [program.variable(0, most) for _ in ranks]
                program.add([*((j, 1) for j in n[e, k]), (y, -k)], 0, 0)
                for j in n[e, k]:
                    program.add([(j, 1), (y, -most)], -math.inf, 0)
        for g in ranks:
            budget.spend(2 * len(n))
            program.add([(empty[g], 1), *((row[g], 1) for row in n.values())], S, S)
            load = [(row[g], -scale.replica(layer, e, k)) for (e, k), row in n.items()]
            program.add([(program.objective, 1), *load], 0, math.inf)
        return cls(layer, program, n, empty)

    def phy2log(self, read: Callable[[int], int]) -> tuple[int, ...] | None:
        """The placement [P] of a solution; None if rounding broke it."""
        zeros = cycle(e for e, w in enumerate(self.layer.loads) if not w)
        S, phy2log = self.layer.topology.slots_per_rank, list[int]()
        for g, z in enumerate(self.empty):
            rank = [e for (e, _), row in self.n.items() for _ in range(read(row[g]))]
            rank += islice(zeros, read(z))
            if len(rank) != S or (self.layer.spread_replicas and len(set(rank)) < S):
                return None
            phy2log += rank
        return tuple(phy2log) if set(phy2log) == set(range(len(self.layer.loads))) else None
