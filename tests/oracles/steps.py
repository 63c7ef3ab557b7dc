"""Costs over several steps by their definitions, in exact arithmetic, for tiny layers.

Nothing here uses the code under test: makespans by enumeration of sets of ranks, ``fixed`` dispatch
by an exact simplex method, optima by listing placements.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations, combinations_with_replacement, product

from hypothesis import strategies as st

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.problem.validity import layer_violation
from tests.oracles.layers import FLOATS, HALVES

Slots = tuple[int, ...]
Steps = list[list[Fraction]]

OBJECTIVES = ["sum", "mean", "worst", "cvar:0.4", "cvar:1/3", "cvar:1", "cvar:0.01"]
DISPATCHES = ["even", "fixed", "optimal"]
SHAPES = [(3, 4, 2), (4, 4, 2), (1, 4, 2), (2, 6, 2), (3, 3, 3), (4, 6, 3), (5, 6, 3), (3, 4, 4)]
"""(experts, slots, ranks)"""
NODES = [(4, 4, 2, 2, 2), (2, 4, 4, 2, 2), (4, 8, 4, 2, 2), (4, 6, 2, 2, 4), (6, 8, 4, 2, 2)]
"""(experts, slots, ranks, nodes, groups)"""


def steps_of(layer: Layer, objective: str = "mean") -> Steps:
    """[T, E] tokens whose makespans count: for ``sum`` one step."""
    steps = [[int(load) * layer.unit for load in row] for row in layer.steps.tolist()]
    return [[sum(column) for column in zip(*steps, strict=True)]] if objective == "sum" else steps


def rank_sets(slots: Slots, num_ranks: int) -> dict[int, set[int]]:
    """The ranks that hold each expert."""
    size = len(slots) // num_ranks
    return {e: {p // size for p, held in enumerate(slots) if held == e} for e in set(slots)}


def even_makespans(steps: Steps, slots: Slots, num_ranks: int) -> list[Fraction]:
    size = len(slots) // num_ranks
    ranks = [slots[i : i + size] for i in range(0, len(slots), size)]
    return [
        max(sum((row[e] / slots.count(e) for e in rank), Fraction(0)) for rank in ranks)
        for row in steps
    ]


def optimal_makespans(steps: Steps, slots: Slots, num_ranks: int) -> list[Fraction]:
    """max over sets U of ranks of w{e: all ranks of e are in U} / |U|."""
    held = rank_sets(slots, num_ranks)
    inside = [
        (m, [e for e, ranks in held.items() if ranks <= set(chosen)])
        for m in range(1, num_ranks + 1)
        for chosen in combinations(range(num_ranks), m)
    ]
    return [max(sum((row[e] for e in F), Fraction(0)) / m for m, F in inside) for row in steps]


def over(makespans: Sequence[Fraction], objective: str) -> Fraction:
    """One number from the makespans of the steps."""
    falling, number = sorted(makespans, reverse=True), len(makespans)
    if objective == "worst":
        return falling[0]
    counted = number * Fraction(objective.partition(":")[2] or 1)
    weights = [min(Fraction(1), max(Fraction(0), counted - i)) for i in range(number)]
    return sum((w * m for w, m in zip(weights, falling, strict=True)), Fraction(0)) / counted


def fixed_value(steps: Steps, slots: Slots, num_ranks: int, objective: str) -> Fraction:
    """The least cost of shares that are the same at every step: the optimum of the linear program

    max sum of v_e  with  v_e <= sum over t of p[t, g] w[t, e] for all ranks g of e,
    sum over t, g of p[t, g] <= 1, sum over g of p[t, g] <= 1 / (a T), all >= 0.
    """
    T, G, held = len(steps), num_ranks, rank_sets(slots, num_ranks)
    experts = [e for e in held if any(row[e] for row in steps)]
    columns = len(experts) + T * G
    rows, limits = [], []
    for i, e in enumerate(experts):
        for g in held[e]:
            row = [Fraction(0)] * columns
            row[i] = Fraction(1)
            for t in range(T):
                row[len(experts) + t * G + g] = -steps[t][e]
            rows.append(row)
            limits.append(Fraction(0))
    for t in range(T):
        row = [Fraction(0)] * columns
        row[len(experts) + t * G : len(experts) + (t + 1) * G] = [Fraction(1)] * G
        rows.append(row)
        share = Fraction(objective.partition(":")[2] or 1)
        limits.append(Fraction(1) if objective in ("sum", "worst") else 1 / (share * T))
    rows.append([Fraction(0)] * len(experts) + [Fraction(1)] * (T * G))
    limits.append(Fraction(1))
    gains = [Fraction(1)] * len(experts) + [Fraction(0)] * (T * G)
    return maximize(rows, limits, gains)


def maximize(rows: list[list[Fraction]], limits: list[Fraction], gains: list[Fraction]) -> Fraction:
    """max gains . x with rows . x <= limits, x >= 0, limits >= 0, by the simplex method.

    Bland's rule (Math. of Operations Research 2 (1977) 103), so that it ends.
    """
    m, n = len(rows), len(gains)
    table = [
        [*row, *(Fraction(int(i == k)) for k in range(m)), limits[i]] for i, row in enumerate(rows)
    ]
    cost = [*(-gain for gain in gains), *[Fraction(0)] * (m + 1)]
    basis = list(range(n, n + m))
    while (enter := next((j for j in range(n + m) if cost[j] < 0), None)) is not None:
        ratios = [
            (table[i][-1] / table[i][enter], basis[i], i) for i in range(m) if table[i][enter] > 0
        ]
        leave = min(ratios)[2]
        pivot = table[leave][enter]
        table[leave] = [value / pivot for value in table[leave]]
        for row in [*(table[i] for i in range(m) if i != leave), cost]:
            factor = row[enter]
            if factor:
                row[:] = [a - factor * b for a, b in zip(row, table[leave], strict=True)]
        basis[leave] = enter
    return cost[-1]


def exact_value(layer: Layer, slots: Slots, objective: str, dispatch: str) -> Fraction:
    """What the placement costs, in tokens."""
    steps, ranks = steps_of(layer, objective), layer.topology.num_ranks
    if dispatch == "fixed":
        return fixed_value(steps, slots, ranks, objective)
    makespans = even_makespans if dispatch == "even" else optimal_makespans
    return over(makespans(steps, slots, ranks), objective)


def all_step_placements(layer: Layer) -> list[Slots]:
    """Every valid placement of a tiny layer under its rule and ``spread_replicas``, up to the order
    of slots in a rank.
    """
    return _placements(len(layer.loads), layer.topology, layer.rule, layer.spread_replicas)


def distinct_placements(layer: Layer) -> list[Slots]:
    """One of all that differ only in the order of nodes, and of ranks in a node: they cost the
    same.
    """
    per_node = layer.topology.ranks_per_node if layer.rule == Rule.HIERARCHICAL else None
    per_node, size = per_node or layer.topology.num_ranks, layer.topology.slots_per_rank

    def ordered(slots: Slots) -> bool:
        ranks = [slots[i : i + size] for i in range(0, len(slots), size)]
        nodes = [ranks[i : i + per_node] for i in range(0, len(ranks), per_node)]
        return nodes == sorted(nodes) and all(node == sorted(node) for node in nodes)

    return [slots for slots in all_step_placements(layer) if ordered(slots)]


@cache
def _placements(num_experts: int, topology: Topology, rule: Rule, spread: bool) -> list[Slots]:
    layer = Layer((1,) * num_experts, Fraction(1), topology, rule, spread_replicas=spread)
    ranks = list(combinations_with_replacement(range(num_experts), topology.slots_per_rank))
    filled = product(ranks, repeat=topology.num_ranks)
    listed = (tuple(e for rank in choice for e in rank) for choice in filled)
    return [slots for slots in listed if layer_violation(layer, slots) is None]


def optimum(layer: Layer, objective: str, dispatch: str) -> Fraction:
    """The least cost of a constant placement, by listing all of them."""
    return min(
        exact_value(layer, slots, objective, dispatch) for slots in distinct_placements(layer)
    )


def _rows(num_experts: int) -> st.SearchStrategy[list[list[float]]]:
    """1 to 4 steps, all of one family of loads: few values for ties, zeros, floats, steps without
    load.
    """

    def trace(loads: st.SearchStrategy[float]) -> st.SearchStrategy[list[list[float]]]:
        row = st.lists(loads, min_size=num_experts, max_size=num_experts)
        return st.lists(
            st.one_of(row, row, row, st.just([0] * num_experts)), min_size=1, max_size=4
        )

    return st.one_of(
        trace(st.integers(0, 3)), trace(st.integers(0, 60)), trace(HALVES), trace(FLOATS)
    )


@st.composite
def tiny_traces(
    draw: st.DrawFn, hierarchical: bool | None = None, spread: bool | None = None
) -> Layer:
    """Layers of 1 to 4 steps; the rule and ``spread_replicas`` as given, or drawn where None."""
    shapes = [*(NODES if hierarchical is not False else ()), *(SHAPES if not hierarchical else ())]
    experts, num_slots, ranks, *nodes = draw(st.sampled_from(shapes))
    topology = Topology(num_slots, ranks, *nodes)
    spread = draw(st.booleans()) if spread is None else spread
    fits = topology.slots_per_rank <= experts // topology.num_nodes
    trace = draw(_rows(experts))
    return Instance([[row] for row in trace], topology, spread_replicas=spread and fits).layer(0)


@st.composite
def placed_traces(
    draw: st.DrawFn, hierarchical: bool | None = None, spread: bool | None = None
) -> tuple[Layer, Slots]:
    """A tiny trace and a valid placement of it."""
    layer = draw(tiny_traces(hierarchical, spread))
    return layer, draw(st.sampled_from(all_step_placements(layer)))


def each_cost() -> Iterator[tuple[str, str]]:
    """Every objective with every dispatch rule."""
    return product(OBJECTIVES, DISPATCHES)
