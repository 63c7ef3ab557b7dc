"""What is known of an optimum: the best placement, and what is proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from eplb_opt.bounds import Bound
from eplb_opt.problem.evidence import Evidence
from eplb_opt.problem.result import Limit


@dataclass(frozen=True)
class Bracket:
    """``bound <= optimum <= value``, both exact and in tokens; they only come closer.

    Attributes:
        placement: [P] the expert in each slot of the best placement; None without one.
        value: what it costs, recomputed from it; None without one.
        bound: proven lower bound.
        source: what proves the bound.
        evidence: for :mod:`eplb_opt.certificate`; None if there is only the word of ``source``.
        limit: what ended the search, None if it came to its end.
        infeasible: proven that there is no placement.
        shares: [P] under ``fixed`` dispatch, the part of its expert's tokens that each slot serves
            at every step, exact, with which the placement costs ``value``; else None.
    """

    placement: tuple[int, ...] | None
    value: Fraction | None
    bound: Fraction
    source: str
    evidence: Evidence | None = None
    limit: Limit | None = None
    shares: tuple[Fraction, ...] | None = None
    infeasible: bool = False

    @classmethod
    def start(cls, bound: Bound, found: Iterable[Bracket]) -> Bracket:
        """A closed-form bound, and the best placement in ``found``."""
        bracket = cls(None, None, bound.value, bound.source, bound.evidence)
        for other in found:
            bracket = bracket.with_placement(other)
        return bracket

    @property
    def closed(self) -> bool:
        """Whether the optimum is known."""
        return self.value == self.bound

    @property
    def phy2log(self) -> tuple[int, ...]:
        """The placement, which must be there."""
        if self.placement is None:
            raise ValueError("no placement is known")
        return self.placement

    @property
    def incumbent(self) -> Fraction:
        """The value, which must be there."""
        if self.value is None:
            raise ValueError("no placement is known")
        return self.value

    def counts(self, num_experts: int) -> tuple[int, ...]:
        """[E] replicas of each expert in the placement."""
        found = Counter(self.phy2log)
        return tuple(found[e] for e in range(num_experts))

    def with_placement(self, found: Bracket) -> Bracket:
        """With the placement of ``found``, if it costs less; not with its bound."""
        if found.value is None or (self.value is not None and self.value <= found.value):
            return self
        return replace(self, placement=found.placement, value=found.value, shares=found.shares)

    def with_bound(self, bound: Fraction, source: str, evidence: Evidence | None = None) -> Bracket:
        """With ``bound``, if it is higher."""
        if bound <= self.bound:
            return self
        return replace(self, bound=bound, source=source, evidence=evidence)

    def without_better(self, source: str) -> Bracket:
        """With the proof that no placement is better, or that there is none."""
        if self.value is None:
            return replace(self, infeasible=True, limit=None)
        return self.with_bound(self.value, source)
