"""Constructions that a search for steps starts from, and is never behind.

Under optimal dispatch load flows from rank to rank through the experts that both hold: two ranks
are *linked* by a replica of one expert on each. Besides the policies for summed loads and LPLB's
graphs there are two ways to place the baseline's replicas so that all ranks are linked, both for
any sizes: :func:`pack_chain` and :func:`pack_links`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from heuristics.arrays import native
from heuristics.graphs import GRAPHS, GraphPolicy
from heuristics.grouping import by_total
from heuristics.packing import by_load, lpt
from heuristics.pipeline import Pipeline
from heuristics.refined import refined
from heuristics.replication import count_replicas, greedy_replicas, replicas_in_order

HELD, FULL = 1e12, 1e15
"""Added to the wish for a rank that holds the expert, that has no slot left: more than any wish."""


class _Deal:
    """Replicas dealt one by one: replicated experts first, then single ones, each heaviest first.

    Attributes:
        experts: [B, P] the expert of the i-th replica.
        is_first: [B, P] whether it is the first of its expert.
        num_shared: [B] replicas of replicated experts, which come first.
        held: [B, G] 1 where the rank holds the expert being dealt, float64, native.
        load: [B, G] of the ranks under even dispatch, of a total of 1, float64, native.
        used: [B, G] slots, float64, native.
    """

    def __init__(self, loads: Tensor, replicas: Tensor, num_ranks: int) -> None:
        rows, num_slots = replicas.shape
        loads = loads.double()
        counts = count_replicas(replicas, loads.shape[1])
        order = torch.sort(loads, dim=1, descending=True, stable=True).indices
        is_single = counts.gather(1, order) == 1
        order = order.gather(1, torch.sort(is_single.byte(), dim=1, stable=True).indices)
        place = replicas_in_order(counts.gather(1, order), num_slots)
        self.experts = order.gather(1, place)
        self.is_first = place.diff(dim=1, prepend=place.new_full((rows, 1), -1)) > 0
        self.num_shared = (counts * (counts > 1)).sum(1)
        share = loads / loads.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        share = (share / counts).gather(1, self.experts)

        self.held, self.load, self.used = (
            native(share.new_zeros(rows, num_ranks)) for _ in range(3)
        )
        self._slots_per_rank = num_slots // num_ranks
        self._row = native(torch.arange(rows, device=loads.device))
        self._slot = torch.empty_like(self.experts)
        self._share, self._out = native(share.T.contiguous()), native(self._slot).T
        self._goes_on = native((~self.is_first).T.double()[:, :, None])
        self._shared = native(
            (torch.arange(num_slots, device=loads.device)[:, None] < self.num_shared).double()
        )[:, :, None]

    def __iter__(self) -> Iterator[int]:
        """The replicas i, each to be dealt before the next."""
        for i, goes_on in enumerate(self._goes_on):
            self.held *= goes_on
            yield i

    def deal(self, i: int, wish: Any) -> Any:
        """Replica i to the rank with the least wish [B, G] >= 0, single experts to the lightest.

        Rather to a rank that has none of its expert; only to one with a slot. Ties: the lowest.
        Returns the rank [B].
        """
        wish = self.load + self._shared[i] * (wish - self.load)
        key = wish + HELD * self.held + FULL * (self.used >= self._slots_per_rank)
        rank = key.argmin(1)
        at = self._row, rank
        self._out[i] = rank * self._slots_per_rank + self.used[at]
        self.used[at] += 1
        self.load[at] += self._share[i]
        self.held[at] = 1
        return rank

    def placed(self) -> Tensor:
        """The expert in each slot, [B, P]."""
        return torch.empty_like(self.experts).scatter_(1, self._slot, self.experts)


def pack_chain(loads: Tensor, replicas: Tensor, num_ranks: int) -> Tensor:
    """Replicated experts end to end round the ranks: each begins where the one before ends.

    An expert with c replicas makes c - 1 *hops*, from rank g to g + 1. All experts together make P
    - E of them, so that with P - E = G redundant slots the chain closes to a ring, whatever the
    counts; the second time round a hop is 3 ranks wide, then 5, and so on. With fewer hops than
    ranks the chain has G - (P - E) breaks, spread over its experts, after which the next begins
    one rank on. A rank that is full or holds the expert leaves the replica to the next.

    Args:
        loads: [B, E].
        replicas: [B, P] the expert of each replica.
        num_ranks: G.

    Returns:
        The expert in each slot, [B, P] int64. O(B P G) time.
    """
    deal = _Deal(loads, replicas, num_ranks)
    num_slots = replicas.shape[1]
    number = torch.arange(num_slots, device=loads.device)
    shared = number < deal.num_shared[:, None]
    hop = (shared & ~deal.is_first).long()
    times_round = (hop.cumsum(1) - hop) // num_ranks
    width = 1 + 2 * times_round % max(num_ranks - 1, 1)
    expert = deal.is_first.long().cumsum(1) - 1
    num_replicated = (shared & deal.is_first).sum(1, keepdim=True).clamp(min=1)
    breaks = max(num_ranks - (num_slots - loads.shape[1]), 0) * expert // num_replicated
    goal = native(((hop * width).cumsum(1) + breaks).T.contiguous()[:, :, None])
    ranks = native(torch.arange(num_ranks, device=loads.device))
    for i in deal:
        deal.deal(i, (ranks - goal[i]) % num_ranks)
    return deal.placed()


def pack_links(loads: Tensor, replicas: Tensor, num_ranks: int) -> Tensor:
    """Replicas of an expert on ranks not yet linked, with few replicas of replicated experts, and
    light, in this order of importance.

    Args:
        loads: [B, E].
        replicas: [B, P] the expert of each replica.
        num_ranks: G.

    Returns:
        The expert in each slot, [B, P] int64. O(B P G + B R G^2) time for R replicas of replicated
        experts.
    """
    deal = _Deal(loads, replicas, num_ranks)
    rows, num_slots = replicas.shape
    links = native(torch.zeros(rows, num_ranks, num_ranks, device=loads.device).double())
    row = native(torch.arange(rows, device=loads.device))
    num_shared = int(deal.num_shared.max())
    for i in deal:
        if i >= num_shared:
            deal.deal(i, deal.load)
            continue
        linked = (links * deal.held[:, :, None]).sum(1)
        rank = deal.deal(i, (linked * num_slots + deal.used) * num_slots + deal.load)
        links[row, rank] += deal.held
        links[row, :, rank] += deal.held
    return deal.placed()


BASELINE = Pipeline(by_total(lpt), greedy_replicas, by_load(lpt))
"""The field's baseline, as in ``heuristics.policies.deepseek``."""
CHAIN = Pipeline(by_total(lpt), greedy_replicas, pack_chain)
LINKS = Pipeline(by_total(lpt), greedy_replicas, pack_links)


def starts(weight: Tensor, *sizes: int) -> dict[str, Tensor]:
    """Placements [L, P] by name, from summed loads [L, E] and sizes as of ``rebalance_experts``.

    Graphs only where they have such a number of slots.
    """
    found = {
        "deepseek": BASELINE(weight, *sizes),
        "refined": refined(weight, *sizes),
        "chain": CHAIN(weight, *sizes),
        "links": LINKS(weight, *sizes),
    }
    for name, graph in GRAPHS.items():
        with suppress(ValueError):
            found[name] = GraphPolicy(name, graph)(weight, *sizes)
    return found
