"""Placements annealed for the steps given, where replicas share their expert's tokens evenly.

A *move* takes rank g, the fullest at one of the steps that count, a slot p of it and another slot q
of its node: p and q exchange their experts, or one of them takes the expert of the other as a
further replica. A trial looks at all steps, which costs a few operations each: only ranks of the
two experts carry other loads, and without two of the ranks the makespan is one of the three largest
loads (annealing: Kirkpatrick, Gelatt and Vecchi, Science 220 (1983) 671).

In a *round* some moves are tried on the same placement, and the first that raises the objective by
no more than ``-T log u`` (u uniform, the temperature T falling) is made. So a round can be tried at
once, which is the torch form, or move by move until one is made, which is the compiled form
(:mod:`heuristics.steps.compiled_even`). Both make the same moves: loads are whole numbers of units
so small that rounding does not matter, and so are added exactly in any order. What is random does
not depend on the layer or the device, so that a layer is placed alike whatever others there are.

Under the rule ``home`` q may be a slot of any other rank; a move must leave every expert a replica
at the home of its group, and the tokens served off home within their limit, or not more than there
are (:mod:`heuristics.steps.home_units`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import torch
from torch import Tensor

from heuristics.arrays import uniform
from heuristics.matching import count_on_ranks
from heuristics.replication import count_replicas
from heuristics.steps.even_values import ABOVE, FIRST_LOOK, WEIGHT
from heuristics.steps.home_units import Homes, units_away
from heuristics.steps.racing import DOUBT
from heuristics.steps.trials import Transfers
from heuristics.steps.values import use_compiled

UNITS = 2**20
"""In the mean rank load of the steps."""
COOLING = 0.03
"""The last temperature over the first."""
TRIALS = 32
"""Moves of a round."""
GIVES = 0.1
"""The part of moves that change counts."""
ROUNDS = 2**10
"""Whose random numbers are held at once."""
NEAR = 0.125
"""Under the rule ``home``, the part of moves within the node."""
GIVES_AWAY = 0.45
"""Under that rule, in place of ``GIVES``: most exchanges between nodes leave an expert homeless."""


@dataclass
class Search:
    """Layers that are annealed together.

    Attributes:
        tokens: [L, E, T] float64 of each expert, in units.
        weights: [T] int64, what the n-th worst step counts, descending: ``WEIGHT`` in full; all do
            so for the mean.
        counted: how many steps count; the last may count in part.
        heat: [L] float64, the first temperature, in units by weights.
        num_nodes: N.
        phy2log: [L, P] the expert in each slot; changed in place.
        best: [L, P] the best until now; changed in place.
        least: [L] int64, its value, in units by weights; changed in place.
        transfers: what ranks held, and may receive; changed in place.
        homes: the rule ``home``, if it is that.
    """

    tokens: Tensor
    weights: Tensor
    counted: float
    heat: Tensor
    num_nodes: int
    phy2log: Tensor
    best: Tensor
    least: Tensor
    transfers: Transfers
    homes: Homes

    @property
    def is_mean(self) -> bool:
        """Whether all steps count in full: whether the last of ``weights`` does."""
        return round(min(self.counted - len(self.weights) + 1, 1) * WEIGHT) == WEIGHT

    @property
    def num_counted(self) -> int:
        """Those that count at all."""
        return ceil(self.counted)

    @property
    def num_ranks(self) -> int:
        """G."""
        return self.transfers.held.shape[1]

    @property
    def slots_per_rank(self) -> int:
        """S."""
        return self.phy2log.shape[1] // self.num_ranks

    @property
    def near(self) -> float:
        """The part of moves within the node."""
        if not self.homes:
            return 1.0
        return NEAR if self.num_ranks > self.num_nodes else 0.0


@dataclass(frozen=True)
class Draws:
    """What is random in rounds [R, C]; the same for all layers.

    Attributes:
        step: in [0, 1), which of the steps that count.
        slot: in [0, 1), which slot of its fullest rank.
        other: in [0, 1), which slot of the other ranks, of the node or of all.
        kind: int64: 0 an exchange, 1 the other slot takes the expert of the first, -1 the first
            slot takes that of the other.
        rise: of the value that is allowed, over the first temperature.
    """

    step: Tensor
    slot: Tensor
    other: Tensor
    kind: Tensor
    rise: Tensor

    @staticmethod
    def of(first: int, last: int, rounds: int, gives: float, seed: int, like: Tensor) -> Draws:
        """Of rounds ``first .. last - 1`` of all, ``gives`` of the moves no exchanges."""
        numbers = uniform((5, last - first, TRIALS), (seed, first), like)
        step, slot, other, kind, rise = numbers
        kind = (kind < gives).long() - 2 * (kind < gives / 2).long()
        done = torch.arange(first, last, device=like.device, dtype=like.dtype) / rounds
        rise = -(COOLING ** done[:, None]) * (1 - rise).log()
        return Draws(step, slot, other, kind, rise)


def anneal_evenly(
    steps: Tensor,
    phy2log: Tensor,
    transfers: Transfers,
    share: float,
    heat: Tensor,
    *,
    num_nodes: int,
    rounds: int,
    seed: int,
    homes: Tensor | None = None,
    limit: float = 1.0,
) -> Tensor:
    """The best placements [L, P] that are met, by the mean of the worst ``share`` of the steps.

    With ``homes``, those within the limit are better than any above it, of which there are none if
    the start is within it. Else moves that bring the tokens off home down are made at any price.

    Args:
        steps: [T, L, E] tokens of each expert.
        phy2log: [L, P] where to start.
        transfers: what ranks held, and may receive; changed in place.
        share: 1 for the mean over all steps, 0 for the worst step.
        heat: [L] the first temperature, as a part of what the start loses.
        num_nodes: N.
        rounds: one after another.
        seed: of all that is random.
        homes: [L, K] under the rule ``home`` the node of each group, at which the start has all its
            experts; None: experts stay on their nodes.
        limit: the part of a layer's tokens, of all steps, that may be served off home.
    """
    if transfers.held.shape[1] == (num_nodes if homes is None else 1):  # no slot to move to
        return phy2log
    search = _begin(steps, phy2log, transfers, share, num_nodes, seed, homes, limit)
    search.heat *= heat
    gives = (GIVES_AWAY if search.homes else GIVES) * (phy2log.shape[1] > steps.shape[2])
    run = _run_compiled if use_compiled(phy2log) else _run_together
    for first in range(0, rounds, ROUNDS):
        last = min(first + ROUNDS, rounds)
        run(search, Draws.of(first, last, rounds, gives, seed, search.tokens))
    return search.best


def _begin(
    steps: Tensor,
    phy2log: Tensor,
    transfers: Transfers,
    share: float,
    num_nodes: int,
    seed: int,
    homes: Tensor | None,
    limit: float,
) -> Search:
    number, num_ranks = len(steps), transfers.held.shape[1]
    mean = steps.sum((0, 2), dtype=torch.float64) / (number * num_ranks)
    scale = torch.where(mean > 0, UNITS / mean, 0)
    # In any order, so that the first steps of a trial speak for all.
    order = uniform((number,), (seed,), scale).argsort()
    tokens = (steps[order].double() * scale[:, None]).permute(1, 2, 0).contiguous()
    counted = max(share * number, 1.0)
    part = counted - torch.arange(number, dtype=torch.float64, device=steps.device)
    weights = (part.clamp(0, 1) * WEIGHT).round().long()
    now, best = phy2log.clone(), phy2log.clone()
    least = torch.zeros_like(scale, dtype=torch.int64)
    rule = Homes.of(tokens, homes, limit, num_nodes)
    search = Search(tokens, weights, counted, scale, num_nodes, now, best, least, transfers, rule)
    state = _state_of(search)
    search.least = state.value + ABOVE * (state.away > rule.most)
    level = tokens.sum(1).sort(1, descending=True).values / num_ranks
    search.heat = state.value - (level * weights).sum(1)
    return search


def _run_compiled(search: Search, draws: Draws) -> None:
    """Move by move."""
    from heuristics.steps.compiled_even import anneal_rounds  # loads numba

    tensors = (
        search.tokens, search.weights, search.heat, search.phy2log, search.best, search.least,
        search.transfers.held, search.transfers.left,
        search.homes.node, search.homes.tokens, search.homes.most,
        draws.step, draws.slot, draws.other, draws.kind, draws.rise,
    )  # fmt: skip
    arrays = (tensor.numpy() for tensor in tensors)
    anneal_rounds(search.num_counted, search.num_nodes, search.near, *arrays)


def _run_together(search: Search, draws: Draws) -> None:
    """The torch form: all moves of a round and all layers at once."""
    state = _state_of(search)
    for r in range(len(draws.step)):
        moves = _Moves.of(search, state, draws, r)
        allowed = (draws.rise[r] * search.heat[:, None]).long()
        moves.make_first(search, _pass(search, state, moves, allowed))
        state = _state_of(search)
        value = state.value + ABOVE * (state.away > search.homes.most)
        better = value < search.least
        search.best = torch.where(better[:, None], search.phy2log, search.best)
        search.least = torch.where(better, value, search.least)


@dataclass(frozen=True)
class _State:
    """What follows from the placements.

    Attributes:
        counts: [L, E] int64 of replicas.
        on_ranks: [L, E, G] int64 of replicas.
        ranks: [L, G, T] int64, loads in units.
        makespans: [L, T] int64, in units.
        value: [L] int64, in units by weights.
        away: [L] int64, units served off home; 0 without that rule.
    """

    counts: Tensor
    on_ranks: Tensor
    ranks: Tensor
    makespans: Tensor
    value: Tensor
    away: Tensor


def _state_of(search: Search) -> _State:
    num_experts = search.tokens.shape[1]
    counts = count_replicas(search.phy2log, num_experts)
    on_ranks = count_on_ranks(search.phy2log, search.num_ranks, num_experts).long()
    share = (search.tokens / counts[:, :, None]).round()
    ranks = (on_ranks.double() @ share).long()  # whole numbers, added exactly in any order
    makespans = ranks.amax(1)
    value = _value_of(makespans, search)
    away = search.homes.away(search.phy2log)
    return _State(counts, on_ranks.transpose(1, 2), ranks, makespans, value, away)


def _value_of(makespans: Tensor, search: Search) -> Tensor:
    """[..] of makespans [.., T]."""
    if search.is_mean:
        return makespans.sum(-1) * WEIGHT
    return (makespans.sort(-1, descending=True).values * search.weights).sum(-1)


@dataclass(frozen=True)
class _Moves:
    """Moves [L, C]: slot p holds expert a, slot q expert b, on ranks g and h.

    Attributes:
        p, q, a, b, g, h: int64.
        p_takes: int64, 1 where slot p takes expert b, else 0.
        q_takes: int64, 1 where slot q takes expert a, else 0.
    """

    p: Tensor
    q: Tensor
    a: Tensor
    b: Tensor
    g: Tensor
    h: Tensor
    p_takes: Tensor
    q_takes: Tensor

    @staticmethod
    def of(search: Search, state: _State, draws: Draws, r: int) -> _Moves:
        size, num_slots = search.slots_per_rank, search.phy2log.shape[1]
        # Of equally full ranks the first, which argmax does not promise.
        number = torch.arange(search.num_ranks, device=state.ranks.device)[:, None]
        fullest = (state.ranks * len(number) - number).argmax(1)
        step = (draws.step[r] * search.num_counted).long().expand(len(fullest), -1)
        if not search.is_mean:
            worst_first = torch.sort(state.makespans, dim=1, descending=True, stable=True).indices
            step = worst_first.gather(1, step)
        g = fullest.gather(1, step)
        p = g * size + (draws.slot[r] * size).long()
        other, near = draws.other[r], search.near
        within = other < near
        reach = torch.where(within, num_slots // search.num_nodes, num_slots)
        part = torch.where(within, other / (near or 1), (other - near) / (1 - near or 1))
        q = p // reach * reach + (part * (reach - size)).long()
        q = q + size * (q >= g * size)
        a, b = search.phy2log.gather(1, p), search.phy2log.gather(1, q)
        kind = draws.kind[r].expand_as(p)
        return _Moves(p, q, a, b, g, q // size, (kind <= 0).long(), (kind >= 0).long())

    def make_first(self, search: Search, passes: Tensor) -> None:
        """Make the first of those that pass [L, C]."""
        one = passes & (passes.cumsum(1) == 1)
        search.transfers.left -= (self.transfers(search) * one).sum(1)
        for slot, takes, expert in (
            (self.p, self.p_takes, self.b),
            (self.q, self.q_takes, self.a),
        ):
            change = (expert - search.phy2log.gather(1, slot)) * takes * one
            search.phy2log.scatter_add_(1, slot, change)

    def transfers(self, search: Search) -> Tensor:
        """[L, C] that they take; negative where they save earlier ones."""
        held = search.transfers.held
        row = torch.arange(len(held), device=held.device)[:, None]
        on_ranks = count_on_ranks(search.phy2log, *held.shape[1:])
        takes = torch.zeros_like(self.p)
        for rank, comes, goes, changes in (
            (self.g, self.b, self.a, self.p_takes),
            (self.h, self.a, self.b, self.q_takes),
        ):
            received = ~held[row, rank, comes] & (on_ranks[row, rank, comes] == 0)
            saved = ~held[row, rank, goes] & (on_ranks[row, rank, goes] == 1)
            takes += changes * (received.long() - saved.long())
        return takes


def _pass(search: Search, state: _State, moves: _Moves, allowed: Tensor) -> Tensor:
    """[L, C] whether a move makes a placement, within the transfers left, whose value is higher by
    at most ``allowed`` [L, C] int64.
    """
    row = torch.arange(len(moves.p), device=moves.p.device)[:, None]
    g, h = (_one_hot(x, search.num_ranks) for x in (moves.g, moves.h))
    p_takes, q_takes = moves.p_takes[..., None], moves.q_takes[..., None]
    after = state.ranks[:, None].expand(-1, moves.p.shape[1], -1, -1)
    keeps = torch.ones_like(moves.p, dtype=torch.bool)
    away = state.away[:, None]
    # Expert a goes from rank g to h, expert b from h to g, or only one half of it.
    for expert, change in (
        (moves.a, q_takes * h - p_takes * g),
        (moves.b, p_takes * g - q_takes * h),
    ):
        before, count = state.on_ranks[row, expert], state.counts[row, expert]
        now = count + change.sum(2)
        keeps &= now > 0
        tokens = search.tokens[row, expert]
        share = (tokens / count[..., None]).round().long()
        new_share = (tokens / now.clamp(min=1)[..., None]).round().long()
        after = after + (before + change)[..., None] * new_share[:, :, None]
        after = after - before[..., None] * share[:, :, None]
        if search.homes:
            node = search.homes.node[row, expert][..., None]
            here, stays = (
                x.view(*x.shape[:2], search.num_nodes, -1).sum(3).gather(2, node)[..., 0]
                for x in (before, before + change)
            )
            units = search.homes.tokens[row, expert]
            keeps &= stays > 0
            away = away + units_away(units, now, stays) - units_away(units, count, here)
    down = (state.away[:, None] > search.homes.most[:, None]) & (away < state.away[:, None])
    allowed = allowed.where(~down, ABOVE)
    makespans = after.amax(2)
    if search.is_mean:
        rises = _rise_in_mean(makespans - state.makespans[:, None], allowed)
    else:
        rises = _value_of(makespans, search) - state.value[:, None] > allowed
    fits = moves.transfers(search) <= search.transfers.left[:, None]
    fits &= away <= torch.maximum(search.homes.most, state.away)[:, None]
    return keeps & fits & (moves.a != moves.b) & ~rises


def _rise_in_mean(change: Tensor, allowed: Tensor) -> Tensor:
    """[L, C] whether the mean of changes [L, C, T] is above what is allowed, or seems to be: is so
    by ``DOUBT`` standard errors after the first steps. Of an even chance to be so, the standard
    error is taken as the mean size of a change by the root of their number, in whole numbers.
    """
    total, size = change.cumsum(2), change.abs().cumsum(2)
    steps = change.shape[2]
    rises = total[..., -1] * WEIGHT > allowed
    n = FIRST_LOOK
    while n < steps:
        doubt = size[..., n - 1] * (DOUBT / sqrt(n))
        rises |= (total[..., n - 1] - doubt) * WEIGHT * steps > allowed * float(n)
        n *= 2
    return rises


def _one_hot(index: Tensor, size: int) -> Tensor:
    return (index[..., None] == torch.arange(size, device=index.device)).long()
