"""What every solver returns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from eplb_opt.problem.evidence import Evidence, ValueEvidence
from eplb_opt.problem.objective import EVEN_SUM, Cost
from eplb_opt.problem.rationals import relative_gap
from eplb_opt.problem.shown import Shown, ShowsItself, percent, tokens


class Stage(StrEnum):
    """What is decided."""

    GROUPS = "groups"
    """Which node takes which groups."""
    COUNTS = "counts"
    """How many replicas each expert gets, the groups given."""
    PACKING = "packing"
    """Which rank holds which replica, groups and counts given."""
    JOINT = "joint"
    """All of it together."""


class Limit(StrEnum):
    """What ended a search before its proof was complete."""

    TIME = "time"
    WORK = "work"
    """A limit on work, the caller's or the method's own."""
    TOLERANCE = "tolerance"
    """Value and bound are as close as was asked."""
    PRECISION = "precision"
    """The search came to its end, but in rounded integers, or in the floats of a MILP engine: what
    is left they cannot decide."""
    INTERRUPT = "interrupt"
    """Ctrl-C."""


class SolveStatus(StrEnum):
    """What is known when a solver stops; why it stopped is ``Result.limit``."""

    OPTIMAL = "optimal"
    """There is an incumbent whose exact value equals the proven lower bound."""
    FEASIBLE = "feasible"
    """There is an incumbent; the lower bound is below it."""
    INFEASIBLE = "infeasible"
    """Proven that there is no solution."""
    UNKNOWN = "unknown"
    """No incumbent and no proof; the lower bound is still valid."""


@dataclass(frozen=True, repr=False)
class Result(ShowsItself):
    """Outcome of one solve of one layer. All values are exact, in tokens.

    Attributes:
        stage: what was decided.
        backend: what solved it, for instance ``cp-sat``.
        lower_bound: proven for this stage, valid whatever the status.
        objective: value of the incumbent, recomputed from it; None without one.
        placement: [P] logical expert per slot, for ``packing`` and ``joint``; else None.
        counts: [E] replicas per expert, for every stage but ``groups``; None without an incumbent.
        node_of_group: [K] under the hierarchical rule, or the homes; None under the global rule.
        bound_source: what proved the lower bound.
        limit: what ended the search before its proof was complete, else None.
        runtime: seconds.
        infeasible: no solution exists (with ``spread_replicas``, for instance).
        certificate: evidence for the lower bound, None if there is none to show.
        cost: what was minimized, objective and dispatch.
        shares: [P] under ``fixed`` dispatch, the part of its expert's tokens that each slot serves
            at every step; else None.
        value_evidence: why the placement costs no less under ``optimal`` or ``fixed`` dispatch.
    """

    stage: Stage
    backend: str
    lower_bound: Fraction
    objective: Fraction | None = None
    placement: tuple[int, ...] | None = None
    counts: tuple[int, ...] | None = None
    node_of_group: tuple[int, ...] | None = None
    bound_source: str = ""
    limit: Limit | None = None
    runtime: float = 0.0
    infeasible: bool = False
    certificate: Evidence | None = None
    cost: Cost = EVEN_SUM
    shares: tuple[Fraction, ...] | None = None
    value_evidence: ValueEvidence | None = None

    def __post_init__(self) -> None:
        if self.objective is not None and self.objective < self.lower_bound:
            raise ValueError(
                f"{self.backend} claims the lower bound {self.lower_bound}, "
                f"which is above the incumbent {self.objective}"
            )

    def _shown(self) -> Shown:
        """What is known of the layer; placement and certificate are not."""
        columns = ("", "objective", "lower bound", "proved by", "gap", "limit", "seconds")
        values = (tokens(self.objective), tokens(self.lower_bound), self.bound_source)
        row = (
            f"{self.status}",
            *values,
            percent(self.gap),
            self.limit or "",
            f"{self.runtime:.2f}",
        )
        return Shown(f"Result({self.stage} by {self.backend})", columns, [row])

    @property
    def status(self) -> SolveStatus:
        """Decided by comparing exact values, never taken from a solver."""
        if self.infeasible:
            return SolveStatus.INFEASIBLE
        if self.objective is None:
            return SolveStatus.UNKNOWN
        return SolveStatus.OPTIMAL if self.objective == self.lower_bound else SolveStatus.FEASIBLE

    @property
    def gap(self) -> float | None:
        """``(objective - lower_bound) / lower_bound``, 0 if equal; None without an incumbent."""
        if self.objective is None:
            return None
        if self.objective == self.lower_bound:
            return 0.0
        return relative_gap(self.objective, self.lower_bound) if self.lower_bound > 0 else None
