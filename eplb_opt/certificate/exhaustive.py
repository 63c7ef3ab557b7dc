"""Redo an exhaustive search: no placement of a small layer has a makespan below B.

A second implementation in plain Python that shares nothing with the solvers. It goes through all
counts that leave every replica below B and shows for each that the replicas do not fit on the
ranks:

- S = 2: folding, the heaviest with the lightest, is optimal;
- else depth-first, rank by rank, with the largest replica left in the current rank. As all ranks
  stay below B, a rank that leaves the others no room is refused: with m ranks left and the total W
  in them it needs more than W - (m - 1) B. What was left when no completion was found is
  remembered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import groupby

from eplb_opt.problem.layer import Layer

NODES = 10_000_000
"""Steps after which a search is given up: too large to redo, some minutes of plain Python."""


class TooLargeError(Exception):
    """The search is not finished within :data:`NODES` steps; this says nothing about the claim."""


def nothing_below(layer: Layer, bound: Fraction) -> bool:
    """True if no placement under the global rule has a makespan below ``bound`` tokens; exact.

    Respects ``layer.spread_replicas``.

    Raises:
        TooLargeError: it would take too long to find out.
    """
    scale = math.lcm(*range(1, layer.most_replicas + 1))
    limit = math.ceil(bound / layer.unit * scale) - 1
    if sum(layer.loads) * scale > limit * layer.topology.num_ranks:
        return True
    search = _Search(layer.topology.num_ranks, layer.topology.slots_per_rank, limit)
    for counts in _count_vectors(layer, limit, scale):
        search.step()
        replicas = [
            (w * scale // c, e, c) for e, (w, c) in enumerate(zip(layer.loads, counts, strict=True))
        ]
        if search.fits(replicas, layer.spread_replicas):
            return False
    return True


def _count_vectors(layer: Layer, limit: int, scale: int) -> Iterator[tuple[int, ...]]:
    """All counts with sum P that leave every replica at most ``limit`` in scaled units."""
    least = [max(1, -(-w * scale // limit)) if limit > 0 else 1 for w in layer.loads]
    spare = layer.topology.num_physical_experts - sum(least)
    most = layer.most_replicas
    if spare < 0 or max(least) > most:
        return

    def extend(e: int, left: int) -> Iterator[tuple[int, ...]]:
        if e == len(least) - 1:
            if least[e] + left <= most:
                yield (least[e] + left,)
            return
        for extra in range(min(left, most - least[e]) + 1):
            for rest in extend(e + 1, left - extra):
                yield (least[e] + extra, *rest)

    yield from extend(0, spare)


class _Search:
    """Whether replicas fit on ranks of at most ``limit``; counts its steps."""

    def __init__(self, num_ranks: int, size: int, limit: int) -> None:
        self.num_ranks, self.size, self.limit = num_ranks, size, limit
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps > NODES:
            raise TooLargeError(f"more than {NODES:,} steps")

    def fits(self, replicas: list[tuple[int, int, int]], spread: bool) -> bool:
        """For (load, expert, count) of each expert."""
        if self.size == 2 and not spread:
            return self._folded(replicas)
        if spread:
            kinds = sorted(((load, count) for load, _, count in replicas), reverse=True)
        else:
            loads = sorted((load for load, _, c in replicas for _ in range(c)), reverse=True)
            kinds = [(load, len(list(same))) for load, same in groupby(loads)]
        return _Kinds(self, [load for load, _ in kinds], spread).fits([n for _, n in kinds])

    def _folded(self, replicas: list[tuple[int, int, int]]) -> bool:
        loads = sorted(load for load, _, count in replicas for _ in range(count))
        half = self.num_ranks
        return all(
            a + b <= self.limit for a, b in zip(loads[:half], reversed(loads[half:]), strict=True)
        )


class _Kinds:
    """Replicas by kind, heaviest first: interchangeable ones, or with ``spread`` those of an
    expert.
    """

    def __init__(self, search: _Search, loads: list[int], spread: bool) -> None:
        self.search, self.loads, self.spread = search, loads, spread
        self.dead: set[tuple[int, ...]] = set()

    def fits(self, left: list[int]) -> bool:
        """Whether ``left[i]`` replicas of kind i fit; fills the next rank in every useful way."""
        first = next((i for i, n in enumerate(left) if n), None)
        if first is None:
            return True
        key = tuple(left)
        if key in self.dead:
            return False
        size, limit = self.search.size, self.search.limit
        ranks = sum(left) // size
        total = sum(n * load for n, load in zip(left, self.loads, strict=True))
        low = total - (ranks - 1) * limit
        left[first] -= 1
        start = first + 1 if self.spread else first
        found = self._fill(
            left, start, size - 1, limit - self.loads[first], low - self.loads[first]
        )
        left[first] += 1
        if not found:
            self.dead.add(key)
        return found

    def _fill(self, left: list[int], start: int, slots: int, room: int, low: int) -> bool:
        """Give the rank ``slots`` more replicas from kind ``start`` on, between ``low`` and
        ``room``.
        """
        if slots == 0:
            return low <= 0 <= room and self.fits(left)
        lightest = self._lightest(left, slots - 1)
        for i in range(start, len(left)):
            load = self.loads[i]
            if not left[i] or load + lightest > room:
                continue
            if slots * load < low:
                return False
            self.search.step()
            left[i] -= 1
            found = self._fill(
                left, i + 1 if self.spread else i, slots - 1, room - load, low - load
            )
            left[i] += 1
            if found:
                return True
        return False

    def _lightest(self, left: list[int], number: int) -> int:
        """The least that ``number`` replicas weigh."""
        total = 0
        for load, n in zip(reversed(self.loads), reversed(left), strict=True):
            if number <= 0:
                break
            taken = min(number, 1 if self.spread and n else n)
            total, number = total + taken * load, number - taken
        return total
