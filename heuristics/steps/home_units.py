"""The rule ``home`` in searches: tokens off home in whole units, the same on every device.

Tokens off home are rounded up, and all tokens, of which a limit is a part, down: a limit that is
kept in units is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.matching import count_on_ranks
from heuristics.replication import count_replicas

EXACT = 1e-9
"""Of the tokens that may be served off home, for what sums in floats may miss."""
NEVER = 2**62
"""Units of a placement with an expert that is nowhere at home."""


@dataclass(frozen=True)
class Homes:
    """The rule ``home`` for layers that are searched together.

    Attributes:
        node: [L, E] int64, the home of each expert's group; of no columns without the rule.
        tokens: [L, E] float64, of each expert at all steps: whole units, rounded up.
        most: [L] int64, units that may be served off home.
        num_nodes: N.
    """

    node: Tensor
    tokens: Tensor
    most: Tensor
    num_nodes: int

    def __bool__(self) -> bool:
        """Whether there is the rule at all."""
        return self.node.shape[1] > 0

    @staticmethod
    def of(tokens: Tensor, homes: Tensor | None, limit: float, num_nodes: int) -> Homes:
        """From tokens [L, E, T] in units and homes [L, K] of the groups, if there are any."""
        if homes is None:
            none = tokens.new_empty(len(tokens), 0)
            return Homes(none.long(), none, tokens.new_zeros(len(tokens)).long(), num_nodes)
        node = homes.repeat_interleave(tokens.shape[1] // homes.shape[1], 1)
        most = (tokens.floor().sum((1, 2)) * (limit * (1 - EXACT))).long()
        return Homes(node, tokens.ceil().sum(2), most, num_nodes)

    def bound(self, phy2log: Tensor) -> Tensor:
        """[L, P] bool, whether a slot's expert must stay on the node: holds its last replica at
        home; without the rule, all must.
        """
        if not self:
            return torch.ones_like(phy2log, dtype=torch.bool)
        slots = torch.arange(phy2log.shape[1], device=phy2log.device)
        node = slots // (phy2log.shape[1] // self.num_nodes)
        last = (self.count_here(phy2log) == 1).gather(1, phy2log)
        return last & (self.node.gather(1, phy2log) == node)

    def count_here(self, phy2log: Tensor) -> Tensor:
        """Replicas at home, [L, E] int64, of placements [L, P]."""
        held = count_on_ranks(phy2log, self.num_nodes, self.node.shape[1])
        return held.gather(1, self.node[:, None])[:, 0].long()

    def away(self, phy2log: Tensor) -> Tensor:
        """Units off home, [L] int64, of placements [L, P]: 0 without the rule."""
        if not self:
            return self.most * 0
        counts, here = count_replicas(phy2log, self.node.shape[1]), self.count_here(phy2log)
        return units_away(self.tokens, counts, here).sum(1).where((here > 0).all(1), NEVER)


def units_away(tokens: Tensor, counts: Tensor, here: Tensor) -> Tensor:
    """Units, rounded up, of experts with ``counts`` replicas that are not served by those ``here``,
    at home.
    """
    return (tokens * (counts - here) / counts.clamp(min=1)).ceil().long()
