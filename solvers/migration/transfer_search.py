"""The fewest transfers by exhaustive search, on 64-bit integers.

Is there a placement within the makespan limit ``T`` that takes at most m transfers? Experts are
placed in turn, those that several ranks hold first, then by falling load: how many replicas, and
how many of them on each rank. ``room[g]`` is the load that rank g may still take. Three bounds end
a branch:

- An expert left that only one rank holds brings its whole load to that rank, or is transferred.
  The heaviest are transferred first, until the others fit: so many transfers at least.
- All ranks together leave ``sum T - sum w`` tokens free and no more. A rank that stays further
  below T even with all experts left that it holds takes at least (what is missing) / (the heaviest
  load left) transfers.
- An expert goes only where there is room.

Where loads must be rounded they are rounded down, which loses no placement: "no" is still a proof.
A placement that is found is valued exactly; if it is above the limit after all, or breaks the rule
``home`` or its limit of traffic, of which the bounds know nothing, the search goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from eplb_opt.problem.layer import Layer
from solvers.arrays import Integers
from solvers.compiled import compile_within, compiled
from solvers.dispatch import value
from solvers.migration.result import follows_rule
from solvers.options import Budget
from solvers.scaling import scale_for

COMPLETE = 1 << 10
"""Work that a complete placement counts for, beside the steps to it: it is judged in Python."""
FOUND, EXHAUSTED, PAUSED = 0, 1, 2
SLACK, ROUNDING, MOST_REPLICAS, SPREAD = range(4)
"""Positions in ``settings``."""
EXPERT, REPLICAS, POSITION, TRANSFERS, DEPTH, BACK, WORK = range(7)
"""Positions in ``Tree.state``."""


@dataclass(frozen=True)
class TransferSearch:
    """A layer, where its experts are, and a makespan limit, as integers.

    Loads are in units of the scale. Experts have the numbers of the order in which they are placed.

    Attributes:
        layer: under the global rule or ``home``.
        makespan_limit: tokens on a rank at most.
        experts: [E] the expert that has each number.
        load: [E] load of the expert with each number.
        current_ranks: [E] number of ranks that hold the expert now.
        ranks: [E, G] the ranks that hold the expert now, then all others.
        room: [G] load that a rank may take.
        slots_per_rank: S.
        settings: [4] see :func:`advance`.
    """

    layer: Layer
    makespan_limit: Fraction
    experts: list[int]
    load: Integers
    current_ranks: Integers
    ranks: Integers
    room: Integers
    slots_per_rank: int
    settings: Integers = field(repr=False)

    @classmethod
    def of(cls, layer: Layer, old: Sequence[int], makespan_limit: Fraction) -> TransferSearch:
        """For the placement ``old`` [P]; under the global rule or ``home``."""
        num_ranks, per_rank = layer.topology.num_ranks, layer.topology.slots_per_rank
        current = [
            sorted({i // per_rank for i, x in enumerate(old) if x == e})
            for e in range(len(layer.loads))
        ]
        experts = sorted(
            range(len(layer.loads)), key=lambda e: (len(current[e]) == 1, -layer.loads[e])
        )
        scale = scale_for(layer, range(1, layer.most_replicas + 1))
        load = [scale.down(layer.loads[e] * layer.unit) for e in experts]
        room = min(scale.down(makespan_limit), sum(load) + 1)
        rounding = 0 if scale.exact else per_rank  # each replica on a rank loses less than 1
        slack = num_ranks * (room + rounding) - sum(load)
        settings = [slack, rounding, layer.most_replicas, int(layer.spread_replicas)]
        others = [[g for g in range(num_ranks) if g not in ranks] for ranks in current]
        return cls(
            layer,
            makespan_limit,
            experts,
            np.array(load, np.int64),
            np.array([len(current[e]) for e in experts], np.int64),
            np.array([current[e] + others[e] for e in experts], np.int64),
            np.full(num_ranks, room, np.int64),
            per_rank,
            np.array(settings, np.int64),
        )

    def find(self, transfers: int, budget: Budget) -> tuple[int, tuple[int, ...] | None]:
        """FOUND and phy2log [P], EXHAUSTED if no placement takes at most so many transfers, or
        PAUSED.
        """
        tree = TransferTree(
            np.array([-1, 0, 0, transfers, 0, 0, 0], np.int64),
            np.zeros((len(self.room) * self.slots_per_rank, 5), np.int64),
            np.zeros((2, len(self.load)), np.int64),
            self.room.copy(),
            np.full(len(self.room), self.slots_per_rank, np.int64),
        )
        if not compile_within(budget.seconds_left(), rehearse):
            budget.chunk()
            return PAUSED, None
        while work := budget.chunk():
            before = int(tree.state[WORK])
            outcome = advance(tree, self.load, self.current_ranks, self.ranks, self.settings, work)
            budget.charge(int(tree.state[WORK]) - before)
            if outcome == EXHAUSTED:
                return EXHAUSTED, None
            if outcome == FOUND:
                phy2log = self._read(tree)
                light = value(self.layer, phy2log).incumbent <= self.makespan_limit
                if light and follows_rule(self.layer, phy2log):
                    return FOUND, phy2log
                tree.state[BACK] = 1
                budget.charge(COMPLETE)
        return PAUSED, None

    def _read(self, tree: TransferTree) -> tuple[int, ...]:
        """The placement [P] of a complete tree."""
        content: list[list[int]] = [[] for _ in self.room]
        for i, j, times, _, _ in tree.frames[: tree.state[DEPTH]]:
            content[self.ranks[i, j]] += [self.experts[i]] * int(times)
        return tuple(e for rank in content for e in rank)


class TransferTree(NamedTuple):
    """Where the search stands: one branch, all int64. What :func:`advance` changes.

    Attributes:
        state: [7] the expert in hand; how many of its replicas are left to place; the position in
            its row of ``ranks`` from which on they may be placed; transfers left; number of frames;
            1 if the last frame is to be taken back, else 0; work so far.
        frames: [P, 5] what was placed: expert; position of the rank in the expert's row of
            ``ranks``; replicas put there; replicas left before; transfers left before.
        counts: [2, E] replicas of each expert in this branch, and the most that it may have.
        room: [G] load that a rank may still take.
        free_slots: [G] slots left.
    """

    state: Integers
    frames: Integers
    counts: Integers
    room: Integers
    free_slots: Integers


@compiled
def advance(
    tree: TransferTree,
    load: Integers,
    current_ranks: Integers,
    ranks: Integers,
    settings: Integers,
    work: int,
) -> int:
    """Do ``work`` steps more: FOUND, EXHAUSTED or PAUSED. All arrays are int64.

    Args:
        tree: where the search stands; it is changed.
        load: [E] load of each expert, in the order in which experts are placed.
        current_ranks: [E] number of ranks that hold the expert now.
        ranks: [E, G] the ranks that hold the expert now, then all others.
        settings: [4] load that all ranks together may leave free; load that a rank may lose by
            rounding; the most replicas of an expert; 1 if a rank may hold an expert only once.
        work: steps at most.
    """
    state, frames, counts, room, free_slots = tree
    for _ in range(work):
        state[WORK] += 1
        if state[BACK]:
            if state[DEPTH] == 0:
                return EXHAUSTED
            state[DEPTH] -= 1
            i, j, times, replicas, transfers = frames[state[DEPTH]]
            occupy(room, free_slots, ranks[i, j], -times, load[i] // counts[0, i])
            state[EXPERT], state[REPLICAS], state[POSITION] = i, replicas, j + 1
            state[TRANSFERS] = transfers
            state[BACK] = 0
            if times > 1:
                put(tree, load, current_ranks, ranks, j, times - 1)
        elif state[REPLICAS] > 0:
            j, times = find_rank(tree, load, current_ranks, ranks, settings)
            if times > 0:
                put(tree, load, current_ranks, ranks, j, times)
            elif state[REPLICAS] == counts[0, state[EXPERT]] < counts[1, state[EXPERT]]:
                counts[0, state[EXPERT]] += 1  # none of it is placed: one replica more
                state[REPLICAS], state[POSITION] = counts[0, state[EXPERT]], 0
            else:
                state[BACK] = 1
        else:
            state[EXPERT] += 1
            i = state[EXPERT]
            if i == len(load):
                return FOUND
            free = free_slots.sum() - (len(load) - i - 1)  # one slot for each expert after it
            counts[0, i] = free if i == len(load) - 1 else 1
            counts[1, i] = min(free, settings[MOST_REPLICAS])
            state[REPLICAS], state[POSITION] = counts[0, i], 0
            if counts[0, i] > counts[1, i] or not may_complete(
                i, state[TRANSFERS], load, current_ranks, ranks, room, free_slots, settings
            ):
                state[BACK] = 1
    return PAUSED


@compiled
def find_rank(
    tree: TransferTree, load: Integers, current_ranks: Integers, ranks: Integers, settings: Integers
) -> tuple[int, int]:
    """The position of the next rank with room for the expert in hand, and for how many replicas;
    (0, 0) if there is none. Arguments as in :func:`advance`.
    """
    state, _, counts, room, free_slots = tree
    i = state[EXPERT]
    share = load[i] // counts[0, i]
    for j in range(state[POSITION], len(room) if state[TRANSFERS] > 0 else current_ranks[i]):
        g = ranks[i, j]
        most = min(state[REPLICAS], free_slots[g])
        if settings[SPREAD]:
            most = min(most, 1)
        if share > 0:
            most = min(most, room[g] // share)
        if most > 0:
            return j, most
    return 0, 0


@compiled
def put(
    tree: TransferTree, load: Integers, current_ranks: Integers, ranks: Integers, j: int, times: int
) -> None:
    """Place ``times`` replicas of the expert in hand on the j-th rank of its row; arguments as in
    :func:`advance`.
    """
    state, frames, counts, room, free_slots = tree
    i = state[EXPERT]
    frame = frames[state[DEPTH]]
    frame[0], frame[1], frame[2] = i, j, times
    frame[3], frame[4] = state[REPLICAS], state[TRANSFERS]
    occupy(room, free_slots, ranks[i, j], times, load[i] // counts[0, i])
    state[DEPTH] += 1
    state[REPLICAS] -= times
    state[POSITION] = j + 1
    if j >= current_ranks[i]:
        state[TRANSFERS] -= 1


@compiled
def occupy(room: Integers, free_slots: Integers, g: int, times: int, share: int) -> None:
    """Rank g takes ``times`` replicas of load ``share``, or gives them back if negative.

    Args:
        room: [G] load that a rank may still take.
        free_slots: [G] slots left.
        g: the rank.
        times: replicas.
        share: load of one of them.
    """
    room[g] -= times * share
    free_slots[g] -= times


@compiled
def may_complete(
    i: int,
    transfers: int,
    load: Integers,
    current_ranks: Integers,
    ranks: Integers,
    room: Integers,
    free_slots: Integers,
    settings: Integers,
) -> bool:
    """Whether the bounds leave it open that so many transfers relieve and fill all ranks.

    Args:
        i: the first expert that is not placed.
        transfers: left.
        load: [E] load of each expert.
        current_ranks: [E] number of ranks that hold the expert now.
        ranks: [E, G] the ranks that hold the expert now, then all others.
        room: [G] load that a rank may still take.
        free_slots: [G] slots left.
        settings: [4] as in :func:`advance`.
    """
    alone = np.zeros((2, len(room)), np.int64)  # load and number of experts that only g holds
    most = np.zeros(len(room), np.int64)  # load of all experts that g holds
    heaviest = 0
    for e in range(i, len(load)):
        heaviest = max(heaviest, load[e])
        for j in range(current_ranks[e]):
            most[ranks[e, j]] += load[e]
        if current_ranks[e] == 1:
            alone[0, ranks[e, 0]] += load[e]
            alone[1, ranks[e, 0]] += 1
    away = here = 0
    for e in range(i, len(load)):
        g = ranks[e, 0]
        too_much = alone[0, g] > room[g] + settings[ROUNDING] or alone[1, g] > free_slots[g]
        if current_ranks[e] == 1 and too_much:
            alone[0, g] -= load[e]
            alone[1, g] -= 1
            away += 1
    for g in range(len(room)):
        missing = room[g] - most[g] - settings[SLACK]
        if missing > 0:
            here += -(-missing // heaviest)
    return max(away, here) <= transfers


def rehearse() -> None:
    """Compile all of it."""
    one = np.ones(2, np.int64)
    state, frames, counts = np.zeros(7, np.int64), np.zeros((4, 5), np.int64), np.zeros((2, 2), int)
    state[EXPERT] = -1
    tree, ranks = TransferTree(state, frames, counts, 9 * one, 2 * one), np.array([[0, 1], [1, 0]])
    advance(tree, one, one, ranks, np.array([9, 0, 2, 0]), 100)
