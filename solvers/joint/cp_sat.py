r"""Counts and packing together in CP-SAT.

    minimize    T
    subject to  sum_k y[e,k] = 1                         one count k for every expert
                sum_g n[e,k,g] = k y[e,k]                its replicas are placed
                n[e,k,g] <= S y[e,k]
                sum_{e,k} n[e,k,g] + z[g] = S            every rank is full
                sum_{e,k} v[e,k] n[e,k,g] = t[g] <= T    v[e,k] = w_e / k
                t[g] >= t[g+1]                           ranks are interchangeable
                c_e >= c_f where w_e = w_f, e < f        so are experts of equal load
                sum_g z[g] >= number of experts without load

k runs only over the window of counts that the incumbent's makespan leaves
(:func:`eplb_opt.bounds.count_window`), which is what makes the model small. Experts without load
are one class z: they fill slots and weigh nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from ortools.sat.python import cp_model

from eplb_opt.bounds import Window, count_window, global_bound, threshold_counts
from eplb_opt.instance import Layer
from eplb_opt.metrics import exact_makespan
from eplb_opt.result import Result
from solvers import cp_sat
from solvers.greedy import largest_first
from solvers.options import Clock, Options
from solvers.scaling import Scale, scale_for


def solve_joint(layer: Layer, options: Options, initial: tuple[int, ...] | None = None) -> Result:
    """Best placement of one layer under the global rule, with a proven bound.

    ``initial`` [P] is a placement to start from; without one, or if it is worse, the greedy
    placement is.
    """
    clock = Clock(options)
    bound = global_bound(layer)
    starts = [largest_first(layer, threshold_counts(layer))] + ([initial] if initial else [])
    slots = min(starts, key=lambda s: exact_makespan(layer, s))
    value, lower, source, limit = exact_makespan(layer, slots), bound.value, bound.source, None
    if value > lower:
        window = count_window(layer, value)
        if isinstance(window, str):
            raise RuntimeError(f"{window} refutes the makespan {value} of an existing placement")
        scale = scale_for(layer, range(1, max(window.least) + window.spare + 1))
        model = _JointModel.build(layer, window, scale, lower, value)
        outcome = cp_sat.run(model.model, clock.remaining())
        limit = outcome.limit
        if outcome.value is not None:
            found = model.slots({key: outcome.value(var) for key, var in model.n.items()})
            slots = min(slots, found, key=lambda s: exact_makespan(layer, s))
            value = exact_makespan(layer, slots)
        if outcome.bound is not None and outcome.bound * scale.unit > lower:
            lower, source = outcome.bound * scale.unit, "cp-sat"
    counts = tuple(slots.count(e) for e in range(layer.num_logical_experts))
    return Result(
        "joint", "cp-sat", lower, value, slots, counts, None, source, limit, runtime=clock.elapsed()
    )


@dataclass(frozen=True)
class _JointModel:
    layer: Layer
    model: cp_model.CpModel
    y: dict[tuple[int, int], cp_model.IntVar]
    n: dict[tuple[int, int, int], cp_model.IntVar]

    @classmethod
    def build(
        cls, layer: Layer, window: Window, scale: Scale, lower: Fraction, upper: Fraction
    ) -> _JointModel:
        """The model with the makespan between ``lower`` and ``upper`` tokens."""
        model = cp_model.CpModel()
        size, ranks = layer.topology.slots_per_rank, range(layer.topology.num_ranks)
        pairs = [
            (e, k)
            for e, w in enumerate(layer.loads)
            if w
            for k in range(window.least[e], window.least[e] + window.spare + 1)
        ]
        y = {(e, k): model.new_bool_var(f"y[{e},{k}]") for e, k in pairs}
        n = {
            (e, k, g): model.new_int_var(0, min(size, k), f"n[{e},{k},{g}]")
            for e, k in pairs
            for g in ranks
        }
        this = cls(layer, model, y, n)
        this._counts(ranks, size)
        this._equal_experts()
        highest = scale.down(upper)
        this._ranks(ranks, size, scale, (scale.up(lower) if scale.exact else 0, highest))
        return this

    def _counts(self, ranks: range, size: int) -> None:
        for e in {e for e, _ in self.y}:
            self.model.add_exactly_one(y for (f, _), y in self.y.items() if f == e)
        for (e, k), y in self.y.items():
            self.model.add(sum(self.n[e, k, g] for g in ranks) == k * y)
            for g in ranks:
                self.model.add(self.n[e, k, g] <= min(size, k) * y)

    def _equal_experts(self) -> None:
        loads = self.layer.loads
        count = {e: sum(k * y for (f, k), y in self.y.items() if f == e) for e, _ in self.y}
        by_load = sorted(count, key=lambda e: (loads[e], e))
        for e, f in pairwise(by_load):
            if loads[e] == loads[f]:
                self.model.add(count[e] >= count[f])

    def _ranks(self, ranks: range, size: int, scale: Scale, window: tuple[int, int]) -> None:
        makespan = self.model.new_int_var(*window, "T")
        rank_load = [self.model.new_int_var(0, window[1], f"t[{g}]") for g in ranks]
        without_load = self.layer.loads.count(0)
        empty = [self.model.new_int_var(0, size if without_load else 0, f"z[{g}]") for g in ranks]
        self.model.add(sum(empty) >= without_load)
        value = {(e, k): scale.replica(self.layer, e, k) for e, k in self.y}
        for g in ranks:
            self.model.add(sum(self.n[e, k, g] for e, k in self.y) + empty[g] == size)
            self.model.add(sum(v * self.n[e, k, g] for (e, k), v in value.items()) == rank_load[g])
            self.model.add(rank_load[g] <= makespan)
        for g in ranks[1:]:
            self.model.add(rank_load[g - 1] >= rank_load[g])
        self.model.minimize(makespan)

    def slots(self, n: dict[tuple[int, int, int], int]) -> tuple[int, ...]:
        """The placement [P] of a solution; experts without load fill what is left, each at least
        once.
        """
        size, zeros = (
            self.layer.topology.slots_per_rank,
            [e for e, w in enumerate(self.layer.loads) if not w],
        )
        slots: list[int] = []
        filler = 0
        for g in range(self.layer.topology.num_ranks):
            rank = [e for (e, _, h), copies in n.items() if h == g for _ in range(copies)]
            while len(rank) < size:
                rank.append(zeros[filler % len(zeros)])
                filler += 1
            slots += rank
        return tuple(slots)
