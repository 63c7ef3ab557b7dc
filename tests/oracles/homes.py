"""The rule ``home`` by its definition: all placements of a tiny layer, all homes, all shares."""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement, permutations

import numpy as np
from scipy.optimize import linprog

from eplb_opt import Layer

Ranks = tuple[tuple[int, ...], ...]


@cache
def assignments(num_groups: int, num_nodes: int) -> list[tuple[int, ...]]:
    """Homes of the groups, as many on each node, in lexicographic order."""
    per_node = num_groups // num_nodes
    return sorted(set(permutations([n for n in range(num_nodes) for _ in range(per_node)])))


@cache
def all_ranks(num_experts: int, num_ranks: int, size: int, num_nodes: int) -> list[Ranks]:
    """Every placement, up to the order of slots in a rank, of ranks in a node, and of nodes."""
    rank = list(combinations_with_replacement(range(num_experts), size))
    node = list(combinations_with_replacement(rank, num_ranks // num_nodes))
    found = (sum(chosen, ()) for chosen in combinations_with_replacement(node, num_nodes))
    return [ranks for ranks in found if len({e for r in ranks for e in r}) == num_experts]


def placements(layer: Layer) -> Iterator[Ranks]:
    topology = layer.topology
    yield from all_ranks(
        len(layer.loads), topology.num_ranks, topology.slots_per_rank, topology.num_nodes
    )


def homes(layer: Layer, ranks: Ranks) -> tuple[tuple[int, ...], Fraction] | None:
    """Those with the least traffic where replicas share alike, and the tokens served off home."""
    topology = layer.topology
    size, per_node = len(layer.groups[0]), topology.ranks_per_node
    where = [
        [g // per_node for g, held in enumerate(ranks) for f in held if f == e]
        for e in range(len(layer.loads))
    ]
    best = None
    for chosen in assignments(topology.num_groups, topology.num_nodes):
        if any(chosen[e // size] not in nodes for e, nodes in enumerate(where)):
            continue
        away = sum(
            Fraction(layer.loads[e] * sum(n != chosen[e // size] for n in nodes), len(nodes))
            for e, nodes in enumerate(where)
        )
        if best is None or away < best[1]:
            best = chosen, Fraction(away)
    return best


def even_makespan(loads: tuple[int, ...], ranks: Ranks) -> Fraction:
    """In load units, where replicas share alike."""
    count = [sum(held.count(e) for held in ranks) for e in range(len(loads))]
    return max(sum(Fraction(loads[e], count[e]) for e in held) for held in ranks)


def best_shares(layer: Layer, loads: tuple[int, ...], ranks: Ranks, home: tuple[int, ...]) -> float:
    """In load units the least makespan of any shares within the limit; a float."""
    pairs = [(e, g) for g, held in enumerate(ranks) for e in sorted(set(held))]
    per_node, size = layer.topology.ranks_per_node, len(layer.groups[0])
    cost = np.zeros(len(pairs) + 1)
    cost[-1] = 1
    limits = np.zeros((len(ranks) + 1, len(pairs) + 1))
    equal = np.zeros((len(loads), len(pairs) + 1))
    for i, (e, g) in enumerate(pairs):
        limits[g, i] = 1
        limits[-1, i] = home[e // size] != g // per_node
        equal[e, i] = 1
    limits[:-1, -1] = -1
    room = [*[0] * len(ranks), float(layer.traffic_limit * sum(loads))]
    return float(linprog(cost, limits, room, equal, loads, method="highs").fun)


def within_limit(layer: Layer) -> Iterator[Ranks]:
    """The placements under ``even`` dispatch: those with homes that keep the limit of traffic."""
    allowed = layer.traffic_limit * sum(layer.loads)
    for ranks in placements(layer):
        found = homes(layer, ranks)
        if found is not None and found[1] <= allowed:
            yield ranks


def even_optimum(layer: Layer) -> Fraction:
    """In load units, of the summed loads under ``even`` dispatch and the limit."""
    return min(even_makespan(layer.loads, ranks) for ranks in within_limit(layer))


def optimal_optimum(layer: Layer) -> float:
    """In load units, of the summed loads under ``optimal`` dispatch and the limit; a float."""
    found = ((ranks, homes(layer, ranks)) for ranks in placements(layer))
    return min(
        best_shares(layer, layer.loads, ranks, home[0]) for ranks, home in found if home is not None
    )
