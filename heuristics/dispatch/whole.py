"""Whole tokens for each slot from shares: the makespan of the shares, rounded up.

Rounding the shares moves each rank load by less than a token a slot, and so may raise the makespan
by some tokens, of which one is 3 % at 32 tokens a rank. Flows with integer bounds have integer
solutions: where shares reach a makespan M, whole tokens reach T = ceil(M). They are found by
pushing tokens off the ranks above T along shortest paths to ranks below T, all ranks at once, as
push-relabel does for a maximum flow (Goldberg and Tarjan, J. ACM 35 (1988) 921). A path passes
through ranks that are just full: a token comes, another one goes.

All numbers are integers, so a device gives the same tokens every time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.dispatch.slots import expert_loads, rank_loads
from heuristics.replication import count_replicas

ROUNDS = 20
"""Of pushes. Measured in docs/results/dispatch.md."""
SHARE_BITS = 22
"""Shares are rounded to multiples of 2^-22; times loads up to 2^40 they fit 63 bits."""
SHARE_ERROR = 1e-6
"""Relative error of a makespan computed from float32 shares, which must not raise its ceil."""
FAR = 1 << 40
"""A distance that no path has."""


@dataclass(frozen=True)
class Layout:
    """Where the experts with several slots are: R = min(E, P - E) rows of a table [R, G] a layer.

    Fewer such experts leave rows to experts with one slot. The table makes a slot of an expert on a
    rank and the expert's other ranks neighbours; slots of one expert on one rank are one cell.

    Attributes:
        expert: [L, R] the expert of each row.
        held: [L, R, G] int64, the number of its slots on each rank.
        cell: [L, P] ``row * G + rank`` of each slot; R * G for the slot of an expert without row.
        first: [L, P] bool, the first slot of its cell, which serves all tokens of the cell.
    """

    expert: Tensor
    held: Tensor
    cell: Tensor
    first: Tensor

    @classmethod
    def of(cls, phy2log: Tensor, num_experts: int, num_ranks: int) -> Layout:
        """From the experts in slots [L, P], P > E."""
        layers, P = phy2log.shape
        R = min(num_experts, P - num_experts)
        counts = count_replicas(phy2log, num_experts)
        experts = counts.argsort(dim=1, descending=True, stable=True)
        row = experts.argsort(1).gather(1, phy2log)
        slot = torch.arange(P, device=phy2log.device).repeat(layers, 1)
        rank = slot // (P // num_ranks)
        cell = torch.where(row < R, row * num_ranks + rank, R * num_ranks)
        cells = phy2log.new_zeros(layers, R * num_ranks + 1)
        held = cells.scatter_add(1, cell, torch.ones_like(cell))[:, :-1]
        first = cells.scatter_reduce(1, cell, slot, "amin", include_self=False).gather(1, cell)
        return cls(experts[:, :R], held.view(layers, R, num_ranks), cell, first == slot)

    @property
    def num_cells(self) -> int:
        """R * G."""
        return self.held[0].numel()

    def to_table(self, values: Tensor) -> Tensor:
        """[..., L, R, G] int64, sums of the values [..., L, P] of the slots of each cell."""
        cells = values.new_zeros(*values.shape[:-1], self.num_cells + 1)
        cells = cells.scatter_add(-1, self.cell.expand_as(values), values)
        return cells[..., :-1].view(*values.shape[:-1], *self.held.shape[1:])

    def to_slots(self, table: Tensor, alone: Tensor) -> Tensor:
        """[..., L, P] the tokens of a table [..., L, R, G], and ``alone`` in slots without cell."""
        cells = torch.cat([table.flatten(-2), table.new_zeros(*table.shape[:-2], 1)], -1)
        served = cells.gather(-1, self.cell.expand_as(alone))
        return alone + torch.where(self.first, served, 0)

    def alone(self, loads: Tensor, phy2log: Tensor) -> Tensor:
        """[..., L, P] the tokens of slots without cell, 0 elsewhere."""
        return torch.where(self.cell == self.num_cells, expert_loads(loads, phy2log), 0)


def whole(loads: Tensor, phy2log: Tensor, shares: Tensor, num_ranks: int) -> Tensor:
    """Whole tokens for each slot, from shares whose makespan they are to keep.

    The quotas (:func:`quotas`), then 20 rounds of :func:`push_tokens` towards ceil of the makespan
    of the shares, and each time that is reached towards one token less. The best found is returned:
    its makespan is never above that of the quotas. A heuristic: with shares near the optimum the
    makespan is ceil(optimum) in all but few cases.

    Args:
        loads: [..., L, E] tokens of each expert, integers of any dtype, at most 2^40 each.
        phy2log: [L, P] int64, the expert in each slot; slot p is on rank ``p // (P / num_ranks)``.
        shares: [..., L, P] or [L, P], the part of its expert's tokens that each slot serves.
        num_ranks: G.

    Returns:
        int64 [..., L, P] that sums to the loads over the slots of each expert. Of slots of one
        expert on one rank the first serves all. Memory: O(min(E, P - E) G) a layer and step.

    Raises:
        ValueError: shapes that do not fit.

    >>> loads, phy2log = torch.tensor([[7, 4, 1]]), torch.tensor([[0, 1, 0, 2]])
    >>> whole(loads, phy2log, torch.tensor([[0.3, 1.0, 0.7, 1.0]]), num_ranks=2)
    tensor([[2, 4, 5, 1]])
    """
    _check(loads, phy2log, shares, num_ranks)
    counted, num_experts = loads.round().long(), loads.shape[-1]
    if phy2log.shape[1] == num_experts:
        return expert_loads(counted, phy2log)
    layout = Layout.of(phy2log, num_experts, num_ranks)
    alone = layout.alone(counted, phy2log)
    start = quotas(counted, shares, layout)
    target = _target(loads, phy2log, shares, num_ranks)
    best = push_tokens(start, layout.held > 0, rank_loads(alone, num_ranks), target, ROUNDS)
    return layout.to_slots(best, alone)


def quotas(loads: Tensor, shares: Tensor, layout: Layout) -> Tensor:
    """Whole tokens near the shares, in the table [..., L, R, G] of the layout.

    The tokens w of an expert are cut where the cumulated shares of its ranks end: rank g serves
    ``floor(w (s_0 + .. + s_g)) - floor(w (s_0 + .. + s_g-1))``, so they sum to w, and none is
    negative. In integers, the shares in multiples of 2^-22 and divided by their sum. An expert
    whose shares are all 0 is shared evenly. Loads [..., L, E] int64.
    """
    fixed_point = (shares.double().nan_to_num().clamp(0, 1) * 2**SHARE_BITS).round().long()
    parts = layout.to_table(fixed_point)
    none = parts.sum(-1, keepdim=True) == 0
    ends = torch.where(none, layout.held, parts).cumsum(-1)
    tokens = loads.gather(-1, layout.expert.expand(*loads.shape[:-1], -1))
    cuts = tokens[..., None] * ends // ends[..., -1:]
    return cuts.diff(prepend=torch.zeros_like(cuts[..., :1]))


def _target(loads: Tensor, phy2log: Tensor, shares: Tensor, num_ranks: int) -> Tensor:
    """Ceil of the makespan of the shares, [..., L] int64."""
    served = rank_loads(expert_loads(loads.double(), phy2log) * shares, num_ranks)
    return (served.amax(-1) * (1 - SHARE_ERROR)).ceil().long()


def push_tokens(tokens: Tensor, held: Tensor, base: Tensor, target: Tensor, rounds: int) -> Tensor:
    """Move tokens between the ranks of their experts until no rank has more than the target.

    A rank *has room* below T = min(target, best makespan so far - 1). Its *distance* is 0; another
    rank's is one more than the least over the ranks that its tokens may go to. In every round the
    distances are corrected once, from lower bounds, then each rank above T sends half of its
    excess, rounded up, of one expert to a rank that is nearer (ties: the first rank, the first
    expert). Pushes do not conflict, as each takes from its own rank.

    Args:
        tokens: [..., L, R, G] int64 of each expert on each rank.
        held: [L, R, G] bool, the ranks that hold the expert.
        base: [..., L, G] tokens on each rank that cannot move.
        target: [..., L] makespan to reach.
        rounds: number of rounds, each of about 20 operations.

    Returns:
        [..., L, R, G] the tokens with the least makespan seen, the first such.
    """
    expert = torch.arange(tokens.shape[-2], device=tokens.device)[:, None]
    rank = torch.arange(tokens.shape[-1], device=tokens.device)
    load = base + tokens.sum(-2)
    best, makespan = tokens, load.amax(-1)
    distance = torch.zeros_like(load)
    for _ in range(rounds):
        most = torch.minimum(target, makespan - 1)[..., None]
        nearest = torch.where(held, distance[..., None, :], FAR).amin(-1)
        nearest = torch.where(tokens > 0, nearest[..., None], FAR).amin(-2)
        distance = torch.where(load < most, 0, nearest + 1).clamp(max=FAR)
        nearest, to = torch.where(held, distance[..., None, :], FAR).min(-1)
        nearest, sent = torch.where(tokens > 0, nearest[..., None], FAR).min(-2)
        half = torch.where(nearest < distance, load - most + 1, 0).clamp(min=0) // 2
        out = torch.where(expert == sent[..., None, :], half[..., None, :], 0).minimum(tokens)
        into = torch.where(rank == to[..., None], out.sum(-1, keepdim=True), 0)
        tokens = tokens - out + into
        load = base + tokens.sum(-2)
        better = load.amax(-1) < makespan
        best = torch.where(better[..., None, None], tokens, best)
        makespan = torch.where(better, load.amax(-1), makespan)
    return best


def _check(loads: Tensor, phy2log: Tensor, shares: Tensor, num_ranks: int) -> None:
    """Shapes that fit; values are on the device and not looked at."""
    if phy2log.ndim != 2 or loads.ndim < 2 or len(phy2log) != loads.shape[-2]:
        raise ValueError(
            f"loads {tuple(loads.shape)} and phy2log {tuple(phy2log.shape)}"
            " must be [..., L, E] and [L, P] with the same number of layers"
        )
    layers, P = phy2log.shape
    if shares.shape not in {(layers, P), (*loads.shape[:-1], P)}:
        raise ValueError(
            f"shares {tuple(shares.shape)} must be {(*loads.shape[:-1], P)} or {(layers, P)}"
        )
    if num_ranks < 1 or P % num_ranks or loads.shape[-1] > P:
        raise ValueError(
            f"{P} slots of {loads.shape[-1]} experts on num_ranks={num_ranks}:"
            " every expert needs a slot, every rank the same number"
        )
