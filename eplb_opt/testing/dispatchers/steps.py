"""What an attack on a dispatcher tries: one step and one placement, changed and made simpler."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eplb_opt.testing.search import size_of


class Step(NamedTuple):
    """What is tried: loads [E], a placement [P], and the loads that a policy made that for."""

    loads: tuple[int, ...]
    phy2log: tuple[int, ...]
    placed_on: tuple[int, ...] = ()


def random_placement(
    num_experts: int, num_slots: int, chance: np.random.Generator
) -> tuple[int, ...]:
    """[P] every expert, some of them several times, in any order."""
    more = chance.integers(0, num_experts, num_slots - num_experts)
    return tuple(chance.permutation(np.r_[np.arange(num_experts), more]).tolist())


def change_placement(phy2log: tuple[int, ...], chance: np.random.Generator) -> tuple[int, ...]:
    """Two slots swapped, or one of an expert with several given to another expert."""
    row = np.array(phy2log)
    p, q = chance.integers(len(row), size=2)
    if chance.random() < 0.5 and np.count_nonzero(row == row[p]) > 1:
        row[p] = row[q]
    else:
        row[[p, q]] = row[[q, p]]
    return tuple(row.tolist())


def size_of_step(step: Step) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """What shrinking makes small: the loads, then the order of slots."""
    return size_of(step.loads), step.phy2log


def tidy(step: Step, num_ranks: int) -> Step:
    """Experts renamed by falling load, and slots in order on each rank, ranks in order."""
    order = sorted(range(len(step.loads)), key=lambda e: (-step.loads[e], e))
    name = {e: i for i, e in enumerate(order)}
    row, S = [name[e] for e in step.phy2log], len(step.phy2log) // num_ranks
    ranks = sorted(sorted(row[i : i + S]) for i in range(0, len(row), S))
    loads = tuple(step.loads[e] for e in order)
    return Step(loads, tuple(e for rank in ranks for e in rank))
