"""A quick placement to start an exact search from: greedy, largest load first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eplb_opt.problem.instance import Layer
from solvers.local_search.start import first_packing
from solvers.scaling import scale_for
from solvers.tree_search.sizes import replica_sizes


def largest_first(layer: Layer, counts: Sequence[int]) -> tuple[int, ...]:
    """Slots [P] of a placement with these ``counts`` [E] under the global rule; a heuristic."""
    size = replica_sizes(layer, scale_for(layer, counts), max(counts))
    experts = np.repeat(np.arange(len(counts)), counts)
    items = size[experts, np.array(counts)[experts]]
    ranks = first_packing(items, experts, layer.topology.num_ranks, layer.spread_replicas)
    return tuple(int(e) for e in ranks.ravel())
