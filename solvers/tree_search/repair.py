"""Large neighbourhoods: re-pack a few ranks exactly so that none of them is above a goal.

A rank above the goal is joined by ranks whose room makes up for its excess; the tree search splits
their items anew. Each success leaves fewer ranks above the goal, none above if the goal is met.
"""

from __future__ import annotations

import numpy as np

from solvers.arrays import Integers
from solvers.options import Budget
from solvers.tree_search.splitting import FOUND, WORK, advance, new_tree

ITEMS = 27
"""Items re-packed at once: three ranks of nine, as many as a few milliseconds explore."""
TRY_WORK = 20_000


def repair(
    ranks: Integers,
    size: Integers,
    goal: int,
    *,
    spread: bool,
    tries: int,
    budget: Budget,
    random: np.random.Generator,
) -> Integers:
    """``ranks`` [G, S] with fewer above ``goal`` if ``tries`` re-packings do it; ``size`` [E]."""
    ranks = ranks.copy()
    loads = size[ranks].sum(axis=1)
    for _ in range(tries):
        above = np.flatnonzero(loads > goal)
        work = min(TRY_WORK, budget.chunk())
        if not len(above) or not work:
            break
        few = choose_ranks(loads, int(random.choice(above)), goal, ranks.shape[1], random)
        if few is None:
            continue
        packing, used = repack(ranks[few], size, goal, spread, work)
        budget.charge(used)
        if packing is not None:
            ranks[few] = packing
            loads[few] = size[packing].sum(axis=1)
    return ranks


def choose_ranks(
    loads: Integers, worst: int, goal: int, slots_per_rank: int, random: np.random.Generator
) -> Integers | None:
    """Rank ``worst`` and random others that together fit under ``goal``; None if none are seen."""
    number = min(len(loads), max(3, ITEMS // slots_per_rank))
    for _ in range(10):
        others = random.permutation(np.delete(np.arange(len(loads)), worst))[: number - 1]
        few = np.r_[worst, others]
        if loads[few].sum() <= len(few) * goal:
            return np.asarray(few)
    return None


def repack(
    ranks: Integers, size: Integers, goal: int, spread: bool, work: int
) -> tuple[Integers | None, int]:
    """These ranks packed anew with none above ``goal``, None if not found; and the work done."""
    experts = ranks.ravel()
    order = np.lexsort((experts, -size[experts]))
    experts = experts[order]
    items = size[experts]
    kind = experts if spread else np.cumsum(np.r_[0, np.diff(items) != 0])
    tree = new_tree(items, len(ranks), kind, spread)
    state = advance(tree, kind, goal, spread, work)
    packing: Integers | None = tree.packing(experts) if state == FOUND else None
    return packing, int(tree.counters[WORK])
