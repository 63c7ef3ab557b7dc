"""Tiny layers, drawn and listed, for exhaustive search in exact arithmetic."""

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

from hypothesis import strategies as st

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.topology import Topology

WHOLE = st.integers(0, 60)
"""Loads with zeros and ties."""
WIDE = st.one_of(st.integers(0, 6), st.integers(0, 4096), st.just(0))
HALVES = st.floats(0, 9, width=16)
"""Floats of few bits: all backends scale them to integers."""
FLOATS = st.one_of(
    st.floats(0, 8, allow_subnormal=False), st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 1e6, 2.5])
)


def make_layer(loads: list[int] | list[float], num_slots: int, num_ranks: int) -> Layer:
    return Instance([loads], Topology(num_slots, num_ranks)).layer(0)


def rows(num_experts: int, *families: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    """Loads of one layer, all from one family."""
    drawn = (st.lists(f, min_size=num_experts, max_size=num_experts) for f in families)
    return st.one_of(*drawn)


@st.composite
def tiny_layers(
    draw: st.DrawFn,
    shapes: Sequence[tuple[int, int]],
    *families: st.SearchStrategy[float],
    most_experts: int = 12,
) -> Layer:
    """Layers under the global rule on machines of (ranks, slots per rank)."""
    ranks, size = draw(st.sampled_from(shapes))
    experts = draw(st.integers(1, min(ranks * size, most_experts)))
    return make_layer(draw(rows(experts, *(families or (WHOLE,)))), ranks * size, ranks)


def fill(num_experts: int, num_slots: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Placements of one layer: every expert, and drawn replicas, in any order."""
    more = num_slots - num_experts
    extra = st.lists(st.integers(0, num_experts - 1), min_size=more, max_size=more)
    return extra.flatmap(lambda e: st.permutations([*range(num_experts), *e])).map(tuple)


def all_placements(num_experts: int, num_ranks: int, size: int) -> Iterator[tuple[int, ...]]:
    """All placements of a tiny layer, up to the order of ranks and of slots in a rank."""
    ranks = list(combinations_with_replacement(range(num_experts), size))
    for choice in combinations_with_replacement(ranks, num_ranks):
        slots = tuple(e for rank in choice for e in rank)
        if set(slots) == set(range(num_experts)):
            yield slots
