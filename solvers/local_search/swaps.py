"""Swaps of slots and other experts in slots, valued over all steps: a heuristic for any cost."""

from __future__ import annotations

import numpy as np

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost
from eplb_opt.problem.topology import Rule
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.local_search.steps import is_solution
from solvers.options import Budget, OutOfBudgetError

PATIENCE = 30
"""Moves a slot in a row without improvement that end a descent."""
KICK = 4
"""Moves that are taken whatever they cost, from the best placement, for the next descent."""


def improve_over_steps(
    layer: Layer, cost: Cost, known: Bracket, budget: Budget, *, keep_counts: bool = False
) -> Bracket:
    """``known`` with the best placement that descents by random moves lead to; a move that costs no
    more is taken. One descent without a limit, else one after the other.

    A move swaps two slots of a node, or gives the slot of a replica to another expert of the node
    (unless ``keep_counts``). It counts as work T times E. Repeatable for the seed.
    """
    random = np.random.default_rng(budget.options.seed)
    best = here = value(layer, known.phy2log, *cost)
    fruitless, free = 0, 0
    try:
        while best.value != known.bound:
            if fruitless == PATIENCE * len(known.phy2log):
                if not budget.limited:
                    break
                here, fruitless, free = best, 0, KICK
            budget.spend(layer.steps.size)
            fruitless += 1
            phy2log = _move(layer, here.phy2log, random, keep_counts)
            if not is_solution(layer, phy2log, cost):
                continue
            found = value(layer, phy2log, *cost)
            if found.incumbent < here.incumbent:
                fruitless = 0
            if free or found.incumbent <= here.incumbent:
                here, free = found, max(0, free - 1)
            best = best.with_placement(here)
    except OutOfBudgetError:
        pass
    except KeyboardInterrupt:
        budget.interrupt()
    return known.with_placement(best)


def _move(
    layer: Layer, phy2log: tuple[int, ...], random: np.random.Generator, keep_counts: bool
) -> tuple[int, ...]:
    """Another placement, which may be invalid."""
    nodes = layer.topology.num_nodes if layer.rule == Rule.HIERARCHICAL else 1
    slots = len(phy2log) // nodes
    start = slots * int(random.integers(nodes))
    i, j = (start + int(slot) for slot in random.integers(slots, size=2))
    moved = list(phy2log)
    if keep_counts or random.random() < 0.5 or phy2log.count(phy2log[i]) == 1:
        moved[i], moved[j] = moved[j], moved[i]
    else:
        moved[i] = moved[j]
    return tuple(moved)
