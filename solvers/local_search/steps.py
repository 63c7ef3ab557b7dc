"""Where a search for a placement over several steps starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from eplb_opt import bounds
from eplb_opt.bounds import Bound
from eplb_opt.bounds.closed_form import threshold_counts
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost, Dispatch
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import layer_violation, over_limit
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.local_search.start import largest_first


def first_over_steps(
    layer: Layer,
    cost: Cost,
    initial: Sequence[int] | None = None,
    counts: Sequence[int] | None = None,
) -> Bracket:
    """A proven bound for every constant placement, and the best of ``initial`` [P], the greedy
    placement of the summed loads and a ring of copies; with ``counts`` [E] greedy for these.

    Under the rule ``home`` these are hierarchical. There is no placement where no hierarchical one
    is spread, and replicas of the lightest experts are beyond the limit of traffic.
    """
    starts = [] if initial is None else [tuple(initial)]
    starts += list(_greedy(layer, cost, counts))
    found = [value(layer, p, *cost) for p in starts if is_solution(layer, p, cost)]
    return Bracket.start(bound_over_steps(layer, cost, counts), found)


def is_solution(layer: Layer, phy2log: Sequence[int], cost: Cost) -> bool:
    """Whether a placement is valid, and under ``even`` dispatch within the limit of traffic."""
    return layer_violation(layer, phy2log) is None and within_limit(layer, phy2log, cost)


def within_limit(layer: Layer, phy2log: Sequence[int], cost: Cost) -> bool:
    """Whether a valid placement is a solution; other dispatch can serve all tokens at home."""
    return cost.dispatch != Dispatch.EVEN or over_limit(layer, phy2log) is None


def ceiling(layer: Layer, cost: Cost, known: Bracket) -> Fraction:
    """What a placement has to be below to be better: of any, with all tokens on one rank, at
    first.
    """
    if known.value is not None:
        return known.value
    totals = [sum(step) * layer.unit for step in cost.objective.loads_of(layer).tolist()]
    return cost.objective.over(totals) + layer.unit


def bound_over_steps(layer: Layer, cost: Cost, counts: Sequence[int] | None = None) -> Bound:
    """What an argument proves in no time: with ``counts`` for these, else wait-and-see."""
    if counts is None:
        return bounds.wait_and_see(layer, *cost)
    # placements under the hierarchical rule are some of these
    return bounds.of(layer.without_nodes(), *cost, counts=counts)


def as_groups(layer: Layer) -> Layer:
    """The layer under its rule for groups; the global one is hierarchical with one node and one
    group.
    """
    if layer.rule != Rule.GLOBAL:
        return layer
    return replace(layer.without_nodes(), rule=Rule.HIERARCHICAL)


def _greedy(layer: Layer, cost: Cost, counts: Sequence[int] | None) -> Iterator[tuple[int, ...]]:
    """Placements node by node, under the hierarchical rule if there are nodes."""
    layer = replace(as_groups(layer), rule=Rule.HIERARCHICAL)
    if layer.spread_replicas and layer.topology.slots_per_rank * layer.topology.num_nodes > len(
        layer.loads
    ):
        yield _lightest_everywhere(layer)
        return
    nodes = [
        (layer.experts_of(block), layer.node_problem(block))
        for block in _largest_groups_first(layer)
    ]
    inside = (
        [[counts[e] for e in experts] for experts, _ in nodes]
        if counts is not None
        else [threshold_counts(node) for _, node in nodes]
    )
    rules = [[largest_first(node, own) for (_, node), own in zip(nodes, inside, strict=True)]]
    if cost.dispatch != Dispatch.EVEN:
        rules.append([_ring(node) for _, node in nodes])
    for placed in rules:
        found = zip(nodes, placed, strict=True)
        yield tuple(experts[e] for (experts, _), phy2log in found for e in phy2log)


def _lightest_everywhere(layer: Layer) -> tuple[int, ...]:
    """All experts of a node's groups on each of its ranks, and the lightest others in the slots
    that are left: different experts on every rank, and nearly the least traffic of such.
    """
    topology = layer.topology
    lightest = sorted(range(len(layer.loads)), key=layer.loads.__getitem__)
    phy2log: list[int] = []
    for block in _largest_groups_first(layer):
        own = layer.experts_of(block)
        others = [e for e in lightest if e not in own]
        phy2log += [*own, *others][: topology.slots_per_rank] * topology.ranks_per_node
    return tuple(phy2log)


def _largest_groups_first(layer: Layer) -> list[list[int]]:
    """The groups of each node: largest first, each to the lightest node with room."""
    topology = layer.topology
    totals = [sum(layer.loads[e] for e in group) for group in layer.groups]
    blocks: list[list[int]] = [[] for _ in range(topology.num_nodes)]
    for k in sorted(range(len(totals)), key=lambda k: -totals[k]):
        room = [block for block in blocks if len(block) < topology.groups_per_node]
        min(room, key=lambda block: sum(totals[j] for j in block)).append(k)
    return [sorted(block) for block in blocks]


def _ring(layer: Layer) -> tuple[int, ...]:
    """A ring of copies, as in LPLB's graphs: experts once each by LPT, then in turns to every rank
    g the heaviest expert that it does not hold of rank g - 1; then g - 3, g - 5, .., g - 2, ...
    """
    G, S, E = layer.topology.num_ranks, layer.topology.slots_per_rank, len(layer.loads)
    ranks: list[list[int]] = [[] for _ in range(G)]
    for e in sorted(range(E), key=lambda e: -layer.loads[e]):
        room = [rank for rank in ranks if len(rank) < -(-E // G)]
        min(room, key=lambda rank: sum(layer.loads[f] for f in rank)).append(e)
    own = [tuple(rank) for rank in ranks]
    distances = [*range(1, G, 2), *range(2, G, 2)]
    for turn in range(S):
        for g, rank in enumerate(ranks):
            sources = (own[(g - d) % G] for d in distances[turn:] + distances[:turn])
            copies = (e for source in sources for e in source if e not in rank)
            if len(rank) < S:
                rank.append(next(copies, rank[0] if rank else 0))
    return tuple(e for rank in ranks for e in rank)
