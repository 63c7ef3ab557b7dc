"""Redo an exhaustive search: no placement within a makespan limit takes fewer transfers.

A second implementation in plain Python that shares nothing with the solvers. Experts are placed in
turn, the heaviest first: how many replicas, and how many of them on each rank; a rank that did not
hold the expert takes a transfer. A branch ends where an expert has no room, and where the transfers
left are too few: experts left that only one rank holds may be too many or too heavy for it, even if
the heaviest of them are transferred. Exact integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError
from eplb_opt.certificate.closed_form import common_multiple
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.topology import Rule

DEEPEST = 800
"""Calls within each other up to which experts are placed by recursion."""


def needs_transfers(
    layer: Layer,
    old: Sequence[int],
    makespan_limit: Fraction,
    transfers: int,
    *,
    budget: CheckBudget | None = None,
) -> bool:
    """True if every placement with at most ``makespan_limit`` tokens on a rank takes at least so
    many transfers from ``old`` [P]; exact, for a small layer.

    True as well if no placement keeps the limit, as a negative one. Respects
    ``layer.spread_replicas``; under the rule ``home`` placements without homes count, too, so that
    False says nothing. ``budget`` is that of a whole document if None.

    Raises:
        TooLargeToCheckError: it would take too long to find out.
        ValueError: the layer is under the hierarchical rule, with more than one node.

    Example:
        >>> from eplb_opt import Instance, Topology
        >>> layer = Instance([[4, 3, 2, 1]], Topology(4, 2)).layer(0)
        >>> [needs_transfers(layer, (0, 1, 2, 3), Fraction(5), m) for m in (2, 3)]
        [True, False]
    """
    if layer.rule == Rule.HIERARCHICAL and layer.topology.num_nodes > 1:
        raise ValueError("the rule is hierarchical: transfers are redone for one node at a time")
    if transfers <= 0 or makespan_limit < 0:
        return True
    budget = CheckBudget() if budget is None else budget
    return not _Search(layer, old, makespan_limit, budget).fits(0, transfers - 1)


class _Search:
    """Loads in units in which every replica is an integer; experts by falling load."""

    def __init__(
        self, layer: Layer, old: Sequence[int], makespan_limit: Fraction, budget: CheckBudget
    ) -> None:
        if 3 * len(layer.loads) + len(old) > DEEPEST:
            raise TooLargeToCheckError(f"{len(layer.loads)} experts on {len(old)} slots")
        scale = common_multiple(layer.most_replicas, budget)
        self.ranks, per_rank = range(layer.topology.num_ranks), layer.topology.slots_per_rank
        current: dict[int, list[int]] = {e: [] for e in range(len(layer.loads))}
        for e, rank in sorted({(e, slot // per_rank) for slot, e in enumerate(old)}):
            current[e].append(rank)
        experts = sorted(current, key=lambda e: (len(current[e]) == 1, -layer.loads[e]))
        self.loads = [layer.loads[e] * scale for e in experts]
        self.current_ranks = [current[e] for e in experts]
        self.order = [
            [*own, *(g for g in self.ranks if g not in own)] for own in self.current_ranks
        ]
        self.most, self.spread = layer.most_replicas, layer.spread_replicas
        self.room = [math.floor(makespan_limit / layer.unit * scale)] * len(self.ranks)
        self.spare = sum(self.room) - sum(self.loads)
        self.free_slots = [per_rank] * len(self.ranks)
        self.budget, self.cost = budget, 2 + len(self.ranks) // 4
        """Units for going once through all ranks."""

    def fits(self, i: int, transfers: int) -> bool:
        """Whether experts from the i-th on fill all slots with at most so many transfers."""
        if i == len(self.loads):
            return True
        self.budget.charge(self.cost + (len(self.loads) - i) // 2)
        if not self._may_complete(i, transfers):
            return False
        free = sum(self.free_slots) - (len(self.loads) - i - 1)
        least = free if i == len(self.loads) - 1 else 1
        return any(
            self._place(i, k, 0, k, transfers) for k in range(least, min(free, self.most) + 1)
        )

    def _place(self, i: int, count: int, at: int, left: int, transfers: int) -> bool:
        """Whether ``left`` of ``count`` replicas of an expert fit on its ranks from the at-th on,
        and the other experts after them.
        """
        self.budget.charge(self.cost)
        if left == 0:
            return self.fits(i + 1, transfers)
        share = self.loads[i] // count
        for j in range(at, len(self.ranks)):
            sent = j >= len(self.current_ranks[i])
            if sent and transfers == 0:
                break
            g = self.order[i][j]
            most = min(left, self.free_slots[g], 1 if self.spread else left)
            if share:
                most = min(most, self.room[g] // share)
            for n in range(most, 0, -1):
                self.free_slots[g] -= n
                self.room[g] -= n * share
                found = self._place(i, count, j + 1, left - n, transfers - sent)
                self.free_slots[g] += n
                self.room[g] += n * share
                if found:
                    return True
        return False

    def _may_complete(self, i: int, transfers: int) -> bool:
        """Whether so many transfers can take enough away from ranks that alone hold too much, and
        give enough to ranks that hold too little: all together miss no more than ``spare``.
        """
        alone: list[list[int]] = [[] for _ in self.ranks]
        most = [0 for _ in self.ranks]
        for own, load in zip(self.current_ranks[i:], self.loads[i:], strict=True):
            for g in own:
                most[g] += load
            if len(own) == 1:
                alone[own[0]].append(load)
        heaviest = max(self.loads[i:])
        away = here = 0
        for room, slots, loads, top in zip(self.room, self.free_slots, alone, most, strict=True):
            total, gone = sum(loads), 0
            while total > room or len(loads) - gone > slots:
                total, gone = total - loads[gone], gone + 1
            away += gone
            missing = room - top - self.spare
            if missing > 0:
                here += -(-missing // heaviest)
        return max(away, here) <= transfers
