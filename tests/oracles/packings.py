"""Brute force in exact arithmetic: every assignment of items to ranks, every vector of counts."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, pairwise


def best_packing(items, num_ranks, experts=None, spread=False):
    """Least largest rank sum over all packings on equal ranks; None if there is none."""
    experts = range(len(items)) if experts is None else experts
    return _pack(tuple(zip(items, experts, strict=True)), len(items) // num_ranks, spread)


def _pack(items, slots, spread):
    if not items:
        return 0
    best = None
    first, rest = items[0], items[1:]
    for others in combinations(range(len(rest)), slots - 1):
        rank = [first, *(rest[i] for i in others)]
        if spread and len({e for _, e in rank}) < slots:
            continue
        left = tuple(x for i, x in enumerate(rest) if i not in others)
        below = _pack(left, slots, spread)
        if below is not None:
            value = max(sum(w for w, _ in rank), below)
            best = value if best is None else min(best, value)
    return best


def count_vectors(num_experts, num_slots) -> Iterator[tuple[int, ...]]:
    """All counts of at least one that fill the slots."""
    for cuts in combinations(range(1, num_slots), num_experts - 1):
        bounds = (0, *cuts, num_slots)
        yield tuple(b - a for a, b in pairwise(bounds))


def best_joint(loads, num_slots, num_ranks, spread=False):
    """Least makespan over all counts and packings; None if there is none."""
    best = None
    for counts in count_vectors(len(loads), num_slots):
        experts = [e for e, c in enumerate(counts) for _ in range(c)]
        items = [Fraction(loads[e], counts[e]) for e in experts]
        value = best_packing(items, num_ranks, experts, spread)
        if value is not None:
            best = value if best is None else min(best, value)
    return best
