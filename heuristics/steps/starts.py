"""Constructions that a search for steps starts from, and is never behind.

Under optimal dispatch load flows from rank to rank through the experts that both hold: replicas of
an expert *link* their ranks. LPLB's graphs link ranks, but are of one number of slots each and have
at most two replicas of an expert; the policies for summed loads have the right numbers of replicas,
but put them anywhere. A chain (:func:`pack_chain`) and even links (:func:`pack_links`) have both,
for any sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from math import gcd, sqrt
from typing import Any

import torch
from torch import Tensor

from heuristics.arrays import native
from heuristics.graphs import GRAPHS, GraphPolicy
from heuristics.grouping import by_total
from heuristics.matching import count_transfers, relabel
from heuristics.packing import by_load, lpt
from heuristics.pipeline import Pipeline
from heuristics.refined import refined
from heuristics.replication import count_replicas, greedy_replicas, replicas_in_order
from heuristics.shape import Shape

FLATTEN = 0.8
"""A power of the loads by which replicas are counted once more: fewer for the heaviest experts."""
HELD, FULL = 1e12, 1e15
"""Added to the wish for a rank that holds the expert, that has no slot left: more than any wish."""


class _Deal:
    """Replicas dealt one by one: replicated experts first, then single ones, each heaviest first.

    Attributes:
        num_shared: [B] int64, replicas of replicated experts, which come first.
        is_first: [B, P] bool, whether the i-th replica is the first of its expert.
        held: [B, G] 1 where the rank holds the expert that is being dealt, else 0.
        load: [B, G] of the ranks under even dispatch, of a total of 1 in each row.
        used: [B, G] slots of the ranks.

    The last three are float64, and native.
    """

    def __init__(self, loads: Tensor, replicas: Tensor, num_ranks: int) -> None:
        rows, num_slots = replicas.shape
        loads, counts = loads.double(), count_replicas(replicas, loads.shape[1])
        order = torch.sort(loads, dim=1, descending=True, stable=True).indices
        is_single = (counts == 1).gather(1, order).byte()
        order = order.gather(1, torch.sort(is_single, dim=1, stable=True).indices)
        place = replicas_in_order(counts.gather(1, order), num_slots)
        self.num_shared = (counts * (counts > 1)).sum(1)
        self.is_first = place.diff(dim=1, prepend=place.new_full((rows, 1), -1)) > 0
        self.held, self.load, self.used = (
            native(loads.new_zeros(rows, num_ranks)) for _ in range(3)
        )
        self._experts = order.gather(1, place)
        self._slots = torch.empty_like(self._experts)
        self._slots_per_rank = num_slots // num_ranks
        # What the loop reads: a row of each for every replica i.
        number = torch.arange(num_slots, device=loads.device)
        part = loads / loads.sum(1, keepdim=True).clamp(min=torch.finfo(loads.dtype).tiny)
        self._parts = native((part / counts).gather(1, self._experts).T.contiguous())
        self._is_shared = native((number[:, None] < self.num_shared)[:, :, None].double())
        self._goes_on = native((~self.is_first).T[:, :, None].double())
        self._row = native(torch.arange(rows, device=loads.device))
        self._out = native(self._slots).T

    def __iter__(self) -> Iterator[int]:
        """The replicas i, each to be dealt before the next."""
        for i, goes_on in enumerate(self._goes_on):
            self.held *= goes_on
            yield i

    def deal(self, i: int, wish: Any) -> Any:
        """Replica i to the rank with the least wish [B, G] >= 0, of a single expert to the
        lightest.

        Rather to a rank that has none of its expert; only to one with a slot. Ties: the lowest.
        Returns the ranks [B].
        """
        wish = self.load + self._is_shared[i] * (wish - self.load)
        rank = (wish + HELD * self.held + FULL * (self.used == self._slots_per_rank)).argmin(1)
        at = self._row, rank
        self._out[i] = rank * self._slots_per_rank + self.used[at]
        self.used[at] += 1
        self.load[at] += self._parts[i]
        self.held[at] = 1
        return rank

    def placed(self) -> Tensor:
        """The expert in each slot, [B, P] int64."""
        return torch.empty_like(self._experts).scatter_(1, self._slots, self._experts)


def pack_chain(loads: Tensor, replicas: Tensor, num_ranks: int) -> Tensor:
    """Replicated experts end to end round the ranks: each begins where the one before ends.

    An expert with c replicas makes c - 1 *hops*, from rank g to g + 1. All experts together make P
    - E of them, so that with P - E = G redundant slots the chain closes to a ring, whatever the
    counts. From the second round on hops are wider (:func:`hop_widths`). With fewer hops than ranks
    the chain has G - (P - E) breaks, spread over its experts, after which the next begins one rank
    on. A rank that is full or holds the expert leaves the replica to the next rank.

    Args:
        loads: [B, E].
        replicas: [B, P] the expert of each replica.
        num_ranks: G.

    Returns:
        The expert in each slot, [B, P] int64. O(B P G) time.
    """
    deal = _Deal(loads, replicas, num_ranks)
    device, num_slots = loads.device, replicas.shape[1]
    num_breaks = max(0, num_ranks - (num_slots - loads.shape[1]))
    is_shared = torch.arange(num_slots, device=device) < deal.num_shared[:, None]
    hops = (is_shared & ~deal.is_first).long()
    rounds = (hops.cumsum(1) - hops) // num_ranks
    width = hop_widths(num_ranks, num_slots // num_ranks + 1).to(device)[rounds]
    before = deal.is_first.long().cumsum(1) - 1  # experts of the chain
    in_all = (is_shared & deal.is_first).sum(1, keepdim=True).clamp(min=1)
    goal = (hops * width).cumsum(1) + num_breaks * before // in_all
    goals, rank = (
        native(goal.T[:, :, None].contiguous()),
        native(torch.arange(num_ranks).to(device)),
    )
    for i in deal:
        deal.deal(i, (rank - goals[i]) % num_ranks)
    return deal.placed()


def hop_widths(num_ranks: int, rounds: int) -> Tensor:
    """[rounds] s^j mod G, where s has no divisor in common with G and is next to sqrt(G) + 1.

    Every round visits all ranks, and few hops of several rounds lead from any rank to any other: 1
    and 7 on 32 ranks make a graph much like a square grid.
    """
    widths = [s for s in range(1, num_ranks) if gcd(s, num_ranks) == 1]
    step = min(widths, key=lambda s: abs(s - sqrt(num_ranks) - 1), default=1)
    return torch.tensor([pow(step, j, num_ranks) for j in range(rounds)])


def pack_links(loads: Tensor, replicas: Tensor, num_ranks: int) -> Tensor:
    """Each replica to the rank with the fewest links to the ranks of its expert, of these to one
    with few replicas of replicated experts, of these to the lightest.

    Args:
        loads: [B, E].
        replicas: [B, P] the expert of each replica.
        num_ranks: G.

    Returns:
        The expert in each slot, [B, P] int64. O(B P G + B R G^2) time, R replicas of replicated
        experts.
    """
    deal = _Deal(loads, replicas, num_ranks)
    rows, num_slots = replicas.shape
    num_shared = int(deal.num_shared.max())
    links = native(loads.new_zeros(rows, num_ranks, num_ranks, dtype=torch.float64))
    row = native(torch.arange(rows, device=loads.device))
    for i in deal:
        if i >= num_shared:
            deal.deal(i, deal.load)
            continue
        linked = (links * deal.held[:, :, None]).sum(1)
        rank = deal.deal(i, (linked * num_slots + deal.used) * num_slots + deal.load)
        links[row, rank] += deal.held
        links[row, :, rank] += deal.held
    return deal.placed()


def flat_replicas(loads: Tensor, num_slots: int) -> Tensor:
    """The expert of each replica [B, P], greedy by a power of the loads below 1."""
    return greedy_replicas(loads**FLATTEN, num_slots)


BUILT: dict[str, Callable[..., Tensor]] = {
    "deepseek": Pipeline(by_total(lpt), greedy_replicas, by_load(lpt)),
    "refined": refined,
    "chain": Pipeline(by_total(lpt), greedy_replicas, pack_chain),
    "flat chain": Pipeline(by_total(lpt), flat_replicas, pack_chain),
    "links": Pipeline(by_total(lpt), greedy_replicas, pack_links),
}
"""For any sizes; ``deepseek`` as in ``heuristics.policies``."""


def starts(weight: Tensor, *sizes: int) -> dict[str, Tensor]:
    """Placements [L, P] by name, from summed loads [L, E] and sizes as of ``rebalance_experts``.

    Graphs only where they have such a number of slots.
    """
    found = {name: place(weight, *sizes) for name, place in BUILT.items()}
    for name, graph in GRAPHS.items():
        with suppress(ValueError):
            found[name] = GraphPolicy(name, graph)(weight, *sizes)
    return found


def write_beside(
    placed: Tensor, old: Tensor, shape: Shape, num_experts: int, budget: int | None
) -> Tensor:
    """Placements [C, L, P] written so that much stays where ``old`` [L, P] has it; with a budget of
    transfers, ``old`` itself as another, and in place of those that take more.
    """
    ranks, nodes = shape.num_ranks, shape.num_nodes
    placed = torch.stack([relabel(each, old, ranks, nodes, num_experts) for each in placed])
    if budget is None:
        return placed
    takes = torch.stack([count_transfers(old, each, ranks, num_experts) for each in placed])
    return torch.cat([torch.where((takes <= budget)[..., None], placed, old), old[None]])
