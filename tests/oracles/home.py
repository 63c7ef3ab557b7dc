"""Tiny layers under the rule ``home``, and their placements by definition."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations_with_replacement, permutations, product
from random import Random

from eplb_opt import Instance, Layer, Topology

Slots = tuple[int, ...]

SHAPES = [
    (4, 4, 2, 2, 2),
    (2, 4, 4, 2, 2),
    (4, 6, 2, 2, 4),
    (4, 6, 2, 2, 2),
    (4, 8, 4, 2, 2),
    (3, 6, 3, 3, 3),
    (2, 6, 2, 2, 2),
    (2, 6, 6, 2, 2),
    (4, 6, 6, 2, 2),
]
"""(experts, slots, ranks, nodes, groups)"""
LIMITS = [Fraction(0), Fraction(1, 20), Fraction(1, 10), Fraction(1, 4), Fraction(1, 2)]


def tiny_home_layer(random: Random, *, limited: bool = True, largest_shape: int = 8) -> Layer:
    """1 to 3 steps of small or wide loads, some zeros, some floats; half of them with a limit."""
    shapes = [shape for shape in SHAPES if shape[1] <= largest_shape]
    experts, slots, ranks, nodes, groups = random.choice(shapes)
    most, least = random.choice([3, 12, 60, 1000]), random.choice([0, 1])
    steps = [
        [random.choice([least, random.randint(1, most)]) for _ in range(experts)]
        for _ in range(random.choice([1, 1, 2, 3]))
    ]
    unit = 0.1 if random.random() < 0.1 else 1
    trace = [[[unit * w for w in step]] for step in steps]
    spread = random.random() < 0.25 and slots // ranks <= experts
    limit = random.choice([*LIMITS, *[Fraction(1)] * 4]) if limited else Fraction(1)
    topology = Topology(slots, ranks, nodes, groups)
    return Instance(
        trace, topology, rule="home", spread_replicas=spread, traffic_limit=limit
    ).layer(0)


def traffic_of_homes(layer: Layer, slots: Slots) -> list[Fraction]:
    """By definition, of each assignment of the groups to nodes with all experts at home."""
    topology, size = layer.topology, len(layer.groups[0])
    nodes = [p // topology.slots_per_node for p in range(len(slots))]
    places = [n for n in range(topology.num_nodes) for _ in range(topology.groups_per_node)]
    found = []
    for homes in {*permutations(places)}:
        if all((e, homes[e // size]) in zip(slots, nodes, strict=True) for e in {*slots}):
            away = [e for e, n in zip(slots, nodes, strict=True) if homes[e // size] != n]
            total = sum((Fraction(layer.loads[e], slots.count(e)) for e in away), Fraction(0))
            found.append(total / max(1, sum(layer.loads)))
    return found


def home_placements(layer: Layer) -> Iterator[tuple[Slots, Fraction]]:
    """All with homes, up to the order of slots in a rank, and their least traffic."""
    experts, topology = range(len(layer.loads)), layer.topology
    ranks = list(combinations_with_replacement(experts, topology.slots_per_rank))
    for filled in product(ranks, repeat=topology.num_ranks):
        slots = tuple(e for rank in filled for e in rank)
        if {*slots} == {*experts} and (found := traffic_of_homes(layer, slots)):
            yield slots, min(found)
