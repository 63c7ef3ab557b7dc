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
See docs/theory/bounds.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from ortools.sat.python import cp_model

from eplb_opt import bounds
from eplb_opt.bounds.closed_form import threshold_counts
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import Limit
from eplb_opt.problem.topology import Rule
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.engines import cp_sat
from solvers.model_size import require_table
from solvers.options import Budget, OutOfBudgetError

LISTED = 20_000
"""With more candidate values than this in the interval, its middle is tried instead of a
candidate."""
LISTED_FACTOR = 128
"""A choice takes so many times the memory of an entry of a table."""
SLACK = 1e-9
"""Share of the makespan by which floats may be off, with room to spare."""


# The relaxation decides most trials; probing and symmetry took longer than the search.
PARAMETERS = {"linearization_level": 2, "symmetry_level": 0, "cp_model_probing_level": 0}


@dataclass(frozen=True)
class _Replica:
    """The choice of ``count`` replicas for ``expert``, each of load ``load`` (in load units), which
    is about ``share`` of the makespan in question.
    """

    share: float
    load: Fraction
    expert: int
    count: int


def solve_joint(layer: Layer, budget: Budget, initial: Sequence[int] | None = None) -> Bracket:
    """Optimal counts and packing of a layer with two slots a rank, under the global rule.

    Exact, resting on CP-SAT's word where it reports a threshold as infeasible; at a limit the bound
    stays valid. The value is recomputed from the placement. ``initial`` [P] is a placement to start
    from. With ``spread_replicas`` no rank holds an expert twice.

    Raises:
        ValueError: the topology has not two slots a rank, or the rule is not global.
    """
    if layer.rule != Rule.GLOBAL:
        raise ValueError("the rule is hierarchical: give one node at a time")
    if layer.topology.slots_per_rank != 2:
        raise ValueError(
            f"slots_per_rank={layer.topology.slots_per_rank}: backend='two-slots' takes 2, use "
            "backend='auto'"
        )
    starts = [_fold(layer, threshold_counts(layer))]
    if initial is not None:
        given = value(layer, initial)
        starts += [given, _fold(layer, given.counts(layer.num_logical_experts))]
    known = Bracket.start(bounds.of(layer), starts)
    while known.limit is None and not budget.accepts(known.incumbent, known.bound):
        known = _bisect(layer, known, budget)
    return known


def fold_replicas(layer: Layer, counts: Sequence[int]) -> tuple[int, ...]:
    """[P] the i-th heaviest replica beside the i-th lightest: optimal for these counts.

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
        if layer.spread_replicas and e == other:
            without = [h for h, pair in enumerate(pairs) if e not in pair]
            h = min(without, key=lambda h: max(load[x] for x in pairs[h]))
            pairs[g], pairs[h] = (e, pairs[h][0]), (e, pairs[h][1])
    return tuple(e for pair in pairs for e in pair)


def _fold(layer: Layer, counts: Sequence[int]) -> Bracket:
    return value(layer, fold_replicas(layer, counts))


def _bisect(layer: Layer, known: Bracket, budget: Budget) -> Bracket:
    """Decide one makespan between bound and value, or say which limit came before the decision."""
    lower, upper = known.bound / layer.unit, known.incumbent / layer.unit
    try:
        candidates = _candidate_makespans(_replicas(layer, upper, budget), lower, upper)
    except OutOfBudgetError:
        return replace(known, limit=budget.limit)
    if candidates is None:
        trial = (lower + upper) / 2
        above = trial
    elif candidates:
        middle = (len(candidates) - 1) // 2
        trial = candidates[middle]
        above = candidates[middle + 1] if middle + 1 < len(candidates) else upper
    else:
        return known.with_bound(known.incumbent, "two-slots")
    decision = _counts_within(layer, trial, budget)
    if decision.counts is not None:
        return known.with_placement(_fold(layer, decision.counts))
    if decision.limit is None:
        return known.with_bound(above * layer.unit, "two-slots")
    return replace(known, limit=decision.limit)


def _replicas(layer: Layer, makespan: Fraction, budget: Budget) -> list[_Replica]:
    """Choices that a makespan of at most ``makespan`` leaves, in ascending order of load.

    Raises:
        TooLargeError: they are too many.
        OutOfBudgetError: there is no time to list them.
    """
    num, den = makespan.numerator, makespan.denominator
    fewest = [max(1, -(-load * den // num)) for load in layer.loads]
    spare = layer.topology.num_physical_experts - sum(fewest)
    require_table("two slots a rank", LISTED_FACTOR * len(fewest), spare + 1)
    choices: list[_Replica] = []
    for e, (load, least) in enumerate(zip(layer.loads, fewest, strict=True)):
        budget.spend(spare)
        choices += [
            _Replica(load * den / (k * num), Fraction(load, k), e, k)
            for k in range(least, least + spare + 1)
        ]
    return sorted(choices, key=lambda r: (r.share, r.load))  # fractions compare slowly


def _candidate_makespans(
    replicas: list[_Replica], lower: Fraction, upper: Fraction
) -> list[Fraction] | None:
    """Sums of two replica loads in [lower, upper), ascending; None if there are too many to list.

    Floats, as shares of ``upper``, only narrow the search; the sums themselves are compared
    exactly. An interval that floats cannot halve any more is listed, however many they are.
    """
    exact, shares = list[Fraction](), list[float]()
    for replica in replicas:
        if not exact or exact[-1] != replica.load:
            exact.append(replica.load)
            shares.append(replica.share)
    loads = np.array(shares)
    least = float(lower / upper)
    first = np.searchsorted(loads, least - loads - SLACK)
    last = np.searchsorted(loads, 1 - loads + SLACK)
    if int((last - first).sum()) > 2 * LISTED and 1 - least > SLACK:
        return None
    sums = {
        exact[i] + exact[j]
        for i in range(len(exact))
        for j in range(max(i, int(first[i])), int(last[i]))
    }
    return sorted(s for s in sums if lower <= s < upper)


@dataclass(frozen=True)
class _Decision:
    """Counts that allow a makespan; None if impossible or, with a ``limit``, undecided."""

    counts: tuple[int, ...] | None
    limit: Limit | None = None


def _counts_within(layer: Layer, makespan: Fraction, budget: Budget) -> _Decision:
    """Whether some counts allow ``makespan`` (in load units)."""
    num_experts = layer.num_logical_experts
    try:
        found = _replicas(layer, makespan, budget)
    except OutOfBudgetError:
        return _Decision(None, budget.limit)
    replicas = [r for r in found if r.count <= layer.most_replicas]
    if len({r.expert for r in replicas}) < num_experts:
        return _Decision(None)
    try:
        model, chosen = _counts_model(layer, replicas, budget)
        above = _add_hall_conditions(model, replicas, chosen, makespan, budget)
    except OutOfBudgetError:
        return _Decision(None, budget.limit)
    if layer.spread_replicas:
        ranks = layer.topology.num_ranks
        _add_spread_conditions(model, replicas, chosen, above, makespan, ranks)
    outcome = cp_sat.run(model, budget, PARAMETERS)
    if outcome.value is None:
        return _Decision(None, outcome.limit)
    counts = [0] * num_experts
    for replica, variable in zip(replicas, chosen, strict=True):
        counts[replica.expert] += replica.count * outcome.value(variable)
    return _Decision(tuple(counts))


def _counts_model(
    layer: Layer, replicas: list[_Replica], budget: Budget
) -> tuple[cp_model.CpModel, list[cp_model.IntVar]]:
    """One choice an expert, P replicas in total."""
    model = cp_model.CpModel()
    chosen = [model.new_bool_var("") for _ in replicas]
    of_expert: list[list[cp_model.IntVar]] = [[] for _ in layer.loads]
    for replica, variable in zip(replicas, chosen, strict=True):
        budget.spend(1)
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
    budget: Budget,
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
        budget.spend(1)
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
