r"""Closed-form lower bounds on the makespan of one layer, in exact arithmetic.

Notation: loads w_e, counts c_e >= 1 with sum P, G ranks of S slots, makespan T. All bounds hold
for *free* counts, so for every placement. The named ones are

- **mean**: ``sum(w) / G``;
- **threshold**: the least T with ``sum of ceil(w_e / T) <= P``, which is ``max w_e / c_e`` at the
  best counts;
- **destructive bound**: assume that the makespan is at most T and derive a contradiction; then it
  is larger. :func:`exclude` does that for one T, and the largest T excluded (on a grid) gives the
  bound. It joins three arguments from the theory of P||Cmax with a fixed number of items per
  machine, carried over to free counts:

  1. *Window.* Makespan T needs ``c_e >= b_e = ceil(w_e / T)``, which leaves ``spare = P - sum(b)``
     replicas, so ``c_e <= b_e + spare``, and no replica of e is lighter than ``w_e / (b_e +
     spare)``.
  2. *Heaviest with lightest.* A replica shares its rank with S-1 others, so its load is at most T
     minus the sum of the S-1 lightest replicas that the window allows. That cap raises the
     ``b_e``; repeat until nothing moves.
  3. *Pigeonhole.* If more than q*G replicas are heavier than theta, some rank has q+1 of them and
     weighs more than ``(q+1) theta`` plus the S-q-1 lightest. For each q, theta is chosen to make
     that T, and the number of heavier replicas is minimized over the window (by its fractional
     relaxation).

For the hierarchical rule every block of groups that one node could take is bounded as a global
problem, and the best partition into blocks is found exactly (:mod:`eplb_opt.bounds.partitions`).

References: M. Dell'Amico, S. Martello, "Bounds for the cardinality constrained P||Cmax problem",
J. Scheduling 4 (2001) 123-138; M. Dell'Amico, M. Iori, S. Martello, M. Monaci, EJOR 171 (2006)
725-742. Destructive bounds: R. Klein, A. Scholl, EJOR 112 (1999) 322-346.
"""

from __future__ import annotations

import heapq
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from eplb_opt.bounds.partitions import Block, all_blocks, can_enumerate, lazy_bottleneck
from eplb_opt.problem.evidence import CLOSED_FORM, Evidence
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import mean_load
from eplb_opt.problem.topology import Rule

RELATIVE_PRECISION = Fraction(1, 2**40)
"""Where the grid of possible makespans is finer than this, the destructive bound stops here."""
LARGEST_GRID = 2_000
"""With more possible counts of an expert the grid is :data:`RELATIVE_PRECISION`: their least common
multiple would have thousands of bits."""
LARGEST_TRIAL = 100_000
"""Experts looked at to exclude one makespan, all pigeonholes together; others are left out."""
LARGEST_SEARCH = 20 * LARGEST_TRIAL
"""Experts looked at in the search for the largest excluded makespan, which then ends: about a
second. Either is only reached beyond some thousand experts or hundred slots on a rank."""
LARGEST_REFINEMENT = 400_000
"""Experts of a layer times the blocks of groups that are bounded by more than their mean."""


@dataclass(frozen=True)
class Bound:
    """A proven lower bound in tokens, the argument that proves it, and what a checker needs."""

    value: Fraction
    source: str
    evidence: Evidence = CLOSED_FORM


def placement_bound(layer: Layer) -> Bound:
    """The best closed-form lower bound on the makespan of any placement under the layer's rule."""
    best = global_bound(layer)
    if layer.rule == Rule.HIERARCHICAL and layer.topology.num_nodes > 1:
        grouped = groups_bound(layer)
        best = max(best, grouped, key=lambda bound: bound.value)
    return best


def threshold_counts(
    layer: Layer, least: Sequence[int] | None = None, most: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Counts [E] that minimize the largest replica load ``max w_e / c_e``, exactly.

    ``least`` and ``most`` [E] limit the counts; by default 1 and ``layer.most_replicas``, which no
    count exceeds in any case. The result is even lexicographically optimal: of all counts within
    the limits, its vector of ``w_e / c_e``, sorted from the largest on, is the smallest.

    Greedy: every further replica goes to the expert with the largest ``w_e / c_e`` that may have
    more. Ties go to the expert with fewer replicas, whose load falls furthest, then to the
    smallest index.

    Proof that the maximum is optimal, by exchange. Suppose counts c' do strictly better than the
    greedy result c. The largest ``w_e / c_e`` is that of an expert below its limit (one at its
    limit is no better in c'), and both sum to P, so some f has c'_f < c_f. When greedy gave f its
    last replica, ``w_f / (c_f - 1)`` was the largest of all that could still fall, hence at least
    greedy's final maximum. But c'_f <= c_f - 1, so c' leaves f at that value or more:
    contradiction. The lexicographic claim is checked by enumeration in the tests.

    O(P log E) exact comparisons.

    Raises:
        ValueError: the limits cannot be met: they sum to more, or less, than P.
    """
    experts = range(layer.num_logical_experts)
    counts = list(least) if least is not None else [1] * len(experts)
    cap = [layer.most_replicas] * len(experts)
    if most is not None:
        cap = [min(pair) for pair in zip(cap, most, strict=True)]
    spare = layer.topology.num_physical_experts - sum(counts)
    if spare < 0 or sum(cap) < sum(counts) + spare or any(map(operator.gt, counts, cap)):
        raise ValueError(
            f"num_physical_experts={layer.topology.num_physical_experts} cannot be split into "
            f"counts from {sum(counts)} to {sum(cap)} in total, each within its limits"
        )
    # Those for a load of at least sum(w) / spare are no more than there are to hand out.
    if total := sum(layer.loads):
        sure = (1 + w * spare // total for w in layer.loads)
        counts = [max(c, min(k, x)) for c, k, x in zip(counts, cap, sure, strict=True)]
        spare = layer.topology.num_physical_experts - sum(counts)
    key = _Order(layer)
    heap = [(*key.heaviest(e, counts[e]), counts[e], e) for e in experts if counts[e] < cap[e]]
    heapq.heapify(heap)
    for _ in range(spare):
        e = heap[0][-1]
        counts[e] += 1
        if counts[e] < cap[e]:
            heapq.heapreplace(heap, (*key.heaviest(e, counts[e]), counts[e], e))
        else:
            heapq.heappop(heap)
    return tuple(counts)


class _Order:
    """Sorts replica loads w_e / k exactly: by the nearest float, and only where two are the same by
    the fraction, whose comparison takes ten times as long. Rounding keeps the order.
    """

    def __init__(self, layer: Layer) -> None:
        self.loads, self.largest = layer.loads, max(1, max(layer.loads))

    def heaviest(self, expert: int, count: int) -> tuple[float, Fraction]:
        """A key that is least for the heaviest replica."""
        load = self.loads[expert]
        return -(load / (count * self.largest)), -Fraction(load, count)

    def lightest(self, expert: int, count: int) -> tuple[float, Fraction]:
        """A key that is least for the lightest replica."""
        load = self.loads[expert]
        return load / (count * self.largest), Fraction(load, count)


def threshold(layer: Layer) -> Fraction:
    """``max w_e / c_e`` at the counts that minimize it: the makespan is at least the heaviest
    replica.
    """
    counts = threshold_counts(layer)
    return max(Fraction(w, c) for w, c in zip(layer.loads, counts, strict=True)) * layer.unit


def global_bound(layer: Layer) -> Bound:
    """The best closed-form bound under the global rule (which also holds under the hierarchical
    one).
    """
    mean, heaviest = mean_load(layer), threshold(layer)
    simple = Bound(heaviest, "threshold") if heaviest > mean else Bound(mean, "mean")
    return _destructive_bound(layer, simple)


def groups_bound(layer: Layer) -> Bound:
    """Bound for the hierarchical rule: the bottleneck over nodes, minimized over partitions of the
    groups.

    Exact enumeration where the blocks are few (8 groups on 4 nodes: 28 blocks, 105 partitions),
    with the bound of a block refined only where it decides. Else the relaxation ``(load of the
    heaviest group and of the K/N - 1 lightest others) / ranks of a node``.
    """
    topology = layer.topology
    totals = [sum(layer.loads[e] for e in group) for group in layer.groups]
    per_rank = layer.unit / topology.ranks_per_node
    if not can_enumerate(topology.num_groups, topology.num_nodes):
        companions = sorted(totals)[: topology.groups_per_node - 1]
        return Bound((max(totals) + sum(companions)) * per_rank, "heaviest-group")
    sources: dict[Block, str] = {}

    refinements = iter(range(max(1, LARGEST_REFINEMENT // layer.num_logical_experts)))

    def refine(block: Block) -> Fraction:
        if next(refinements, None) is None:
            sources[block] = "mean"
            return cost[block]
        bound = global_bound(layer.node_problem(block))
        sources[block] = bound.source
        return bound.value

    blocks = all_blocks(topology.num_groups, topology.num_nodes)
    cost = {block: sum(totals[k] for k in block) * per_rank for block in blocks}
    value, partition = lazy_bottleneck(cost, refine, topology.num_groups)
    worst = max(partition, key=cost.__getitem__)
    return Bound(value, f"groups:{sources.get(worst, 'mean')}")


def packing_bound(layer: Layer, counts: Sequence[int]) -> Bound:
    """The best closed-form bound under the global rule when the counts [E] are given."""
    heaviest = max(Fraction(w, c) for w, c in zip(layer.loads, counts, strict=True)) * layer.unit
    mean = mean_load(layer)
    simple = Bound(heaviest, "heaviest") if heaviest > mean else Bound(mean, "mean")
    return _destructive_bound(layer, simple, counts)


def dispatch_bound(layer: Layer) -> Bound:
    """A bound for every placement when the tokens of an expert are shared in any proportion.

    The m heaviest experts hold at most ``m + P - E`` slots, since each other one needs a slot, and
    no more ranks than that: ``max over m of (w_1 + ... + w_m) / min(G, m + P - E)``; with m = E it
    is the mean.
    """
    ranks, spare = layer.topology.num_ranks, layer.num_redundant_experts
    best, total = Fraction(0), 0
    for m, load in enumerate(sorted(layer.loads, reverse=True), start=1):
        total += load
        best = max(best, Fraction(total, min(ranks, m + spare)))
    source = "mean" if best * ranks == total else "heaviest-experts"
    return Bound(best * layer.unit, source)


@dataclass(frozen=True)
class Window:
    """Counts that a makespan leaves: ``least[e] <= c_e <= least[e] + spare``."""

    least: tuple[int, ...]
    spare: int


def count_window(layer: Layer, makespan: Fraction) -> Window | str:
    """Arguments 1 and 2: the counts of every placement with at most ``makespan`` tokens on each
    rank.

    If there are none, the name of the argument that shows it.
    """
    limit = cap = makespan / layer.unit
    companions, reason = layer.topology.slots_per_rank - 1, "threshold"
    while cap > 0:
        top, bottom = cap.numerator, cap.denominator
        least = tuple(max(1, -(-w * bottom // top)) for w in layer.loads)
        window = Window(least, layer.topology.num_physical_experts - sum(least))
        if window.spare < 0:
            return reason
        lower = limit - _lightest_sums(layer, window, companions)[-1]
        if lower >= cap:
            return window
        cap, reason = lower, "heaviest-with-lightest"
    return reason


def exclude(layer: Layer, makespan: Fraction, counts: Sequence[int] | None = None) -> str | None:
    """Prove that no placement under the global rule has a makespan of at most ``makespan`` (in
    tokens).

    With ``counts`` [E], only placements with these counts. Returns the name of the argument that
    proves it, or None if none of them does, which says nothing. O(rounds * E + S * E log E), in
    integers and fractions only; at most :func:`_pigeonholes` of the S values of q are tried.
    """
    if not layer.has_load:
        return None if makespan >= 0 else "mean"
    if makespan < mean_load(layer):
        return "mean"
    window = count_window(layer, makespan) if counts is None else Window(tuple(counts), 0)
    if isinstance(window, str):
        return window
    limit, ranks, slots_per_rank = (
        makespan / layer.unit,
        layer.topology.num_ranks,
        layer.topology.slots_per_rank,
    )
    tried = _pigeonholes(layer)
    companions = _lightest_sums(layer, window, slots_per_rank - 1)
    for q in range(tried):
        theta = (limit - companions[slots_per_rank - q - 1]) / (q + 1)
        if _fewest_heavier(layer, window, theta, q * ranks) > q * ranks:
            return "heaviest-with-lightest" if q == 0 else "pigeonhole"
    return None


def _pigeonholes(layer: Layer) -> int:
    """How many values of q :func:`exclude` tries: all S, or as many as it has time for."""
    return min(layer.topology.slots_per_rank, max(1, LARGEST_TRIAL // layer.num_logical_experts))


def _lightest_sums(layer: Layer, window: Window, number: int) -> list[Fraction]:
    """At least this much is the sum of any 0, 1, ..., ``number`` replicas, for all counts in the
    window.
    """
    key, most = _Order(layer), [c + window.spare for c in window.least]
    replicas = ((*key.lightest(e, count), count) for e, count in enumerate(most))
    sums = [Fraction(0)]
    for _, load, copies in heapq.nsmallest(number, replicas):
        for _ in range(min(copies, number + 1 - len(sums))):
            sums.append(sums[-1] + load)
    return sums


def _fewest_heavier(layer: Layer, window: Window, theta: Fraction, wanted: int) -> int:
    """At least this many replicas are heavier than ``theta``, whatever the counts in the window;
    found no further than it takes to see that they are not more than ``wanted``.

    An expert whose ``least`` replicas are heavier needs ``ceil(w / theta)`` replicas to have none.
    Which experts to lift with the spare replicas is a knapsack; its fractional relaxation bounds
    what they save from above.
    """
    if theta < 0:
        return layer.topology.num_physical_experts
    top, bottom = theta.numerator, theta.denominator
    heavy = [(w, c) for w, c in zip(layer.loads, window.least, strict=True) if w * bottom > top * c]
    total = sum(c for _, c in heavy)
    if top == 0 or window.spare == 0 or total <= wanted:
        return total
    price = sorted((Fraction(-(-w * bottom // top) - c, c), c) for w, c in heavy)
    saved, spare = 0, Fraction(window.spare)
    for per_replica, c in price:
        if spare < per_replica * c:
            saved += math.floor(spare / per_replica)
            break
        spare -= per_replica * c
        saved += c
    return total - saved


def _destructive_bound(layer: Layer, start: Bound, counts: Sequence[int] | None = None) -> Bound:
    """The largest excluded makespan above ``start``, rounded up to the next makespan that a
    placement can have.

    Every rank load is a multiple of ``unit / lcm(possible counts)``, so an excluded grid
    point proves the next one.
    """
    experts = layer.num_logical_experts
    if layer.topology.num_ranks == 1 or experts > LARGEST_TRIAL:
        return start
    source = exclude(layer, start.value, counts)
    if source is None:
        return start
    possible = range(1, layer.num_redundant_experts + 2) if counts is None else set(counts)
    listed = len(possible) <= LARGEST_GRID
    grid = layer.unit / math.lcm(*possible) if listed else start.value * RELATIVE_PRECISION
    low, high = math.floor(start.value / grid), 2 * math.ceil(start.value / grid)
    trials = iter(range(LARGEST_SEARCH // (experts * _pigeonholes(layer))))
    while (reason := exclude(layer, high * grid, counts)) is not None:
        low, high, source = high, 2 * high, reason
    while high - low > 1 and high - low > low * RELATIVE_PRECISION:
        if next(trials, None) is None:
            break
        middle = (low + high) // 2
        reason = exclude(layer, middle * grid, counts)
        if reason is None:
            high = middle
        else:
            low, source = middle, reason
    proven = (low + 1) * grid if listed else low * grid
    return Bound(max(start.value, proven), source)
