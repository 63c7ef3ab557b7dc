"""Brute force in exact arithmetic: every assignment of items to ranks, every vector of counts."""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import combinations, pairwise
from math import lcm

from eplb_opt.problem.layer import Layer


def best_packing(items, num_ranks, experts=None, spread=False):
    """Least makespan over all packings on equal ranks; None if there is none."""
    experts = range(len(items)) if experts is None else experts
    order = sorted(zip(items, experts, strict=True), reverse=True)
    slots = len(items) // num_ranks

    @cache
    def search(ranks, position):
        """The rest on ranks of (load, what they hold); equal ranks are one."""
        if position == len(order):
            return max(load for load, _ in ranks)
        item, expert = order[position]
        label = expert if spread else 0
        choices = {
            tuple(sorted((*ranks[:i], (load + item, (*held, label)), *ranks[i + 1 :])))
            for i, (load, held) in enumerate(ranks)
            if len(held) < slots and not (spread and label in held)
        }
        found = (search(choice, position + 1) for choice in choices)
        return min((makespan for makespan in found if makespan is not None), default=None)

    return search(((0, ()),) * num_ranks, 0)


def count_vectors(num_experts, num_slots) -> Iterator[tuple[int, ...]]:
    """All counts of at least one that fill the slots."""
    for cuts in combinations(range(1, num_slots), num_experts - 1):
        bounds = (0, *cuts, num_slots)
        yield tuple(b - a for a, b in pairwise(bounds))


def best_joint(loads, num_slots, num_ranks, spread=False):
    """Least makespan over all counts and packings; None if there is none."""
    makespans = []
    for counts in count_vectors(len(loads), num_slots):
        experts = [e for e, c in enumerate(counts) for _ in range(c)]
        scale = lcm(*counts)  # integers are faster than fractions
        items = [loads[e] * (scale // counts[e]) for e in experts]
        value = best_packing(items, num_ranks, experts, spread)
        if value is not None:
            makespans.append(Fraction(value, scale))
    return min(makespans, default=None)


def joint_optimum(layer: Layer) -> Fraction:
    """The optimal makespan in tokens under the global rule."""
    machine = layer.topology
    return best_joint(layer.loads, machine.num_physical_experts, machine.num_ranks) * layer.unit
