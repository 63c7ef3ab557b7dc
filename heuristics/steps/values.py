"""The mean makespans of placements over steps under optimal dispatch."""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.dispatch.interior_point import shares
from heuristics.dispatch.slots import expert_loads, rank_loads


def mean_makespans(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """[C, L] float64 of C placements of each layer, in tokens a step.

    Args:
        loads: [T, L, E] tokens of each expert.
        phy2log: [C, L, P] the expert in each slot.
        num_ranks: G.
    """
    found = []
    for placed in phy2log:
        tokens = expert_loads(loads.double(), placed) * shares(loads, placed, num_ranks).double()
        found.append(rank_loads(tokens, num_ranks).amax(-1).mean(0))
    return torch.stack(found)
