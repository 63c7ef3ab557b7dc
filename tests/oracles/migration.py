"""The fewest transfers by enumeration in exact arithmetic, for tiny layers."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations_with_replacement, product

import numpy as np
from hypothesis import strategies as st

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.topology import Topology
from eplb_opt.problem.transfer import count_transfers
from eplb_opt.problem.validity import layer_violation, over_limit
from solvers.dispatch import value
from tests.oracles.layers import FLOATS, fill, make_layer, rows

Phy2Log = tuple[int, ...]
SHAPES = [(3, 4, 2), (4, 6, 3), (5, 6, 2), (5, 6, 3), (4, 4, 2), (2, 3, 3), (3, 6, 2)]
"""(experts, slots, ranks)"""


def list_placements(experts: int, ranks: int, per_rank: int) -> Iterator[Phy2Log]:
    """All placements, up to the order of slots in a rank."""
    contents = list(combinations_with_replacement(range(experts), per_rank))
    for choice in product(contents, repeat=ranks):
        phy2log = tuple(e for rank in choice for e in rank)
        if len(set(phy2log)) == experts:
            yield phy2log


def enumerate_fewest(layer: Layer, old: Phy2Log, limit: Fraction) -> int | None:
    """The fewest transfers with which the layer keeps the limit; None if it cannot."""
    per_rank = layer.topology.slots_per_rank
    valid = (
        int(count_transfers([old], [new], per_rank).sum())
        for new in list_placements(len(layer.loads), layer.topology.num_ranks, per_rank)
        if value(layer, new).incumbent <= limit
        and layer_violation(layer, new) is None
        and over_limit(layer, new) is None
    )
    return min(valid, default=None)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Layer, Phy2Log, Fraction]:
    experts, slots, ranks = draw(st.sampled_from(SHAPES))
    layer = make_layer(draw(rows(experts, st.integers(0, 12), FLOATS)), slots, ranks)
    old, other = draw(fill(experts, slots)), draw(fill(experts, slots))
    factor = draw(st.sampled_from([Fraction(1), Fraction(99, 100), Fraction(11, 10)]))
    return layer, old, value(layer, other).incumbent * factor


@st.composite
def home_problems(draw: st.DrawFn) -> tuple[Layer, Phy2Log, Fraction]:
    """A layer under the rule ``home``, a placement with homes and any traffic, a makespan."""
    experts, slots, nodes = draw(st.sampled_from([(3, 6, 3), (4, 6, 2), (2, 4, 2), (4, 6, 1)]))
    groups = nodes * draw(st.integers(1, 2)) if (experts, nodes) == (4, 2) else nodes
    traffic = draw(st.sampled_from(["0", "1/10", "1/4", "1"]))
    machine = Topology(slots, max(nodes, 2), nodes, groups)
    loads = draw(st.lists(st.integers(0, 12), min_size=experts, max_size=experts))
    layer = Instance([loads], machine, "home", traffic_limit=traffic).layer(0)
    own, per_node = experts // nodes, slots // nodes
    old = list[int]()
    for node in range(nodes):
        more = draw(st.lists(st.integers(0, experts - 1), min_size=per_node - own,
                             max_size=per_node - own))  # fmt: skip
        old += [*range(node * own, (node + 1) * own), *more]
    other = draw(st.permutations(old))
    return layer, tuple(old), value(layer, other).incumbent


def unbalanced(seed: int) -> tuple[Layer, Phy2Log, Fraction]:
    """Alike loads share a rank, and the limit is near the optimum: several transfers, where drawn
    problems seldom ask for more than one.
    """
    experts, slots, ranks = [(5, 6, 3), (6, 6, 3), (5, 6, 2), (6, 6, 2)][seed % 4]
    rng = np.random.default_rng(seed)
    loads = np.sort(rng.integers(1, 30, experts))
    old = tuple(sorted([*range(experts), *rng.integers(0, experts, slots - experts).tolist()]))
    layer = make_layer(loads.tolist(), slots, ranks)
    makespans = {value(layer, x).incumbent for x in list_placements(experts, ranks, slots // ranks)}
    return layer, old, sorted(makespans)[1 + seed % 3]
