"""A placement improved by a few changes, under a budget of transfers.

Two kinds of change are tried, all of a kind at once for all rows:

- *swap*: a slot of the heaviest rank and a slot of another rank exchange their experts (two
  transfers, fewer where an expert is already or was before on its new rank);
- *new replica*: a slot whose expert has other replicas takes another expert (one transfer, none
  if its rank holds that expert now or held it before). The shares of both experts change
  everywhere.

Ranks should carry at most a target ``T``. With ``excess = sum over ranks of max(0, load - T)``, the
change with the most ``excess`` taken away per transfer is made; one that saves an earlier transfer
and adds no excess is made at once. Two passes:

1. ``T`` follows the makespan M down: ``T = floor + REACH (M - floor)``, where ``floor`` is the mean
   rank load. This gives the makespan for every number of transfers up to the budget.
2. ``T`` is fixed a little below what pass 1 reached with the budget, so that no transfer is spent
   on ranks that are light enough.

Every placement on the way is a candidate; for each budget the best that fits is kept.

Under the rule ``home`` no change takes an expert's last replica from home, or more tokens off home
than the limit (:mod:`heuristics.keeping_home`). If they are above it from the start, tokens beyond
the limit count as excess, too, and of two placements the one with fewer of them is better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from heuristics.keeping_home import Homes, Leaving
from heuristics.matching import count_on_ranks, keep_slots
from heuristics.replication import count_replicas

REACH = 0.2
"""Target over floor as a share of makespan over floor, in the first pass."""
FIXED = 0.8
"""The same in the second pass, with the makespan that the first reached; fixed there."""
CHANGES_PER_TRANSFER, MORE_CHANGES = 2, 20
"""Changes in a pass at most: so many for each transfer of the budget, and some more."""
NOISE = 1e-6
"""Relative to the target: an excess below this is rounding."""
GAIN = 1e-12
"""A makespan is smaller if it is by this ratio; the sum of a rank is exact to 1e-14 or so."""


@dataclass(frozen=True)
class Migration:
    """Placements that replace an old one, by budget.

    Attributes:
        budgets: transfers of a row at most, ascending.
        makespan: [B, n] float64 for each of the n budgets; none is above the old one, unless that
            is above the limit of traffic.
        phy2log: [B, n, P] int64.
        beyond: [B, n] float64 tokens served off home beyond the limit.
    """

    budgets: tuple[int, ...]
    makespan: Tensor
    phy2log: Tensor
    beyond: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Makespan, phy2log and beyond."""
        return self.makespan, self.phy2log, self.beyond


@dataclass(frozen=True)
class _Task:
    """What does not change on the way: loads [B, E] float64, old [B, P], what ranks held and may
    hold [B, G, E] bool, the mean rank load [B], and the n budgets, [B, n]; homes, under that rule.
    """

    loads: Tensor
    old: Tensor
    before: Tensor
    allowed: Tensor
    floor: Tensor
    budgets: Tensor
    homes: Homes | None = None

    @property
    def num_ranks(self) -> int:
        return self.before.shape[1]

    @property
    def rank(self) -> Tensor:
        slots = self.old.shape[1]
        return torch.arange(slots, device=self.old.device) // (slots // self.num_ranks)

    def rows(self, which: Tensor) -> _Task:
        """Some rows of it."""
        fields = (getattr(self, name) for name in self.__dataclass_fields__)
        kept: Iterator[Any] = (None if field is None else field[which] for field in fields)
        return _Task(*kept)


@dataclass(frozen=True)
class _Change:
    """One change of each row: ``slot`` takes ``expert``, then ``other`` takes ``returned``; with
    the score by which it is chosen (``-inf``: there is none) and how many transfers it adds
    (negative: it saves earlier ones). All [B].
    """

    score: Tensor
    transfers: Tensor
    slot: Tensor
    expert: Tensor
    other: Tensor
    returned: Tensor

    def or_better(self, rival: _Change) -> _Change:
        """Row by row the one with the higher score."""
        wins = rival.score > self.score
        names = self.__dataclass_fields__
        return _Change(*(torch.where(wins, getattr(rival, n), getattr(self, n)) for n in names))


def migrate(
    loads: Tensor,
    old: Tensor,
    num_ranks: int,
    budgets: Sequence[int],
    *,
    num_nodes: int = 1,
    num_groups: int = 1,
    traffic: float | None = None,
    second_passes: Sequence[int] | None = None,
) -> Migration:
    """The best placements found with at most so many transfers a row.

    Under the hierarchical rule the groups stay on the nodes where ``old`` has them; under ``home``
    their homes stay, and other replicas may go anywhere.

    Args:
        loads: [B, E] tokens per logical expert now.
        old: [B, P] a valid placement.
        num_ranks: G.
        budgets: transfers a row at most.
        num_nodes: N, 1 under the global rule.
        num_groups: K, under the rule ``home``.
        traffic: under ``home`` the part of a row's tokens that may be served off home; None under
            the other rules.
        second_passes: the budgets for which the second pass is made, in ascending order; None for
            the largest alone. Makespan over the mean rank load with budgets of 5, 10, 20, 40 (mean
            of 26 layers of 64 to 256 experts): 2.32, 0.95, 0.32, 0.07 % with none, 2.14, 0.89,
            0.28, 0.06 % with the largest, 1.96, 0.77, 0.26, 0.06 % with all, in up to three times
            the time.

    Returns:
        A placement for each budget; no makespan is above that of ``old`` or of a smaller budget. A
        heuristic. Where ``old`` is above the limit of traffic, as it may be when loads have
        changed, fewer tokens beyond it come first, and a small budget may leave some.
    """
    budgets, loads = tuple(sorted(set(budgets))), loads.double()
    if traffic is None or num_nodes == 1:
        task = _set_up(loads, old, num_ranks, num_nodes, budgets)
    else:
        homes = Homes.of(old, loads, num_ranks, num_nodes, num_groups, traffic)
        task = replace(_set_up(loads, old, num_ranks, 1, budgets), homes=homes)
    found = _start(task, budgets)
    found = _run_pass(task, found, found.budgets[-1], None)
    for budget in found.budgets[-1:] if second_passes is None else second_passes:
        reached = found.makespan[:, found.budgets.index(budget)]
        found = _run_pass(task, found, budget, task.floor + FIXED * (reached - task.floor))
    kept = [keep_slots(found.phy2log[:, i], old, num_ranks) for i in range(len(found.budgets))]
    return replace(found, phy2log=torch.stack(kept, 1))


def _set_up(
    loads: Tensor, old: Tensor, num_ranks: int, num_nodes: int, budgets: tuple[int, ...]
) -> _Task:
    rows, experts = loads.shape
    before = count_on_ranks(old, num_ranks, experts) > 0
    node = before.view(rows, num_nodes, -1, experts).any(2)
    if num_nodes == 1:
        node = torch.ones_like(node)
    allowed = node.repeat_interleave(num_ranks // num_nodes, 1)
    load = (loads[:, None] * node).sum(2) * (num_nodes / num_ranks)
    floor = load.amax(1).clamp(min=torch.finfo(torch.float64).tiny * 2**60)
    limits = torch.tensor(budgets, device=old.device).repeat(rows, 1)
    return _Task(loads, old, before, allowed, floor, limits)


def _start(task: _Task, budgets: tuple[int, ...]) -> Migration:
    state, many = _State.of(task, task.old, task.floor), len(budgets)
    makespan, beyond = (x[:, None].repeat(1, many) for x in (state.makespan, state.beyond))
    return Migration(budgets, makespan, task.old[:, None].repeat(1, many, 1), beyond)


def _run_pass(task: _Task, found: Migration, budget: int, target: Tensor | None) -> Migration:
    """Change after change from the old placement.

    On a CPU rows that have come to their end drop out. Elsewhere they stay, unchanged, and all
    changes are tried: the host would have to wait for which rows go on.
    """
    rows = torch.arange(len(task.old), device=task.old.device)
    placed, used = task.old, torch.zeros_like(rows)
    for _ in range(CHANGES_PER_TRANSFER * budget + MORE_CHANGES):
        state = _State.of(task, placed, target)
        found = _note(found, rows, state, used, task.budgets)
        change = _find_change(task, state, budget - used)
        goes = change.score > -torch.inf
        changed = placed.scatter(1, change.slot[:, None], change.expert[:, None])
        changed = changed.scatter(1, change.other[:, None], change.returned[:, None])
        placed = torch.where(goes[:, None], changed, placed)
        used = used + torch.where(goes, change.transfers, 0)
        if goes.device.type == "cpu" and not bool(goes.all()):
            rows, placed, used, task = rows[goes], placed[goes], used[goes], task.rows(goes)
            target = None if target is None else target[goes]
            if len(rows) == 0:
                break
    return found


def _note(found: Migration, rows: Tensor, state: _State, used: Tensor, limits: Tensor) -> Migration:
    """``found`` with the placements of some rows, where they fit a budget and are better."""
    best, placed = found.makespan[rows], found.phy2log[rows]
    beyond, now = found.beyond[rows], state.beyond[:, None]
    lighter = (state.makespan[:, None] < best * (1 - GAIN)) & (now <= beyond)
    better = (used[:, None] <= limits) & (lighter | (now < beyond))
    found = Migration(found.budgets, *(x.clone() for x in found.tensors))
    found.makespan[rows] = torch.where(better, state.makespan[:, None], best)
    found.phy2log[rows] = torch.where(better[:, :, None], state.placed[:, None], placed)
    found.beyond[rows] = torch.where(better, now, beyond)
    return found


@dataclass(frozen=True)
class _State:
    """Placements [B, P] and what scoring needs; loads in float32 as multiples of the target.

    Attributes:
        placed: [B, P].
        makespan: [B] float64 makespan in tokens.
        counts: [B, E] replicas.
        weight: [B, E] load of an expert, share: that of one replica.
        over: [B, G] rank load less 1.
        number: [B, G, E] how often a rank holds an expert.
        enters: [B, G, E] bool: the expert would be a transfer to the rank.
        returns: [B, P] bool: the slot's expert is a transfer, which is saved if the slot takes
            another one.
        leaving: what is served off home, under the rule ``home``.
        target: [B] float64 tokens.
    """

    placed: Tensor
    makespan: Tensor
    counts: Tensor
    weight: Tensor
    share: Tensor
    over: Tensor
    number: Tensor
    enters: Tensor
    returns: Tensor
    leaving: Leaving | None
    target: Tensor

    @property
    def beyond(self) -> Tensor:
        """[B] tokens served off home beyond the limit."""
        return torch.zeros_like(self.makespan) if self.leaving is None else self.leaving.beyond

    @classmethod
    def of(cls, task: _Task, placed: Tensor, target: Tensor | None) -> _State:
        """With a target [B], or one that follows the makespan."""
        rows, experts = task.loads.shape
        counts = count_replicas(placed, experts)
        share = task.loads / counts
        load = share.gather(1, placed).view(rows, task.num_ranks, -1).sum(2)
        makespan = load.amax(1)
        if target is None:
            target = task.floor + REACH * (makespan - task.floor)
        number = count_on_ranks(placed, task.num_ranks, experts)
        cell = task.rank * experts + placed
        alone = number.flatten(1).gather(1, cell) == 1
        new = ~task.before.flatten(1).gather(1, cell)
        weight, share = ((x / target[:, None]).float() for x in (task.loads, share))
        over = (load / target[:, None] - 1).float()
        enters = (number == 0) & ~task.before
        leaving = None if task.homes is None else Leaving.of(task.homes, number)
        returns = alone & new
        return cls(placed, makespan, counts, weight, share, over, number, enters, returns, leaving,
                   target)  # fmt: skip

    def count_leaving(
        self, gain: Tensor, possible: Tensor, change: Callable[[Leaving], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """``gain`` and ``possible`` of changes [B, ..] with what the rule ``home`` says to the
        tokens that they take off home.
        """
        if self.leaving is None:
            return gain, possible
        keeps, fewer = self.leaving.judge(change(self.leaving))
        return gain + (fewer / self.target[:, None, None]).float(), possible & keeps


def _find_change(task: _Task, state: _State, left: Tensor) -> _Change:
    """The change with the best score of each row, with at most ``left`` [B] transfers."""
    change = _find_swap(task, state, left)
    if task.old.shape[1] == task.loads.shape[1]:  # no expert has a replica to spare
        return change
    return change.or_better(_find_replica(task, state, left))


def _excess(over: Tensor) -> Tensor:
    return over.clamp(min=0)


def _score(gain: Tensor, transfers: Tensor, possible: Tensor, left: Tensor) -> Tensor:
    """Excess taken away per transfer; a change without one counts as a tenth of a transfer.

    A change that saves a transfer and adds no excess comes before all others.
    """
    score = torch.where(gain > NOISE, gain / transfers.clamp(min=0.1), -torch.inf)
    score = torch.where((transfers < 0) & (gain >= 0), 1e6 + gain, score)
    return torch.where(possible & (transfers <= left[:, None, None]), score, -torch.inf)


def _find_swap(task: _Task, state: _State, left: Tensor) -> _Change:
    """Of all exchanges between the heaviest rank a and another rank b: expert x of a, y of b."""
    rows, num_slots = state.placed.shape
    per_rank, every = num_slots // task.num_ranks, torch.arange(rows, device=left.device)
    a, rank = state.over.argmax(1), task.rank
    own = a[:, None] * per_rank + torch.arange(per_rank, device=left.device)
    x, slot_share = state.placed.gather(1, own), state.share.gather(1, state.placed)
    moved = slot_share.gather(1, own)[:, :, None] - slot_share[:, None]
    over_a, over_b = state.over.gather(1, a[:, None])[:, :, None], state.over[:, None, rank]
    gain = _excess(over_a) + _excess(over_b)
    gain = gain - _excess(over_a - moved) - _excess(over_b + moved)

    def of_x(table: Tensor) -> Tensor:  # [B, G, E] -> [B, S, P]: x on the rank of each slot
        picked = table.gather(2, x[:, None, :].expand(-1, task.num_ranks, -1))
        return picked[:, rank].transpose(1, 2)

    def of_y(table: Tensor) -> Tensor:  # [B, G, E] -> [B, 1, P]: y of each slot on a
        return table[every, a].gather(1, state.placed)[:, None]

    saved = state.returns[:, None].int() + state.returns.gather(1, own)[:, :, None].int()
    transfers = of_x(state.enters).int() + of_y(state.enters).int() - saved
    possible = of_x(task.allowed) & of_y(task.allowed) & (x[:, :, None] != state.placed[:, None])
    possible &= rank != a[:, None, None]
    gain, possible = state.count_leaving(
        gain, possible, lambda leaving: leaving.by_swap(x, a, state.placed, rank)
    )
    best, which = _score(gain, transfers, possible, left).flatten(1).max(1)
    slot, other = own.gather(1, which[:, None] // num_slots)[:, 0], which % num_slots
    y, returned = (state.placed.gather(1, p[:, None])[:, 0] for p in (other, slot))
    paid = transfers.flatten(1).gather(1, which[:, None])[:, 0].long()
    return _Change(best, paid, slot, y, other, returned)


def _find_replica(task: _Task, state: _State, left: Tensor) -> _Change:
    """Of all slots p on rank r whose expert x has other replicas, and experts y to take the slot.

    With A_g >= 0 and B_g <= 0 what rank g != r gains by the larger shares of x and loses by the
    smaller shares of y, ``excess(l + A + B) <= excess(l + A) + excess(l + B) - excess(l)`` (it is
    convex), so the two are scored apart; rank r is scored exactly. No gain is overrated.
    """
    experts = task.loads.shape[1]
    spare = min(state.placed.shape[1], 2 * (state.placed.shape[1] - experts))
    copies, slot = state.counts.gather(1, state.placed).topk(spare, 1)
    x, r = state.placed.gather(1, slot), task.rank[slot]
    grown = state.weight / (state.counts - 1).clamp(min=1) - state.share
    shrunk = state.weight / (state.counts + 1) - state.share
    number, over = state.number.float(), state.over[:, :, None]
    relief = _excess(over) - _excess(over + number * shrunk[:, None])
    of_x = number.gather(2, x[:, None].expand(-1, task.num_ranks, -1))
    harm = _excess(over + of_x * grown.gather(1, x)[:, None]) - _excess(over)
    here = r[:, :, None].expand(-1, -1, experts)
    elsewhere = relief.sum(1)[:, None] - relief.gather(1, here)
    elsewhere = elsewhere - (harm.sum(1) - harm.gather(1, r[:, None])[:, 0])[:, :, None]
    on_r, x_shares = number.gather(1, here), (state.share + grown).gather(1, x)[:, :, None]
    mine = state.over.gather(1, r)[:, :, None]
    after = mine + on_r.gather(2, x[:, :, None]) * grown.gather(1, x)[:, :, None] - x_shares
    after = after + on_r * shrunk[:, None] + (state.share + shrunk)[:, None]
    gain = elsewhere + _excess(mine) - _excess(after)
    saved = state.returns.gather(1, slot)[:, :, None].int()
    transfers = state.enters.gather(1, here).int() - saved
    y = torch.arange(experts, device=left.device)
    possible = (copies > 1)[:, :, None] & (y != x[:, :, None]) & task.allowed.gather(1, here)
    gain, possible = state.count_leaving(gain, possible, lambda home: home.by_replica(x, r))
    best, which = _score(gain, transfers, possible, left).flatten(1).max(1)
    chosen, expert = slot.gather(1, which[:, None] // experts)[:, 0], which % experts
    paid = transfers.flatten(1).gather(1, which[:, None])[:, 0].long()
    return _Change(best, paid, chosen, expert, chosen, expert)
