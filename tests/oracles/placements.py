"""Every placement of a tiny layer, and the nested optima by their definition: least makespans."""

from fractions import Fraction
from functools import cache
from itertools import permutations

from eplb_opt import Layer, Rule, Topology
from eplb_opt.problem.validity import layer_violation
from solvers.dispatch import value
from tests.oracles.layers import all_placements

Slots = tuple[int, ...]


@cache
def placements(num_experts: int, topology: Topology, rule: Rule, spread: bool) -> list[Slots]:
    """All valid ones, up to the order of slots in a rank (and of ranks, under the global rule)."""
    size, ranks = topology.slots_per_rank, topology.num_ranks
    layer = Layer((1,) * num_experts, Fraction(1), topology, rule, spread_replicas=spread)
    found = set()
    for slots in all_placements(num_experts, ranks, size):
        chunks = [slots[i : i + size] for i in range(0, len(slots), size)]
        orders = permutations(chunks) if rule == Rule.HIERARCHICAL else [chunks]
        found |= {tuple(e for rank in order for e in rank) for order in orders}
    return sorted(slots for slots in found if layer_violation(layer, slots) is None)


def valid_placements(layer: Layer) -> list[Slots]:
    return placements(len(layer.loads), layer.topology, layer.rule, layer.spread_replicas)


def blocks(layer: Layer, slots: Slots) -> frozenset[frozenset[int]]:
    """The groups that share a node."""
    size, per_node = len(layer.groups[0]), layer.topology.slots_per_node
    nodes = (slots[i : i + per_node] for i in range(0, len(slots), per_node))
    return frozenset(frozenset(e // size for e in node) for node in nodes)


def counts(slots: Slots) -> tuple[int, ...]:
    return tuple(slots.count(e) for e in range(max(slots) + 1))


def optimum(layer: Layer) -> Fraction:
    return min(value(layer, slots).incumbent for slots in valid_placements(layer))


def nested_optima(layer: Layer, mine: Slots) -> list[Fraction]:
    """V_0 to V_5 of the placement ``mine``."""
    everywhere = placements(len(layer.loads), layer.topology, Rule.GLOBAL, layer.spread_replicas)
    ruled = valid_placements(layer)
    hierarchical = layer.rule == Rule.HIERARCHICAL
    same_groups = [s for s in ruled if not hierarchical or blocks(layer, s) == blocks(layer, mine)]
    same_counts = [s for s in same_groups if counts(s) == counts(mine)]
    mean = sum(layer.loads) * layer.unit / layer.topology.num_ranks
    sets = (everywhere, ruled, same_groups, same_counts, [mine])
    return [mean, *(min(value(layer, s).incumbent for s in found) for found in sets)]
