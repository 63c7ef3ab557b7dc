"""The fewest receives by exhaustive search, on 64-bit integers.

Is there a placement within the makespan limit ``T`` that receives at most m experts? Experts are
placed in turn, those that several ranks hold first, then by falling load: how many replicas, and
how many of them on each rank. With ``room[g]`` what g may still take, three bounds end a branch:

- experts left that one rank alone holds bring their whole load to it, unless they are received
  elsewhere: the fewest of them that must go, the heaviest first;
- all ranks together leave ``sum T - sum w`` tokens free and no more. A rank that cannot come that
  near to T, with all experts left that it holds, receives at least (what is missing) / (the
  heaviest load left) more;
- an expert goes only where there is room.

Where loads must be rounded they are rounded down, which loses no placement: then "no" is still a
proof, and a placement that is found must be valued exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.layer import Layer
from solvers.compiled import compile_within, compiled
from solvers.options import Budget
from solvers.scaling import scale_for

Integers = NDArray[np.int64]

FOUND, EXHAUSTED, PAUSED = 0, 1, 2
SPARE, LOSS, MOST, SPREAD = range(4)
EXPERT, LEFT, AT, MOVES, DEPTH, BACK, USED = range(7)


@dataclass(frozen=True)
class MoveSearch:
    """A layer, where its experts are, and a makespan limit, as integers.

    Attributes:
        experts: [E] in the order in which they are placed.
        load: [E] in that order. homes: [E] how many ranks hold the expert. order: [E, G] these
        ranks, then the others. room: [G] integers that a rank may take. settings: see the names
        above.
    """

    experts: list[int]
    load: Integers
    homes: Integers
    order: Integers
    room: Integers
    size: int
    settings: Integers = field(repr=False)

    @classmethod
    def of(cls, layer: Layer, old: Sequence[int], makespan_limit: Fraction) -> MoveSearch:
        """For the placement ``old`` [P]; under the global rule."""
        ranks, size = layer.topology.num_ranks, layer.topology.slots_per_rank
        held = [
            sorted({i // size for i, x in enumerate(old) if x == e})
            for e in range(len(layer.loads))
        ]
        experts = sorted(
            range(len(layer.loads)), key=lambda e: (len(held[e]) == 1, -layer.loads[e])
        )
        scale = scale_for(layer, range(1, layer.most_replicas + 1))
        load = [scale.down(layer.loads[e] * layer.unit) for e in experts]
        room = min(scale.down(makespan_limit), sum(load) + 1)
        lost = 0 if scale.exact else size  # rounding, of the replicas on a rank
        spare = ranks * (room + lost) - sum(load)
        most, spread = layer.most_replicas, int(layer.spread_replicas)
        order = [[*held[e], *(g for g in range(ranks) if g not in held[e])] for e in experts]
        return cls(
            experts,
            np.array(load, np.int64),
            np.array([len(held[e]) for e in experts], np.int64),
            np.array(order, np.int64),
            np.full(ranks, room, np.int64),
            size,
            np.array([spare, lost, most, spread], np.int64),
        )

    def within(self, moves: int, budget: Budget) -> tuple[int, tuple[int, ...] | None]:
        """FOUND and slots [P], EXHAUSTED if no placement receives at most ``moves``, or PAUSED."""
        tree = Tree(
            np.array([-1, 0, 0, moves, 0, 0, 0], np.int64),
            np.zeros((len(self.room) * self.size, 5), np.int64),
            np.zeros((2, len(self.load)), np.int64),
            self.room.copy(),
            np.full(len(self.room), self.size, np.int64),
        )
        if not compile_within(budget.seconds_left(), rehearse):
            budget.chunk()
            return PAUSED, None
        while nodes := budget.chunk():
            before = int(tree.state[USED])
            state = advance(tree, self.load, self.homes, self.order, self.settings, nodes)
            budget.charge(int(tree.state[USED]) - before)
            if state != PAUSED:
                return state, self._slots(tree) if state == FOUND else None
        return PAUSED, None

    def _slots(self, tree: Tree) -> tuple[int, ...]:
        ranks: list[list[int]] = [[] for _ in self.room]
        for i, j, times, _, _ in tree.frames[: tree.state[DEPTH]]:
            ranks[self.order[i, j]] += [self.experts[i]] * int(times)
        return tuple(e for rank in ranks for e in rank)


class Tree(NamedTuple):
    """Where the search stands.

    Attributes:
        state: the expert in hand, how many of its replicas are left, from which of its ranks on,
        receives left, frames, whether the last frame is to be taken back, and steps so far.
        frames: [P, 5] expert, position of the rank in its order, replicas put there, and what was
        left before: replicas and receives.
        counts: [2, E] replicas of each expert, and the most of them.
        room: [G] and slots: [G] that are left.
    """

    state: Integers
    frames: Integers
    counts: Integers
    room: Integers
    slots: Integers


@compiled
def advance(
    tree: Tree, load: Integers, homes: Integers, order: Integers, settings: Integers, nodes: int
) -> int:
    """``nodes`` steps more: FOUND, EXHAUSTED or PAUSED."""
    state, frames, counts, room, slots = tree
    for _ in range(nodes):
        state[USED] += 1
        if state[BACK]:
            if state[DEPTH] == 0:
                return EXHAUSTED
            state[DEPTH] -= 1
            i, j, times, left, moves = frames[state[DEPTH]]
            shift(room, slots, order[i, j], -times, load[i] // counts[0, i])
            state[EXPERT], state[LEFT], state[AT], state[MOVES] = i, left, j + 1, moves
            state[BACK] = 0
            if times > 1:
                put(tree, load, homes, order, j, times - 1)
        elif state[LEFT] > 0:
            j, times = next_rank(tree, load, homes, order, settings)
            if times > 0:
                put(tree, load, homes, order, j, times)
            elif state[LEFT] == counts[0, state[EXPERT]] < counts[1, state[EXPERT]]:
                counts[0, state[EXPERT]] += 1  # none of it is placed: one replica more
                state[LEFT], state[AT] = counts[0, state[EXPERT]], 0
            else:
                state[BACK] = 1
        else:
            state[EXPERT] += 1
            i = state[EXPERT]
            if i == len(load):
                return FOUND
            free = slots.sum() - (len(load) - i - 1)
            counts[0, i] = free if i == len(load) - 1 else 1
            counts[1, i] = min(free, settings[MOST])
            state[LEFT], state[AT] = counts[0, i], 0
            if counts[0, i] > counts[1, i] or not possible(
                i, state[MOVES], load, homes, order, room, slots, settings
            ):
                state[BACK] = 1
    return PAUSED


@compiled
def next_rank(
    tree: Tree, load: Integers, homes: Integers, order: Integers, settings: Integers
) -> tuple[int, int]:
    """The next rank of the expert in hand that has room, by its position, and for how many."""
    state, _, counts, room, slots = tree
    i = state[EXPERT]
    share = load[i] // counts[0, i]
    for j in range(state[AT], len(room) if state[MOVES] > 0 else homes[i]):
        g = order[i, j]
        most = min(state[LEFT], slots[g])
        if settings[SPREAD]:
            most = min(most, 1)
        if share > 0:
            most = min(most, room[g] // share)
        if most > 0:
            return j, most
    return 0, 0


@compiled
def put(tree: Tree, load: Integers, homes: Integers, order: Integers, j: int, times: int) -> None:
    """Place replicas of the expert in hand on the j-th of its ranks."""
    state, frames, counts, room, slots = tree
    i = state[EXPERT]
    frame = frames[state[DEPTH]]
    frame[0], frame[1], frame[2], frame[3], frame[4] = i, j, times, state[LEFT], state[MOVES]
    shift(room, slots, order[i, j], times, load[i] // counts[0, i])
    state[DEPTH] += 1
    state[LEFT] -= times
    state[AT] = j + 1
    if j >= homes[i]:
        state[MOVES] -= 1


@compiled
def shift(room: Integers, slots: Integers, g: int, times: int, share: int) -> None:
    """Rank g takes ``times`` replicas of that share."""
    room[g] -= times * share
    slots[g] -= times


@compiled
def possible(
    i: int,
    moves: int,
    load: Integers,
    homes: Integers,
    order: Integers,
    room: Integers,
    slots: Integers,
    settings: Integers,
) -> bool:
    """Whether ``moves`` receives can relieve and fill all ranks, as far as the bounds say."""
    alone = np.zeros((3, len(room)), np.int64)  # load, number, and how many of them must go
    most = np.zeros(len(room), np.int64)
    heaviest = 0
    for e in range(i, len(load)):
        heaviest = max(heaviest, load[e])
        for j in range(homes[e]):
            most[order[e, j]] += load[e]
        if homes[e] == 1:
            alone[0, order[e, 0]] += load[e]
            alone[1, order[e, 0]] += 1
    away = here = 0
    for e in range(i, len(load)):
        g = order[e, 0]
        if homes[e] == 1 and (alone[0, g] > room[g] + settings[LOSS] or alone[1, g] > slots[g]):
            alone[0, g] -= load[e]
            alone[1, g] -= 1
            away += 1
    for g in range(len(room)):
        missing = room[g] - most[g] - settings[SPARE]
        if missing > 0:
            here += -(-missing // heaviest)
    return max(away, here) <= moves


def rehearse() -> None:
    """Compile all of it."""
    one = np.ones(2, np.int64)
    state, frames, counts = np.zeros(7, np.int64), np.zeros((4, 5), np.int64), np.zeros((2, 2), int)
    state[EXPERT] = -1
    tree, order = Tree(state, frames, counts, 9 * one, 2 * one), np.array([[0, 1], [1, 0]])
    advance(tree, one, one, order, np.array([9, 0, 2, 0]), 100)
