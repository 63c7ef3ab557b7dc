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

from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError, product_cost
from eplb_opt.certificate.closed_form import common_multiple, load_bits
from eplb_opt.problem.layer import Layer

DEEPEST = 400
"""Replicas up to which ranks are filled by recursion."""


def nothing_below(layer: Layer, bound: Fraction, budget: CheckBudget) -> bool:
    """True if no placement under the global rule has a makespan below ``bound`` tokens; exact.

    Respects ``layer.spread_replicas``.

    Raises:
        TooLargeToCheckError: it would take too long to find out.
    """
    bits, most = load_bits(layer), layer.most_replicas
    scale = common_multiple(most, budget)
    budget.charge(len(layer.loads) * product_cost(bits, scale.bit_length()))
    budget.charge(product_cost(layer.unit.denominator.bit_length(), scale.bit_length() + 6650))
    limit = math.ceil(bound / layer.unit * scale) - 1
    if sum(layer.loads) * scale > limit * layer.topology.num_ranks:
        return True
    search = _Search(layer, limit, budget, 1 + limit.bit_length() // 4096)
    for counts in _count_vectors(layer, limit, scale):
        budget.charge((len(counts) + layer.topology.num_physical_experts) * search.weight // 2)
        replicas = [(w * scale // c, c) for w, c in zip(layer.loads, counts, strict=True)]
        if search.fits(replicas):
            return False
    return True


def _count_vectors(layer: Layer, limit: int, scale: int) -> Iterator[list[int]]:
    """All counts with sum P that leave every replica at most ``limit`` in scaled units.

    In lexicographic order and without recursion, O(E) for each; the list is the same one, changed.
    """
    least = [max(1, -(-w * scale // limit)) if limit > 0 else 1 for w in layer.loads]
    most, last = layer.most_replicas, len(least) - 1
    spare = layer.topology.num_physical_experts - sum(least)
    if spare < 0 or max(least) > most or most * len(least) < spare + sum(least):
        return
    counts = list(least)
    _deal(spare, counts, most, 0)
    while True:
        yield counts
        freed = 0
        for e in range(last, -1, -1):  # the last one that can take one from those behind it
            if freed and counts[e] < most:
                counts[e] += 1
                _deal(freed - 1, counts, most, e + 1)
                break
            freed += counts[e] - least[e]
            counts[e] = least[e]
        else:
            return


def _deal(spare: int, counts: list[int], most: int, start: int) -> None:
    """Give ``spare`` to the counts from ``start`` on, to the last first."""
    for e in range(len(counts) - 1, start - 1, -1):
        given = min(spare, most - counts[e])
        counts[e] += given
        spare -= given


class _Search:
    """Whether replicas fit on ranks of at most ``limit``; ``weight`` is what a number costs."""

    def __init__(self, layer: Layer, limit: int, budget: CheckBudget, weight: int) -> None:
        topology = layer.topology
        self.num_ranks, self.slots_per_rank = topology.num_ranks, topology.slots_per_rank
        self.limit, self.budget, self.weight = limit, budget, weight
        self.spread = layer.spread_replicas

    def fits(self, experts: list[tuple[int, int]]) -> bool:
        """For (load, count) of each expert, no load above the limit."""
        if self.slots_per_rank == 1:
            return True
        if self.slots_per_rank == 2 and not self.spread:
            return self._fold(experts)
        if self.slots_per_rank * self.num_ranks > DEEPEST:
            raise TooLargeToCheckError(f"more than {DEEPEST} replicas")
        if self.spread:
            kinds = sorted(experts, reverse=True)
        else:
            loads = sorted((load for load, c in experts for _ in range(c)), reverse=True)
            kinds = [(load, len(list(same))) for load, same in groupby(loads)]
        return _Kinds(self, [load for load, _ in kinds]).fits([n for _, n in kinds])

    def _fold(self, experts: list[tuple[int, int]]) -> bool:
        loads = sorted(load for load, count in experts for _ in range(count))
        half = self.num_ranks
        return all(
            a + b <= self.limit for a, b in zip(loads[:half], reversed(loads[half:]), strict=True)
        )


class _Kinds:
    """Replicas by kind, heaviest first: interchangeable ones, or with ``spread`` those of an
    expert.
    """

    def __init__(self, search: _Search, loads: list[int]) -> None:
        self.search, self.loads, self.spread = search, loads, search.spread
        self.dead: set[tuple[int, ...]] = set()
        self.cost = 1 + len(loads) * search.weight // 8
        """Units for going once through all kinds."""

    def fits(self, left: list[int]) -> bool:
        """Whether ``left[i]`` replicas of kind i fit; fills the next rank in every useful way."""
        self.search.budget.charge(3 * self.cost)
        first = next((i for i, n in enumerate(left) if n), None)
        if first is None:
            return True
        key = tuple(left)
        if key in self.dead:
            return False
        slots_per_rank, limit = self.search.slots_per_rank, self.search.limit
        ranks = sum(left) // slots_per_rank
        total = sum(n * load for n, load in zip(left, self.loads, strict=True))
        low = total - (ranks - 1) * limit
        left[first] -= 1
        start = first + 1 if self.spread else first
        found = self._fill(
            left, start, slots_per_rank - 1, limit - self.loads[first], low - self.loads[first]
        )
        left[first] += 1
        if not found:
            self.dead.add(key)
        return found

    def _fill(self, left: list[int], start: int, free: int, room: int, low: int) -> bool:
        """Give the rank ``free`` more replicas from kind ``start`` on, between ``low`` and
        ``room``.
        """
        if free == 0:
            return low <= 0 <= room and self.fits(left)
        self.search.budget.charge(self.cost)
        lightest = self._lightest(left, free - 1)
        for i in range(start, len(left)):
            load = self.loads[i]
            if not left[i] or load + lightest > room:
                continue
            if free * load < low:
                return False
            self.search.budget.charge(1)
            left[i] -= 1
            found = self._fill(left, i + 1 if self.spread else i, free - 1, room - load, low - load)
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
