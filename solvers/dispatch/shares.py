"""How the tokens of one step are shared best.

By max-flow min-cut the best makespan of a placement in one step is

    max over sets F of experts of  w(F) / |ranks that hold an expert of F|.

References: Hall's theorem for flows; Dinkelbach, Management Science 13 (1967) 492 (Newton steps on
the ratio).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from eplb_opt.problem.layer import Layer


@dataclass(frozen=True)
class BestShares:
    """The best split of a placement, and the proof that none is better.

    Attributes:
        makespan: in tokens; equals the load of ``critical`` over the number of ranks that hold it.
        critical: experts F whose ratio is the makespan; none where a limit of traffic holds it up.
        tokens: tokens[e][r] of expert e that rank r serves, without zeros; sums to the load of e.
    """

    makespan: Fraction
    critical: frozenset[int]
    tokens: tuple[dict[int, Fraction], ...]


def best_shares_anywhere(layer: Layer, phy2log: Sequence[int]) -> BestShares:
    """The token split of ``phy2log`` [P] that minimizes the largest rank load, at home or not.

    Exact in integers of any size. Newton steps: a makespan that is too small leaves a cut F, whose
    ratio is the next trial; at most G steps, each a maximum flow of O(E * P^2) in the worst case.

    Raises:
        ValueError: ``phy2log`` has not P entries, or an expert with load has no slot.
    """
    ranks = _ranks_of(layer, phy2log)
    G = layer.topology.num_ranks
    flow, cut = newton_steps(layer.loads, ranks, frozenset(range(G)), G)
    critical = frozenset(e for e, held in enumerate(ranks) if held and held <= cut)
    makespan = Fraction(load_inside(layer.loads, ranks, cut), len(cut))
    unit = layer.unit / makespan.denominator
    tokens = tuple({r: f * unit for r, f in row.items() if f} for row in flow)
    return BestShares(makespan * layer.unit, critical, tokens)


def newton_steps(
    loads: Sequence[int], ranks: Sequence[set[int]], start: frozenset[int], num_ranks: int
) -> tuple[list[dict[int, int]], frozenset[int]]:
    """A critical set U of ranks, and what each expert sends to each of its ranks, in units of 1 /
    the denominator of ``load_inside / |U|``.

    ``start`` is a set of ranks whose ratio is at least the mean.
    """
    cut = start
    while True:
        room = Fraction(load_inside(loads, ranks, cut), len(cut))
        supply = [load * room.denominator for load in loads]
        flow, unserved = _route(supply, ranks, room.numerator, num_ranks)
        if not unserved:
            return flow, cut
        cut = frozenset().union(*(ranks[e] for e in unserved))


def load_inside(loads: Sequence[int], ranks: Sequence[set[int]], cut: frozenset[int]) -> int:
    """Of the experts whose ranks are all in ``cut``."""
    return sum(load for load, held in zip(loads, ranks, strict=True) if load and held <= cut)


def check_slots(layer: Layer, phy2log: Sequence[int]) -> None:
    """Raise ValueError if there are not P entries."""
    P = layer.topology.num_physical_experts
    if len(phy2log) != P:
        raise ValueError(f"phy2log has {len(phy2log)} entries, expected num_physical_experts={P}")


def _ranks_of(layer: Layer, phy2log: Sequence[int]) -> list[set[int]]:
    check_slots(layer, phy2log)
    S = layer.topology.slots_per_rank
    ranks: list[set[int]] = [set() for _ in layer.loads]
    for slot, expert in enumerate(phy2log):
        ranks[expert].add(slot // S)
    for expert, load in enumerate(layer.loads):
        if load and not ranks[expert]:
            raise ValueError(f"expert {expert} has load but no slot: give every expert a replica")
    return ranks


def _route(
    supply: list[int], ranks: Sequence[set[int]], room: int, num_ranks: int
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


Vertex = tuple[str, int]


def _search(
    left: list[int], space: list[int], flow: list[dict[int, int]]
) -> tuple[Vertex | None, dict[Vertex, Vertex], set[int]]:
    """Breadth-first from experts with supply left to a rank with space; experts reached."""
    served: list[list[int]] = [[] for _ in space]
    for e, row in enumerate(flow):
        for r, amount in row.items():
            if amount:
                served[r].append(e)
    seen = {e for e, amount in enumerate(left) if amount}
    queue, came_from = deque(sorted(seen)), dict[Vertex, Vertex]()
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
