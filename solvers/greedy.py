"""A quick placement to start an exact search from: largest load first into the lightest rank with
a free slot.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from eplb_opt.instance import Layer


def largest_first(layer: Layer, counts: Sequence[int]) -> tuple[int, ...]:
    """Slots [P] of a placement with these ``counts`` [E] under the global rule; heuristic, exact
    sums.

    Ties: the smaller expert first, into the rank with the smaller index. O(P log G).
    """
    common = math.lcm(*counts)
    replica = [w * (common // c) for w, c in zip(layer.loads, counts, strict=True)]
    ranks: list[list[int]] = [[] for _ in range(layer.topology.num_ranks)]
    open_ranks = [(0, r) for r in range(len(ranks))]
    for e in sorted(
        (e for e, c in enumerate(counts) for _ in range(c)), key=lambda e: (-replica[e], e)
    ):
        load, r = heapq.heappop(open_ranks)
        ranks[r].append(e)
        if len(ranks[r]) < layer.topology.slots_per_rank:
            heapq.heappush(open_ranks, (load + replica[e], r))
    return tuple(e for rank in ranks for e in rank)
