"""Every placement of a tiny layer, looked at one by one: the oracle of the tests.

It shares no formula with the bounds and solvers it checks: replica counts by composition, ranks by
enumeration, groups by permutation; only values are computed by the same function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain, combinations, combinations_with_replacement, permutations, product

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, Cost, Dispatch
from eplb_opt.problem.topology import Rule
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.options import Budget, OutOfBudgetError

LARGEST = 12
"""Slots beyond which there are too many placements."""
LARGEST_OVER_STEPS = 9
"""The same where every placement is valued at several steps, and nodes are not apart."""


def solve_joint(
    layer: Layer, budget: Budget | None = None, initial: tuple[int, ...] | None = None
) -> Bracket:
    """The optimal placement of a layer under its rule, by enumeration, ``initial`` [P] first; the
    bound is 0 if a limit ends it.

    Raises:
        ValueError: the layer has more than 12 slots.
    """
    placements = _placements(layer)
    return _best(layer, placements if initial is None else chain([initial], placements), budget)


def solve_packing(layer: Layer, counts: Sequence[int], budget: Budget | None = None) -> Bracket:
    """The optimal packing of given ``counts`` [E] under the global rule, by enumeration."""
    return _best(layer, _packings(layer, counts), budget)


def solve_over_steps(
    layer: Layer,
    cost: Cost,
    budget: Budget | None = None,
    initial: tuple[int, ...] | None = None,
    counts: Sequence[int] | None = None,
) -> Bracket:
    """The optimal placement over several steps under the layer's rule, by enumeration, ``initial``
    [P] first; with ``counts`` [E] of those that have them. All nodes together, since they meet in
    the makespan of every step. Infeasible if there is none within a limit of traffic.

    Raises:
        ValueError: the layer has more than 9 slots.
    """
    placements = (
        phy2log
        for phy2log in _all_placements(layer, cost)
        if counts is None or all(phy2log.count(e) == c for e, c in enumerate(counts))
    )
    first = [] if initial is None else [initial]
    return _best(layer, chain(first, placements), budget, cost, LARGEST_OVER_STEPS)


def _best(
    layer: Layer,
    placements: Iterator[tuple[int, ...]],
    budget: Budget | None,
    cost: Cost = EVEN_SUM,
    largest: int = LARGEST,
) -> Bracket:
    if layer.topology.num_physical_experts > largest:
        num_slots = layer.topology.num_physical_experts
        raise ValueError(
            f"num_physical_experts={num_slots} is too many for brute force (at most {largest})"
        )
    best, budget = Bracket(None, None, Fraction(0), "enumeration"), budget or Budget()
    least: Fraction | None = None  # under ``fixed`` dispatch a value may be known as a bracket only
    try:
        for phy2log in placements:
            if _spread(layer, phy2log):
                found = value(layer, phy2log, *cost)
                best = best.with_placement(found)
                least = found.bound if least is None else min(least, found.bound)
            if best.placement is not None:
                budget.spend(1)
    except OutOfBudgetError:
        return replace(best, limit=budget.limit)
    except KeyboardInterrupt:
        budget.interrupt()
        return replace(best, limit=budget.limit)
    if least is None:
        return best.without_better("enumeration")
    return best.with_bound(least, "enumeration")


def _spread(layer: Layer, phy2log: tuple[int, ...]) -> bool:
    S = layer.topology.slots_per_rank
    ranks = (phy2log[i : i + S] for i in range(0, len(phy2log), S))
    return not layer.spread_replicas or all(len(set(rank)) == S for rank in ranks)


def _placements(layer: Layer) -> Iterator[tuple[int, ...]]:
    if layer.rule == Rule.GLOBAL:
        for counts in _compositions(layer.topology.num_physical_experts, layer.num_logical_experts):
            yield from _packings(layer, counts)
        return
    per_node = layer.topology.groups_per_node
    for order in permutations(range(layer.topology.num_groups)):
        blocks = [order[i : i + per_node] for i in range(0, len(order), per_node)]
        if any(list(block) != sorted(block) for block in blocks):
            continue
        nodes = [_node_placements(layer, block) for block in blocks]
        for choice in product(*nodes):
            yield tuple(e for inside in choice for e in inside)


def _whole_placements(layer: Layer) -> Iterator[tuple[int, ...]]:
    """All placements of all nodes together, up to the order of ranks in a node; for the dealing of
    groups to nodes, up to the order of nodes.
    """
    if layer.rule == Rule.GLOBAL:
        yield from _placements(layer)
        return
    per_node = layer.topology.groups_per_node
    for order in permutations(range(layer.topology.num_groups)):
        blocks = [order[i : i + per_node] for i in range(0, len(order), per_node)]
        if blocks != sorted(tuple(sorted(block)) for block in blocks):
            continue
        experts = [layer.experts_of(block) for block in blocks]
        inside = [list(_placements(layer.node_problem(block))) for block in blocks]
        for choice in product(*inside):
            nodes = zip(experts, choice, strict=True)
            yield tuple(own[e] for own, phy2log in nodes for e in phy2log)


def _all_placements(layer: Layer, cost: Cost) -> Iterator[tuple[int, ...]]:
    """All placements of all nodes together that are solutions of the layer at a cost."""
    if layer.rule != Rule.HOME:
        yield from _whole_placements(layer)
        return
    shares = cost.dispatch != Dispatch.EVEN
    # of homes with equal traffic the first are limited, so the order of nodes may count
    alike = layer.traffic_limit == 1 or not shares
    for phy2log in _home_placements(layer, alike):
        if shares or _least_traffic(layer, phy2log) <= layer.traffic_limit:
            yield phy2log


def _home_placements(layer: Layer, nodes_alike: bool) -> Iterator[tuple[int, ...]]:
    """All with every expert at home, up to the order of ranks in a node, and of nodes if these are
    ``nodes_alike``.
    """
    topology, experts = layer.topology, range(len(layer.loads))
    ranks = list(combinations_with_replacement(experts, topology.slots_per_rank))
    contents = list(combinations_with_replacement(ranks, topology.ranks_per_node))
    nodes = [tuple(chain(*content)) for content in contents]
    complete = [
        {k for k, group in enumerate(layer.groups) if {*group} <= {*held}} for held in nodes
    ]
    useful = [i for i, groups in enumerate(complete) if len(groups) >= topology.groups_per_node]
    orders = combinations_with_replacement(useful, topology.num_nodes)
    for chosen in orders if nodes_alike else product(useful, repeat=topology.num_nodes):
        if any(
            all(k in complete[chosen[n]] for k, n in enumerate(homes))
            for homes in _assignments(layer)
        ):
            yield tuple(e for i in chosen for e in nodes[i])


def _assignments(layer: Layer) -> list[tuple[int, ...]]:
    """All ways to give K/N groups to each node: [K] the node of each."""
    topology = layer.topology
    places = [n for n in range(topology.num_nodes) for _ in range(topology.groups_per_node)]
    return sorted({*permutations(places)})


def _least_traffic(layer: Layer, phy2log: tuple[int, ...]) -> Fraction:
    """Over the homes that a placement may have."""
    per_node, found = layer.topology.slots_per_node, list[Fraction]()
    size, total = len(layer.groups[0]), max(1, sum(layer.loads))
    held = {(e, p // per_node) for p, e in enumerate(phy2log)}
    for homes in _assignments(layer):
        if all((e, homes[e // size]) in held for e in range(len(layer.loads))):
            away = (
                Fraction(layer.loads[e], phy2log.count(e))
                for p, e in enumerate(phy2log)
                if homes[e // size] != p // per_node
            )
            found.append(sum(away, Fraction(0)) / total)
    return min(found)


def _node_placements(layer: Layer, block: Sequence[int]) -> list[tuple[int, ...]]:
    """The best placement inside a node, as experts of the whole layer: nodes do not influence each
    other.
    """
    experts = layer.experts_of(block)
    best = solve_joint(layer.node_problem(block))
    return [tuple(experts[i] for i in best.phy2log)]


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    for cuts in combinations(range(1, total), parts - 1):
        yield tuple(b - a for a, b in zip((0, *cuts), (*cuts, total), strict=True))


def _packings(layer: Layer, counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    items = [e for e, count in enumerate(counts) for _ in range(count)]
    yield from _fill(items, layer.topology.slots_per_rank)


def _fill(items: list[int], S: int) -> Iterator[tuple[int, ...]]:
    """All ways to split ``items`` into ranks of S; the first item always opens the next rank."""
    if not items:
        yield ()
        return
    for others in {tuple(sorted(c)) for c in combinations(items[1:], S - 1)}:
        rest = list(items[1:])
        for e in others:
            rest.remove(e)
        for tail in _fill(rest, S):
            yield (items[0], *others, *tail)
