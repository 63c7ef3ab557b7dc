"""What must move between ranks when one placement replaces another.

A slot whose expert stays needs nothing. An expert that its rank held before, in another slot, is
copied locally. Every other expert that a rank needs is one *transfer* from a rank that held it,
however many slots of the rank will hold it.

Ranks that come or go: both maps are written over the same ranks, with -1 in the slots of ranks that
do not hold (or will not hold) anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

EMPTY = -1
"""In a map: a slot of a rank that has not started or is about to leave."""


@dataclass(frozen=True)
class Transfer:
    """The weights of one expert, sent to a rank that did not hold them.

    Attributes:
        expert: the logical expert.
        sender: rank that held it.
        receiver: rank that did not.
        source: slot of the sender that it is read from.
        target: first slot of the receiver that will hold it.
    """

    expert: int
    sender: int
    receiver: int
    source: int
    target: int


def count_transfers(old: ArrayLike, new: ArrayLike, slots_per_rank: int) -> NDArray[np.int64]:
    """Transfers to each rank: [L, G] int64 from maps [L, P].

    ``|{new experts of the rank} - {old experts of the rank}|``. No executor can
    do with fewer.
    """
    before, after = (_find_holders(np.asarray(m), slots_per_rank) for m in (old, new))
    width = max(before.shape[2], after.shape[2])
    before, after = (np.pad(m, ((0, 0), (0, 0), (0, width - m.shape[2]))) for m in (before, after))
    count: NDArray[np.int64] = (after & ~before).sum(2)
    return count


def count_copies(old: ArrayLike, new: ArrayLike, slots_per_rank: int) -> NDArray[np.int64]:
    """Slots of each rank that are filled from the rank's own memory: [L, G] int64.

    Those that change, less :func:`count_transfers`.
    """
    before, after = np.asarray(old), np.asarray(new)
    changed = (before != after) & (after != EMPTY)
    per_rank: NDArray[np.int64] = changed.reshape(len(changed), -1, slots_per_rank).sum(2)
    return per_rank - count_transfers(old, new, slots_per_rank)


def _find_holders(phy2log: NDArray[np.int64], slots_per_rank: int) -> NDArray[np.bool_]:
    """Which experts each rank holds, [L, G, E]."""
    layers, slots = phy2log.shape
    held = np.zeros((layers, slots // slots_per_rank, int(phy2log.max()) + 2), dtype=bool)
    rank = np.broadcast_to(np.arange(slots) // slots_per_rank, phy2log.shape)
    held[np.arange(layers)[:, None], rank, phy2log] = True  # EMPTY falls into the last column
    return held[:, :, :-1]


def plan_transfers(
    old: ArrayLike,
    new: ArrayLike,
    slots_per_rank: int,
    node_of_rank: Sequence[int] | None = None,
) -> list[Transfer]:
    """Who sends what to whom in one layer, for maps [P].

    Holders on the receiver's node send first; then receivers are shared evenly over the holders of
    an expert, and experts over ranks. Deterministic: every rank computes the same plan.

    Args:
        old: [P] expert in each slot now.
        new: [P] expert in each slot afterwards.
        slots_per_rank: S.
        node_of_rank: [G]; None: all ranks are on one node.

    Raises:
        ValueError: the maps differ in length, or nobody holds an expert that is needed.
    """
    before, after = (np.asarray(m).tolist() for m in (old, new))
    if len(before) != len(after):
        raise ValueError(f"maps of {len(before)} and {len(after)} slots are not of the same ranks")
    holders = _first_slots(before, slots_per_rank)
    receivers = {
        expert: {rank: slot for rank, slot in ranks.items() if rank not in holders.get(expert, {})}
        for expert, ranks in sorted(_first_slots(after, slots_per_rank).items())
    }
    missing = [expert for expert, ranks in receivers.items() if ranks and expert not in holders]
    if missing:
        raise ValueError(f"no rank holds expert {missing[0]}, which the new placement needs")
    nodes = node_of_rank or [0] * (len(before) // slots_per_rank)
    sent: Counter[int] = Counter()
    transfers = []
    for expert, targets in receivers.items():
        sends: Counter[int] = Counter()
        near = {nodes[rank] for rank in holders[expert]} if targets else set()
        for rank in sorted(targets, key=lambda r: (nodes[r] not in near, r)):
            same = [h for h in holders[expert] if nodes[h] == nodes[rank]]
            sender = min(same or holders[expert], key=lambda h: (sends[h], sent[h], h))
            sends[sender] += 1
            sent[sender] += 1
            source = holders[expert][sender]
            transfers.append(Transfer(expert, sender, rank, source, targets[rank]))
    return transfers


def _first_slots(phy2log: list[int], slots_per_rank: int) -> dict[int, dict[int, int]]:
    """Of each expert the ranks that hold it, and their first slot with it."""
    found: dict[int, dict[int, int]] = {}
    for slot, expert in enumerate(phy2log):
        if expert != EMPTY:
            found.setdefault(expert, {}).setdefault(slot // slots_per_rank, slot)
    return found


def over_same_ranks(
    old: ArrayLike, new: ArrayLike, stays: Sequence[int], slots_per_rank: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two maps of different ranks, written over all of them: those of ``old``, then the fresh ones.

    Args:
        old: [L, P] on the old ranks.
        new: [L, P'] on the new ranks.
        stays: for each old rank its number among the new ones, or -1 if it leaves.
        slots_per_rank: S.

    Returns:
        Both as [L, F S], F = old ranks and new ranks that were no old ones (in order), with
        ``EMPTY`` where a rank has not started or leaves.
    """
    before, after = np.asarray(old), np.asarray(new)
    num_new = after.shape[1] // slots_per_rank
    fresh = [rank for rank in range(num_new) if rank not in stays]
    numbers = np.array([*stays, *fresh])
    shape = (len(before), len(numbers), slots_per_rank)
    first, second = np.full(shape, EMPTY), np.full(shape, EMPTY)
    first[:, : len(stays)] = before.reshape(len(before), -1, slots_per_rank)
    ranks = after.reshape(len(after), num_new, slots_per_rank)
    second[:, numbers >= 0] = ranks[:, numbers[numbers >= 0]]
    return first.reshape(len(before), -1), second.reshape(len(after), -1)
