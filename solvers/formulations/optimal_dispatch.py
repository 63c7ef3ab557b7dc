"""Uneven split: the tokens of an expert go to its replicas in any proportion.

This is what a token dispatcher can reach by splitting each batch, so it bounds what it can gain
over the even split. By max-flow min-cut the best makespan of a placement is

    max over sets F of experts of  w(F) / |ranks that hold an expert of F|.

References: Hall's theorem for flows; Dinkelbach, Management Science 13 (1967) 492 (Newton steps on
the ratio); Chung, Graham, Mao, Varghese, TOCS 39 (2006) 829 (splittable items with cardinality
limits).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ortools.sat.python import cp_model

from eplb_opt.problem.instance import Layer, Rule
from eplb_opt.problem.result import Result

LARGEST_INTEGER = 2**50


@dataclass(frozen=True)
class UnevenSplit:
    """The best split of a placement, and the proof that none is better.

    Attributes:
        makespan: in tokens; equals the load of ``critical`` over the number of ranks that hold it.
        critical: experts F whose ratio is the makespan.
        tokens: tokens[e][r] of expert e that rank r serves, without zeros; sums to the load of e.
    """

    makespan: Fraction
    critical: frozenset[int]
    tokens: tuple[dict[int, Fraction], ...]


def best_split(layer: Layer, slots: Sequence[int]) -> UnevenSplit:
    """The token split of ``slots`` [P] that minimizes the largest rank load.

    Exact in integers of any size. Newton steps: a makespan that is too small leaves a cut F, whose
    ratio is the next trial; at most G steps, each a maximum flow of O(E * P^2) in the worst case.

    Raises:
        ValueError: ``slots`` has not P entries, or an expert with load has no slot.
    """
    ranks = _ranks_of(layer, slots)
    critical = frozenset(range(len(ranks)))
    makespan = _ratio(layer, ranks, critical)
    while True:
        supply = [load * makespan.denominator for load in layer.loads]
        flow, cut = _route(supply, ranks, makespan.numerator, layer.topology.num_ranks)
        if not cut:
            unit = layer.unit / makespan.denominator
            tokens = tuple({r: f * unit for r, f in row.items() if f} for row in flow)
            return UnevenSplit(makespan * layer.unit, critical, tokens)
        critical, makespan = cut, _ratio(layer, ranks, cut)


def _ranks_of(layer: Layer, slots: Sequence[int]) -> list[set[int]]:
    P, S = layer.topology.num_physical_experts, layer.topology.slots_per_rank
    if len(slots) != P:
        raise ValueError(f"slots has {len(slots)} entries, expected num_physical_experts={P}")
    ranks: list[set[int]] = [set() for _ in layer.loads]
    for slot, expert in enumerate(slots):
        ranks[expert].add(slot // S)
    for expert, load in enumerate(layer.loads):
        if load and not ranks[expert]:
            raise ValueError(f"expert {expert} has load but no slot: give every expert a replica")
    return ranks


def _ratio(layer: Layer, ranks: list[set[int]], experts: frozenset[int]) -> Fraction:
    """``w(F) / |ranks that hold an expert of F|`` in load units."""
    touched = set().union(*(ranks[e] for e in experts))
    return Fraction(sum(layer.loads[e] for e in experts), len(touched))


def _route(
    supply: list[int], ranks: list[set[int]], room: int, num_ranks: int
) -> tuple[list[dict[int, int]], frozenset[int]]:
    """Send each expert's supply to its ranks, at most ``room`` to a rank.

    Shortest augmenting paths (Edmonds and Karp, J. ACM 19 (1972) 248). Returns the flow, and the
    experts on the source side of a minimum cut: none if all supply fits.
    Own code because loads given as floats exceed the 64 bits of library flow codes.
    """
    left, space = list(supply), [room] * num_ranks
    flow = [dict.fromkeys(sorted(held), 0) for held in ranks]
    while True:
        end, came_from, seen = _search(left, space, flow)
        if end is None:
            return flow, frozenset(seen) if any(left) else frozenset()
        path = [end]  # rank, expert, rank, ..., expert
        while path[-1] in came_from:
            path.append(came_from[path[-1]])
        forward = [(path[i + 1][1], path[i][1]) for i in range(0, len(path), 2)]
        back = [(path[i][1], path[i + 1][1]) for i in range(1, len(path) - 1, 2)]
        amount = min(left[path[-1][1]], space[end[1]], *(flow[e][r] for e, r in back))
        for e, r in forward:
            flow[e][r] += amount
        for e, r in back:
            flow[e][r] -= amount
        left[path[-1][1]] -= amount
        space[end[1]] -= amount


Node = tuple[str, int]


def _search(
    left: list[int], space: list[int], flow: list[dict[int, int]]
) -> tuple[Node | None, dict[Node, Node], set[int]]:
    """Breadth-first from experts with supply left to a rank with space; experts reached."""
    served: list[list[int]] = [[] for _ in space]
    for e, row in enumerate(flow):
        for r, amount in row.items():
            if amount:
                served[r].append(e)
    seen = {e for e, amount in enumerate(left) if amount}
    queue, came_from = deque(sorted(seen)), dict[Node, Node]()
    while queue:
        e = queue.popleft()
        for r in flow[e]:
            if ("rank", r) in came_from:
                continue
            came_from["rank", r] = ("expert", e)
            if space[r]:
                return ("rank", r), came_from, seen
            for other in served[r]:
                if other not in seen:
                    seen.add(other)
                    came_from["expert", other] = ("rank", r)
                    queue.append(other)
    return None, came_from, seen


def uneven_lower_bound(layer: Layer) -> Fraction:
    """Bound in tokens for every placement under uneven split.

    The m heaviest experts hold at most ``m + P - E`` slots, since each other one needs a slot, and
    no more ranks than that: ``max over m of (w_1 + ... + w_m) / min(G, m + P - E)``; with m = E it
    is the mean.
    """
    G, spare = layer.topology.num_ranks, layer.num_redundant_experts
    best, total = Fraction(0), 0
    for m, load in enumerate(sorted(layer.loads, reverse=True), start=1):
        total += load
        best = max(best, Fraction(total, min(G, m + spare)))
    return best * layer.unit


def solve_uneven(
    layer: Layer, *, time_limit: float = 60.0, seed: int = 0, workers: int = 1
) -> Result:
    """Best placement under uneven split, for small layers under the global rule.

    Minimizes over x[e, r] in {0, 1} (e has a slot on r) and tokens f[e, r] <= w_e x[e, r]. The best
    makespan is a ratio with a denominator of at most G, so in units of 1 / lcm(1..G) all is
    integer. Exact, resting on CP-SAT's word where the optimum is above :func:`uneven_lower_bound`;
    the value is that of :func:`best_split`. ``Result.stage`` is ``uneven``.

    Raises:
        ValueError: the rule is not global, or the integers would be too large.
    """
    start = time.monotonic()
    scale = math.lcm(*range(1, layer.topology.num_ranks + 1))
    if layer.rule != Rule.GLOBAL:
        raise ValueError(f"rule={layer.rule}: uneven placements are solved under the global rule")
    if sum(layer.loads) * scale >= LARGEST_INTEGER:
        raise ValueError(
            f"total load {sum(layer.loads)} times lcm(1..num_ranks)={scale} exceeds "
            f"{LARGEST_INTEGER}: round the loads or use fewer ranks"
        )
    closed = uneven_lower_bound(layer)
    model, held = _uneven_model(layer, scale, closed / layer.unit)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit
    solver.parameters.random_seed = seed
    solver.parameters.num_workers = workers
    status = solver.solve(model)
    placement, objective, bound = None, None, closed
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        chosen = [[e for e in range(len(layer.loads)) if solver.value(row[e])] for row in held]
        placement = _filled(layer, chosen)
        objective = best_split(layer, placement).makespan
        bound = objective if status == cp_model.OPTIMAL else closed
    return Result(
        stage="uneven",
        backend="cp-sat",
        lower_bound=bound,
        objective=objective,
        placement=placement,
        bound_source="cp-sat" if bound > closed else "uneven",
        limit=None if status == cp_model.OPTIMAL else "time",
        runtime=time.monotonic() - start,
    )


def _uneven_model(
    layer: Layer, scale: int, bound: Fraction
) -> tuple[cp_model.CpModel, list[list[cp_model.IntVar]]]:
    """The model in units of 1 / scale; returns held[r][e] as well."""
    G, S = layer.topology.num_ranks, layer.topology.slots_per_rank
    experts, total = range(len(layer.loads)), sum(layer.loads) * scale
    model = cp_model.CpModel()
    makespan = model.new_int_var(math.ceil(bound * scale), total, "")
    held = [[model.new_bool_var("") for _ in experts] for _ in range(G)]
    sent = [[model.new_int_var(0, w * scale, "") for w in layer.loads] for _ in range(G)]
    for e, load in enumerate(layer.loads):
        model.add_bool_or(row[e] for row in held)
        model.add(sum(row[e] for row in sent) == load * scale)
        for r in range(G):
            model.add(sent[r][e] <= load * scale * held[r][e])
    for r in range(G):
        model.add(sum(held[r]) <= S)
        model.add(sum(sent[r]) <= makespan)
    # ranks are alike: let the heaviest expert be on the first one
    model.add(held[0][max(experts, key=layer.loads.__getitem__)] == 1)
    model.minimize(makespan)
    return model, held


def _filled(layer: Layer, chosen: list[list[int]]) -> tuple[int, ...]:
    """Slots of each rank, the free ones filled with a repetition, which changes no split."""
    size = layer.topology.slots_per_rank
    return tuple(e for held in chosen for e in (held + (held or [0])[:1] * size)[:size])
