"""What is known of the fewest receives of a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import Limit, SolveStatus
from eplb_opt.problem.validity import layer_violation
from solvers.dispatch import value
from solvers.migration.relabel import Slots, in_place, num_received, ranks_of


@dataclass(frozen=True)
class MigrationResult:
    """The fewest received experts of one layer that a makespan limit asks for, as far as known.

    Attributes:
        makespan_limit: tokens on a rank at most.
        lower_bound: no placement that keeps the limit receives fewer. Valid whatever the status.
        moves: received experts of ``placement``; None without one.
        placement: [P] slots that keep the limit; None if none was found.
        makespan: its makespan in tokens, exact.
        proof: what the lower bound rests on.
        infeasible: no placement keeps the limit.
        limit: what ended the search before its proof was complete.
        runtime: seconds.
    """

    makespan_limit: Fraction
    lower_bound: int
    moves: int | None = None
    placement: Slots | None = None
    makespan: Fraction | None = None
    proof: str = "none"
    infeasible: bool = False
    limit: Limit | None = None
    runtime: float = 0.0

    @property
    def status(self) -> SolveStatus:
        """Decided by comparing the two numbers."""
        if self.infeasible:
            return SolveStatus.INFEASIBLE
        if self.moves is None:
            return SolveStatus.UNKNOWN
        return SolveStatus.OPTIMAL if self.moves == self.lower_bound else SolveStatus.FEASIBLE

    @property
    def open(self) -> bool:
        """Neither proven optimal nor infeasible."""
        return self.status in (SolveStatus.UNKNOWN, SolveStatus.FEASIBLE)

    def with_placement(self, layer: Layer, old: Slots, slots: Slots | None) -> MigrationResult:
        """With ``slots`` if they keep the limit and receive fewer experts."""
        if slots is None or layer_violation(layer, slots) is not None:
            return self
        cost = value(layer, slots).incumbent
        moves = num_received(old, slots, layer.topology.slots_per_rank)
        if cost > self.makespan_limit or (self.moves is not None and moves >= self.moves):
            return self
        ranks = zip(*(ranks_of("", x, layer.topology) for x in (old, slots)), strict=True)
        placed = tuple(e for before, after in ranks for e in in_place(before, after))
        return replace(self, moves=moves, placement=placed, makespan=cost)
