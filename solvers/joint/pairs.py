"""Two slots a rank: counts and packing together, to proven optimality.

With S = 2 ranks are pairs, and folding (heaviest with lightest) is optimal for given counts. So a
makespan T is reached if and only if counts exist, with every replica weighing at most T, such that

    #{replicas of load >= t}  <=  #{replicas of load <= T - t}    for every replica load t > T / 2,

which is Hall's condition: the possible partners of heavy replicas are nested sets, and light ones
pair freely. It speaks of counts only, with the counts themselves as coefficients, and CP-SAT
decides it. T is bisected over the sums of two replica loads, so the search ends with the exact
optimum. See docs/bounds.md.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from ortools.sat.python import cp_model

from eplb_opt.instance import Layer, Rule
from eplb_opt.metrics import exact_makespan
from eplb_opt.result import Result

LISTED = 20_000
"""With more candidate values than this in the interval, its middle is tried instead of a
candidate."""


@dataclass(frozen=True)
class _Replica:
    """The choice of ``count`` replicas for ``expert``, each of load ``load`` (in load units)."""

    load: Fraction
    expert: int
    count: int


@dataclass(frozen=True)
class _Interval:
    """The optimum is in [lower, upper], and ``counts`` reach upper."""

    lower: Fraction
    upper: Fraction
    counts: tuple[int, ...]


def solve_pairs(
    layer: Layer, *, time_limit: float = 60.0, seed: int = 0, workers: int = 1
) -> Result:
    """Optimal counts and packing of a layer with two slots a rank, under the global rule.

    Exact, resting on CP-SAT's word where it reports a threshold as infeasible; at the time limit
    the bound stays valid. The value is recomputed from the placement.

    Raises:
        ValueError: the topology has not two slots a rank, or the rule is not global.
    """
    if layer.topology.slots_per_rank != 2 or layer.rule != Rule.GLOBAL:
        raise ValueError(
            f"slots_per_rank={layer.topology.slots_per_rank} under the {layer.rule} rule: "
            "pairs need 2 and the global rule; use the general method of the joint stage"
        )
    start = time.monotonic()
    counts = greedy_counts(layer.loads, layer.topology.num_physical_experts)
    mean = Fraction(sum(layer.loads), layer.topology.num_ranks)
    interval = _Interval(mean, _folded_value(layer, counts), counts)
    limit = None
    while interval.lower < interval.upper:
        left = time_limit - (time.monotonic() - start)
        narrower = _halve(layer, interval, left, seed, workers) if left > 0 else None
        if narrower is None:
            limit = "time"
            break
        interval = narrower
    placement = folded_placement(layer, interval.counts)
    return Result(
        stage="joint",
        backend="pairs",
        lower_bound=interval.lower * layer.unit,
        objective=exact_makespan(layer, placement),
        placement=placement,
        counts=interval.counts,
        bound_source="pairs",
        limit=limit,
        runtime=time.monotonic() - start,
    )


def greedy_counts(loads: Sequence[int], num_slots: int) -> tuple[int, ...]:
    """Replicas given one by one to the expert with the heaviest, which minimizes max w_e / c_e."""
    counts = [1] * len(loads)
    heap = [(Fraction(-load), e) for e, load in enumerate(loads)]
    heapq.heapify(heap)
    for _ in range(num_slots - len(loads)):
        _, e = heap[0]
        counts[e] += 1
        heapq.heapreplace(heap, (Fraction(-loads[e], counts[e]), e))
    return tuple(counts)


def folded_placement(layer: Layer, counts: Sequence[int]) -> tuple[int, ...]:
    """[P] slots with the i-th heaviest replica beside the i-th lightest: optimal for these
    counts.
    """
    ordered = sorted(
        (e for e, count in enumerate(counts) for _ in range(count)),
        key=lambda e: Fraction(layer.loads[e], counts[e]),
    )
    half = len(ordered) // 2
    return tuple(
        e for pair in zip(ordered[:half], reversed(ordered[half:]), strict=True) for e in pair
    )


def _folded_value(layer: Layer, counts: Sequence[int]) -> Fraction:
    return exact_makespan(layer, folded_placement(layer, counts)) / layer.unit


def _halve(
    layer: Layer, interval: _Interval, time_limit: float, seed: int, workers: int
) -> _Interval | None:
    """Decide one makespan inside the interval; None if the time is up."""
    replicas = _replicas(layer, interval.upper)
    candidates = _pair_sums(replicas, interval)
    if candidates is None:
        trial = (interval.lower + interval.upper) / 2
        above = trial
    elif candidates:
        middle = (len(candidates) - 1) // 2
        trial = candidates[middle]
        above = candidates[middle + 1] if middle + 1 < len(candidates) else interval.upper
    else:
        return replace(interval, lower=interval.upper)
    counts, decided = _counts_within(layer, trial, time_limit, seed, workers)
    if counts is not None:
        return _Interval(interval.lower, _folded_value(layer, counts), counts)
    return replace(interval, lower=above) if decided else None


def _replicas(layer: Layer, makespan: Fraction) -> list[_Replica]:
    """Choices that a makespan of at most ``makespan`` leaves, in ascending order of load."""
    num, den = makespan.numerator, makespan.denominator
    fewest = [max(1, -(-load * den // num)) for load in layer.loads]
    spare = layer.topology.num_physical_experts - sum(fewest)
    choices = [
        _Replica(Fraction(load, k), e, k)
        for e, (load, least) in enumerate(zip(layer.loads, fewest, strict=True))
        for k in range(least, least + spare + 1)
    ]
    return sorted(choices, key=lambda r: r.load)


def _pair_sums(replicas: list[_Replica], interval: _Interval) -> list[Fraction] | None:
    """Sums of two replica loads in [lower, upper), ascending; None if there are too many to list.

    Floats only narrow the search; the sums themselves are compared exactly.
    """
    loads = np.array([float(r.load) for r in replicas])
    slack = 1e-9 * float(interval.upper)
    first = np.searchsorted(loads, float(interval.lower) - loads - slack)
    last = np.searchsorted(loads, float(interval.upper) - loads + slack)
    if int((last - first).sum()) > 2 * LISTED:
        return None
    sums = {
        replicas[i].load + replicas[j].load
        for i in range(len(replicas))
        for j in range(max(i, int(first[i])), int(last[i]))
    }
    return sorted(s for s in sums if interval.lower <= s < interval.upper)


def _counts_within(
    layer: Layer, makespan: Fraction, time_limit: float, seed: int, workers: int
) -> tuple[tuple[int, ...] | None, bool]:
    """Counts whose folding stays within ``makespan``, and whether the question was decided."""
    replicas = [r for r in _replicas(layer, makespan) if r.load <= makespan]
    if len({r.expert for r in replicas}) < len(layer.loads):
        return None, True
    model, chosen = _hall_model(layer, replicas, makespan)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit
    solver.parameters.random_seed = seed
    solver.parameters.num_workers = workers
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, status == cp_model.INFEASIBLE
    counts = [0] * len(layer.loads)
    for replica, variable in zip(replicas, chosen, strict=True):
        counts[replica.expert] += replica.count * solver.value(variable)
    return tuple(counts), True


def _hall_model(
    layer: Layer, replicas: list[_Replica], makespan: Fraction
) -> tuple[cp_model.CpModel, list[cp_model.IntVar]]:
    """One 0/1 variable a choice; ``free`` is what is left of the partners after each heavy load."""
    P = layer.topology.num_physical_experts
    model = cp_model.CpModel()
    chosen = [model.new_bool_var("") for _ in replicas]
    of_expert: list[list[cp_model.IntVar]] = [[] for _ in layer.loads]
    for replica, variable in zip(replicas, chosen, strict=True):
        of_expert[replica.expert].append(variable)
    for variables in of_expert:
        model.add_exactly_one(variables)
    model.add(sum(r.count * v for r, v in zip(replicas, chosen, strict=True)) == P)
    free: cp_model.IntVar | None = None
    light = 0
    for heavy in reversed(range(len(replicas))):
        load = replicas[heavy].load
        if 2 * load <= makespan:
            break
        terms = [] if free is None else [(free, 1)]
        while replicas[light].load + load <= makespan:
            terms.append((chosen[light], replicas[light].count))
            light += 1
        terms.append((chosen[heavy], -replicas[heavy].count))
        free = model.new_int_var(0, P, "")
        terms.append((free, -1))
        model.add(cp_model.LinearExpr.weighted_sum(*zip(*terms, strict=True)) == 0)
    return model, chosen
