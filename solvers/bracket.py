"""What is known of a layer while it is being solved: the best placement and the best bound."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from eplb_opt.bounds import Bound
from eplb_opt.problem.instance import Layer
from eplb_opt.problem.objective import exact_makespan
from eplb_opt.problem.result import Result
from solvers.options import Clock


@dataclass(frozen=True)
class Known:
    """A placement and a lower bound, both exact; they only improve.

    Attributes:
        layer: the problem.
        slots: [P] the best placement.
        value: its makespan in tokens.
        bound: proven lower bound in tokens.
        source: what proves it.
        evidence: for :mod:`eplb_opt.certificate`; None if there is only a solver's word.
        limit: what ended the search, None if it came to its end.
    """

    layer: Layer
    slots: tuple[int, ...]
    value: Fraction
    bound: Fraction
    source: str
    evidence: dict[str, Any] | None = field(default_factory=lambda: {"kind": "closed-form"})
    limit: str | None = None

    @classmethod
    def start(cls, layer: Layer, bound: Bound, placements: Iterable[tuple[int, ...]]) -> Known:
        """The best of ``placements`` and a closed-form bound."""
        slots = min(placements, key=lambda s: exact_makespan(layer, s))
        return cls(layer, slots, exact_makespan(layer, slots), bound.value, bound.source)

    def with_placement(self, slots: tuple[int, ...]) -> Known:
        """With ``slots`` if they are better."""
        value = exact_makespan(self.layer, slots)
        return replace(self, slots=slots, value=value) if value < self.value else self

    def with_bound(
        self, bound: Fraction, source: str, evidence: dict[str, Any] | None = None
    ) -> Known:
        """With ``bound`` if it is better."""
        if bound <= self.bound:
            return self
        return replace(self, bound=bound, source=source, evidence=evidence)

    def result(self, stage: str, backend: str, clock: Clock) -> Result:
        """What the solver returns."""
        return Result(
            stage,
            backend,
            self.bound,
            self.value,
            self.slots,
            tuple(self.slots.count(e) for e in range(self.layer.num_logical_experts)),
            bound_source=self.source,
            limit=self.limit if self.value > self.bound else None,
            runtime=clock.elapsed(),
            certificate=self.evidence,
        )
