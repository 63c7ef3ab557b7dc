"""Two slots a rank: counts and packing together, to proven optimality.

With S = 2 ranks are pairs, and folding (heaviest with lightest) is optimal for given counts. So a
makespan T is reached if and only if counts exist, with every replica weighing at most T, such that

    #{replicas of load >= t}  <=  #{replicas of load <= T - t}    for every replica load t > T / 2,

which is Hall's condition: the possible partners of heavy replicas are nested sets, and light ones
pair freely. Without two replicas of an expert on one rank there is one condition more for each
light expert with k >= 2 replicas of load l,

    k + #{replicas of load > T - l}  <=  G,

since e cannot join the ranks of those; given it, any rank with e twice can swap with one without.
All conditions speak of counts only, with the counts themselves as coefficients, and CP-SAT decides
them. T is bisected over the sums of two replica loads, so the search ends with the exact optimum.
See docs/bounds.md.
"""

from __future__ import annotations

import heapq
import time
from bisect import bisect_right
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
class _Search:
    """What stays the same from one trial makespan to the next; ``deadline`` is a monotonic time."""

    layer: Layer
    spread: bool
    seed: int
    workers: int
    deadline: float


@dataclass(frozen=True)
class _Interval:
    """The optimum is in [lower, upper], and ``counts`` reach upper."""

    lower: Fraction
    upper: Fraction
    counts: tuple[int, ...]


def solve_pairs(
    layer: Layer,
    *,
    spread_replicas: bool = False,
    time_limit: float = 60.0,
    seed: int = 0,
    workers: int = 1,
) -> Result:
    """Optimal counts and packing of a layer with two slots a rank, under the global rule.

    Exact, resting on CP-SAT's word where it reports a threshold as infeasible; at the time limit
    the bound stays valid. The value is recomputed from the placement. With ``spread_replicas`` no
    rank holds an expert twice, which is infeasible for a single expert only.

    Raises:
        ValueError: the topology has not two slots a rank, or the rule is not global.
    """
    P, G = layer.topology.num_physical_experts, layer.topology.num_ranks
    if layer.topology.slots_per_rank != 2 or layer.rule != Rule.GLOBAL:
        raise ValueError(
            f"slots_per_rank={layer.topology.slots_per_rank} under the {layer.rule} rule: "
            "pairs need 2 and the global rule; use the general method of the joint stage"
        )
    start = time.monotonic()
    mean = Fraction(sum(layer.loads), G)
    if spread_replicas and len(layer.loads) * G < P:
        return Result("joint", "pairs", mean * layer.unit, infeasible=True)
    search = _Search(layer, spread_replicas, seed, workers, start + time_limit)
    counts = greedy_counts(layer.loads, P, most=G if spread_replicas else P)
    interval = _Interval(mean, _folded_value(search, counts), counts)
    limit = None
    while interval.lower < interval.upper and limit is None:
        narrower = _halve(search, interval)
        limit = "time" if narrower is None else None
        interval = narrower or interval
    placement = folded_placement(layer, interval.counts, spread_replicas=spread_replicas)
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


def greedy_counts(loads: Sequence[int], num_slots: int, most: int) -> tuple[int, ...]:
    """Replicas given one by one to the expert with the heaviest, up to ``most`` each.

    Minimizes max w_e / c_e. Needs ``len(loads) * most >= num_slots``.
    """
    counts = [1] * len(loads)
    heap = [(Fraction(-load), e) for e, load in enumerate(loads) if most > 1]
    heapq.heapify(heap)
    for _ in range(num_slots - len(loads)):
        _, e = heapq.heappop(heap)
        counts[e] += 1
        if counts[e] < most:
            heapq.heappush(heap, (Fraction(-loads[e], counts[e]), e))
    return tuple(counts)


def folded_placement(
    layer: Layer, counts: Sequence[int], *, spread_replicas: bool = False
) -> tuple[int, ...]:
    """[P] slots with the i-th heaviest replica beside the i-th lightest: optimal for these counts.

    With ``spread_replicas``, ranks with an expert twice then swap with the lightest rank without
    it; that needs counts of at most G and keeps within a makespan for which the conditions hold.
    """
    load = [Fraction(w, c) for w, c in zip(layer.loads, counts, strict=True)]
    ordered = sorted(
        (e for e, count in enumerate(counts) for _ in range(count)), key=load.__getitem__
    )
    half = len(ordered) // 2
    pairs = list(zip(ordered[:half], reversed(ordered[half:]), strict=True))
    for g, (e, other) in enumerate(pairs):
        if spread_replicas and e == other:
            without = [h for h, pair in enumerate(pairs) if e not in pair]
            h = min(without, key=lambda h: max(load[x] for x in pairs[h]))
            pairs[g], pairs[h] = (e, pairs[h][0]), (e, pairs[h][1])
    return tuple(e for pair in pairs for e in pair)


def _folded_value(search: _Search, counts: Sequence[int]) -> Fraction:
    layer = search.layer
    placement = folded_placement(layer, counts, spread_replicas=search.spread)
    return exact_makespan(layer, placement) / layer.unit


def _halve(search: _Search, interval: _Interval) -> _Interval | None:
    """Decide one makespan inside the interval; None if the time is up."""
    candidates = _pair_sums(_replicas(search.layer, interval.upper), interval)
    if candidates is None:
        trial = (interval.lower + interval.upper) / 2
        above = trial
    elif candidates:
        middle = (len(candidates) - 1) // 2
        trial = candidates[middle]
        above = candidates[middle + 1] if middle + 1 < len(candidates) else interval.upper
    else:
        return replace(interval, lower=interval.upper)
    counts, decided = _counts_within(search, trial)
    if counts is not None:
        return _Interval(interval.lower, _folded_value(search, counts), counts)
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


def _counts_within(search: _Search, makespan: Fraction) -> tuple[tuple[int, ...] | None, bool]:
    """Counts that allow ``makespan``, and whether the question was decided."""
    num_experts, G = len(search.layer.loads), search.layer.topology.num_ranks
    most = G if search.spread else 2 * G
    replicas = [r for r in _replicas(search.layer, makespan) if r.count <= most]
    if len({r.expert for r in replicas}) < num_experts:
        return None, True
    model, chosen = _counts_model(search.layer, replicas)
    above = _add_hall_conditions(model, replicas, chosen, makespan)
    if search.spread:
        _add_spread_conditions(model, replicas, chosen, above, makespan, G)
    left = search.deadline - time.monotonic()
    if left <= 0:
        return None, False
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = left
    solver.parameters.random_seed = search.seed
    solver.parameters.num_workers = search.workers
    # the relaxation decides most trials; probing and symmetry took longer than the search
    solver.parameters.linearization_level = 2
    solver.parameters.symmetry_level = 0
    solver.parameters.cp_model_probing_level = 0
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, status == cp_model.INFEASIBLE
    counts = [0] * num_experts
    for replica, variable in zip(replicas, chosen, strict=True):
        counts[replica.expert] += replica.count * solver.value(variable)
    return tuple(counts), True


def _counts_model(
    layer: Layer, replicas: list[_Replica]
) -> tuple[cp_model.CpModel, list[cp_model.IntVar]]:
    """One choice an expert, P replicas in total."""
    model = cp_model.CpModel()
    chosen = [model.new_bool_var("") for _ in replicas]
    of_expert: list[list[cp_model.IntVar]] = [[] for _ in layer.loads]
    for replica, variable in zip(replicas, chosen, strict=True):
        of_expert[replica.expert].append(variable)
    for variables in of_expert:
        model.add_exactly_one(variables)
    total = cp_model.LinearExpr.weighted_sum(chosen, [r.count for r in replicas])
    model.add(total == layer.topology.num_physical_experts)
    return model, chosen


def _add_hall_conditions(
    model: cp_model.CpModel,
    replicas: list[_Replica],
    chosen: list[cp_model.IntVar],
    makespan: Fraction,
) -> dict[int, cp_model.IntVar]:
    """Partners suffice at each heavy load; returns the number of replicas from index i up, by i.

    Going down the heavy loads t, ``free`` is #{load <= T - t} - #{load >= t} and must not be
    negative. Sums from one t to the next keep the rows short.
    """
    limit = sum(r.count for r in replicas)
    free = heavier = model.new_constant(0)
    above: dict[int, cp_model.IntVar] = {}
    light = 0
    for i in reversed(range(len(replicas))):
        if 2 * replicas[i].load <= makespan:
            break
        heavy = replicas[i].count * chosen[i]
        partners: list[cp_model.LinearExpr] = []
        while replicas[light].load + replicas[i].load <= makespan:
            partners.append(replicas[light].count * chosen[light])
            light += 1
        rest, above[i] = model.new_int_var(0, limit, ""), model.new_int_var(0, limit, "")
        model.add(rest == free + cp_model.LinearExpr.sum(partners) - heavy)
        model.add(above[i] == heavier + heavy)
        free, heavier = rest, above[i]
    return above


def _add_spread_conditions(
    model: cp_model.CpModel,
    replicas: list[_Replica],
    chosen: list[cp_model.IntVar],
    above: dict[int, cp_model.IntVar],
    makespan: Fraction,
    num_ranks: int,
) -> None:
    """``k + #{replicas of load > T - l} <= G`` for the choice of k >= 2 replicas of load l."""
    loads = [r.load for r in replicas]
    for replica, variable in zip(replicas, chosen, strict=True):
        first = bisect_right(loads, makespan - replica.load)
        if replica.count >= 2 and 2 * replica.load <= makespan and first in above:
            condition = model.add(above[first] <= num_ranks - replica.count)
            condition.only_enforce_if(variable)
