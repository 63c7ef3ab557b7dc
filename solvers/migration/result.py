"""What is known of the fewest transfers of a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import Limit, SolveStatus
from eplb_opt.problem.validity import layer_violation, over_limit
from solvers.dispatch import value
from solvers.migration.relabel import Phy2Log, keep_slots, split_by_rank, sum_transfers


@dataclass(frozen=True)
class MigrationResult:
    """The fewest transfers with which one layer keeps a makespan limit, and a limit of traffic, as
    far as known.

    Attributes:
        makespan_limit: tokens on a rank at most.
        lower_bound: no placement that keeps the limit takes fewer transfers. Valid whatever the
            status.
        transfers: those of ``placement``; None without one.
        placement: [P] the expert in each slot, within the limit; None if none was found.
        makespan: its makespan in tokens, exact.
        proof: what the lower bound rests on.
        infeasible: no placement keeps the limit.
        limit: what ended the search before its proof was complete.
        runtime: seconds.
    """

    makespan_limit: Fraction
    lower_bound: int
    transfers: int | None = None
    placement: Phy2Log | None = None
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
        if self.transfers is None:
            return SolveStatus.UNKNOWN
        return SolveStatus.OPTIMAL if self.transfers == self.lower_bound else SolveStatus.FEASIBLE

    @property
    def open(self) -> bool:
        """Neither proven optimal nor infeasible."""
        return self.status in (SolveStatus.UNKNOWN, SolveStatus.FEASIBLE)

    def with_placement(self, layer: Layer, old: Phy2Log, new: Phy2Log | None) -> MigrationResult:
        """With the placement ``new`` if it keeps the limits and takes fewer transfers."""
        if new is None or not follows_rule(layer, new):
            return self
        makespan = value(layer, new).incumbent
        transfers = sum_transfers(old, new, layer.topology.slots_per_rank)
        fewer = self.transfers is None or transfers < self.transfers
        if makespan > self.makespan_limit or not fewer:
            return self
        ranks = zip(*(split_by_rank("", x, layer.topology) for x in (old, new)), strict=True)
        placed = tuple(e for before, after in ranks for e in keep_slots(before, after))
        return replace(self, transfers=transfers, placement=placed, makespan=makespan)


def follows_rule(layer: Layer, phy2log: Phy2Log) -> bool:
    """Whether the placement is valid and keeps the layer's limit of traffic."""
    return layer_violation(layer, phy2log) is None and over_limit(layer, phy2log) is None
