"""Exhaustive search in exact arithmetic, for tiny layers only."""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.topology import Topology


def make_layer(loads: list[int] | list[float], num_slots: int, num_ranks: int) -> Layer:
    return Instance([loads], Topology(num_slots, num_ranks)).layer(0)


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All tuples of ``parts`` positive integers with the given sum."""
    if parts == 1:
        yield (total,)
        return
    for first in range(1, total - parts + 2):
        for rest in compositions(total - first, parts - 1):
            yield (first, *rest)


def all_placements(num_experts: int, num_ranks: int, size: int) -> Iterator[tuple[int, ...]]:
    """All placements of a tiny layer, up to the order of ranks and of slots in a rank."""
    ranks = list(combinations_with_replacement(range(num_experts), size))
    for choice in combinations_with_replacement(ranks, num_ranks):
        slots = tuple(e for rank in choice for e in rank)
        if set(slots) == set(range(num_experts)):
            yield slots


def best_packing(items: tuple[Fraction, ...], size: int) -> Fraction:
    """Smallest makespan of descending ``items`` on ranks of exactly ``size`` slots."""

    @cache
    def search(ranks: tuple[tuple[Fraction, int], ...], position: int) -> Fraction:
        if position == len(items):
            return max(load for load, _ in ranks)
        options = {
            tuple(sorted((*ranks[:i], (load + items[position], used + 1), *ranks[i + 1 :])))
            for i, (load, used) in enumerate(ranks)
            if used < size
        }
        return min(search(option, position + 1) for option in options)

    return search(((Fraction(0), 0),) * (len(items) // size), 0)


def joint_optimum(layer: Layer) -> Fraction:
    """The optimal makespan in tokens under the global rule."""
    P, S = layer.topology.num_physical_experts, layer.topology.slots_per_rank
    values = []
    for counts in compositions(P, len(layer.loads)):
        replicas = [
            Fraction(w, c) for w, c in zip(layer.loads, counts, strict=True) for _ in range(c)
        ]
        values.append(best_packing(tuple(sorted(replicas, reverse=True)), S))
    return min(values) * layer.unit
