"""Check that an argument proves a bound: a second implementation, in integers and on a budget.

To check a claim B it is not necessary to find the best bound: B is at most the mean, or the
heaviest replica reaches B whatever the counts, or the largest makespan below B is out of reach
(the arguments of :mod:`eplb_opt.bounds.closed_form`, where they are explained). Every rank load is
a multiple of ``unit / lcm(possible counts)``: in these grains all replicas are integers, and the
largest makespan below B is the next multiple below it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError, product_cost
from eplb_opt.problem.layer import Layer

LARGEST_LOADS = 2**31
"""Bits of all loads together, in grains, that are held in memory."""


def reaches(
    layer: Layer, bound: Fraction, budget: CheckBudget, counts: Sequence[int] | None = None
) -> bool:
    """Whether an argument proves that no placement under the global rule costs less than ``bound``
    tokens; with ``counts`` [E], no placement with these counts.

    False says nothing: there may be no such argument. O(E + S E log E) operations on integers as
    long as the loads in grains.

    Raises:
        TooLargeToCheckError: that is too much for the budget.
    """
    if bound <= 0 or not layer.has_load:
        return bound <= 0
    budget.charge(product_cost(bound.denominator.bit_length(), layer.unit.denominator.bit_length()))
    top, bottom = (bound / layer.unit).as_integer_ratio()
    bits = load_bits(layer)
    budget.charge(len(layer.loads) * product_cost(bits, bottom.bit_length() + 64))
    if _at_once(layer, top, bottom, counts):
        return True
    if layer.topology.num_ranks == 1:
        return False  # every placement costs the mean
    scale = common_multiple(layer.num_redundant_experts + 1, budget, counts)
    budget.charge(len(layer.loads) * product_cost(bits, scale.bit_length()))
    if len(layer.loads) * (bits + scale.bit_length()) > LARGEST_LOADS:
        raise TooLargeToCheckError("the loads are too long in their common unit")
    below = -(-top * scale // bottom) - 1
    return _Makespan(layer, scale, below, budget).is_out_of_reach(counts)


def _at_once(layer: Layer, top: int, bottom: int, counts: Sequence[int] | None) -> bool:
    """Whether the mean or the heaviest replica reaches ``top / bottom`` units."""
    if sum(layer.loads) * bottom >= top * layer.topology.num_ranks:
        return True
    if counts is not None:
        return any(w * bottom >= top * c for w, c in zip(layer.loads, counts, strict=True))
    # a replica is below the bound if there are more than w / bound of them
    least = [w * bottom // top + 1 for w in layer.loads]
    return sum(least) > layer.topology.num_physical_experts or max(least) > layer.most_replicas


def load_bits(layer: Layer) -> int:
    """Length of the longest load, as an integer."""
    return max(w.bit_length() for w in layer.loads)


def common_multiple(most: int, budget: CheckBudget, counts: Sequence[int] | None = None) -> int:
    """Of all counts from 1 to ``most``, or of ``counts``."""
    if counts is not None:
        return math.lcm(*counts)
    budget.charge(1 + most * most // 2500)
    return math.lcm(*range(1, most + 1))


class _Makespan:
    """A makespan of ``limit`` grains under the global rule, of which all is to be shown that
    :func:`eplb_opt.bounds.closed_form.exclude` shows.
    """

    def __init__(self, layer: Layer, scale: int, limit: int, budget: CheckBudget) -> None:
        self.loads = [w * scale for w in layer.loads]
        self.limit, self.budget = limit, budget
        self.num_slots = layer.topology.num_physical_experts
        self.ranks, self.size = layer.topology.num_ranks, layer.topology.slots_per_rank
        experts, bits = len(self.loads), max(self.loads).bit_length()
        self.cost = 2 + experts * (2 + bits // 4096) * (4 + experts.bit_length()) // 16
        """Units for going once through all experts and sorting them."""

    def is_out_of_reach(self, counts: Sequence[int] | None) -> bool:
        """Whether mean, window, heaviest with lightest, or pigeonhole show it."""
        if sum(self.loads) > self.limit * self.ranks:
            return True
        least = self._least_counts() if counts is None else list(counts)
        if least is None:
            return True
        spare = self.num_slots - sum(least)
        lightest = self._lightest(least, spare)
        for q in range(self.size):
            rest = self.limit - lightest[self.size - q - 1]
            if rest < 0 or self._fewest_heavier(least, spare, rest, q + 1) > q * self.ranks:
                return True
        return False

    def _least_counts(self) -> list[int] | None:
        """[E] that the makespan asks for; None if they are too many.

        No replica is heavier than what its S - 1 lightest companions leave it.
        """
        cap = self.limit
        while cap > 0:
            self.budget.charge(self.cost)
            least = [max(1, -(-w // cap)) for w in self.loads]
            spare = self.num_slots - sum(least)
            if spare < 0:
                return None
            left = self.limit - self._lightest(least, spare)[self.size - 1]
            if left >= cap:
                return least
            cap = left
        return None

    def _lightest(self, least: list[int], spare: int) -> list[int]:
        """At least this much is the sum of any 0, 1, .. S - 1 replicas, for all counts from
        ``least`` to ``least + spare``.
        """
        self.budget.charge(self.cost + self.size * (1 + self.limit.bit_length() // 4096) // 8)
        loads = sorted(
            (w // (c + spare), c + spare) for w, c in zip(self.loads, least, strict=True)
        )
        sums = [0]
        for load, copies in loads:
            for _ in range(min(copies, self.size - len(sums))):
                sums.append(sums[-1] + load)
            if len(sums) == self.size:
                break
        return sums

    def _fewest_heavier(self, least: list[int], spare: int, rest: int, share: int) -> int:
        """At least so many replicas are heavier than ``rest / share``, whatever the counts.

        An expert of c heavy replicas has none with ``need`` more; which of them to lift with the
        spare replicas is a knapsack, whose fractional relaxation saves at least as many.
        """
        self.budget.charge(self.cost)
        heavy = [(w, c) for w, c in zip(self.loads, least, strict=True) if w * share > c * rest]
        total = sum(c for _, c in heavy)
        if rest == 0 or spare == 0:
            return total
        needs = [(-(-w * share // rest) - c, c) for w, c in heavy]
        for need, c in sorted(needs, key=lambda lift: Fraction(*lift)):
            if need > spare:
                return total - spare * c // need
            spare, total = spare - need, total - c
        return total
