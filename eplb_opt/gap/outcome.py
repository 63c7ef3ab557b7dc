"""What a measurement of gaps says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import fmean

from eplb_opt.gap.loss_split import PolicySplit
from eplb_opt.gap.reference import Reference
from eplb_opt.gap.travel import Travel
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import EVEN_SUM, Cost
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.shown import Shown, ShowsItself, percent

COLUMNS = ("policy", "status", "message", "mean gap", "max gap", "optimal", "seconds")
"""What is shown of a policy."""
LONGEST = 80
"""Letters of a message that are shown."""


@dataclass(frozen=True)
class LayerGap:
    """A policy on one layer with load: ``gap = (makespan - lower_bound) / lower_bound``, where the
    makespan is what the placement costs under objective and dispatch of the report.

    ``optimal`` is True if the makespan equals the bound, False if a better placement is known or
    the optimum is, None if nobody knows. ``traffic`` is the part of the tokens served off home, see
    :func:`eplb_opt.gap.traffic.traffic_of`; None where there are no homes. ``time`` is the loss
    over the mean rank load and what the tokens' way costs, in the same unit, if that was asked for:
    with experts drawn by load, and at most (:func:`eplb_opt.gap.traffic.crossing_time`).
    """

    layer: int
    makespan: Fraction
    gap: float
    balancedness: float
    optimal: bool | None
    traffic: Fraction | None = None
    time: float | None = None
    time_most: float | None = None


@dataclass(frozen=True, repr=False)
class PolicyGap(ShowsItself):
    """A policy on all layers that have load; without them unless ``status`` is ``ok``.

    ``status`` is ``ok``, ``invalid`` (no valid placement), ``error`` or ``timeout``; ``message``
    says why. ``runtime`` is the median second of a call, ``first_call`` that of the first one,
    ``import_time`` that of a user's file; all without the start of a process.
    """

    policy: str
    status: str
    message: str = ""
    runtime: float | None = None
    layers: tuple[LayerGap, ...] = ()
    placement: Placement | None = field(default=None, repr=False)
    first_call: float | None = None
    import_time: float | None = None

    def _shown(self) -> Shown:
        """The policy over all layers."""
        return Shown("PolicyGap", COLUMNS, [self._row()])

    def _row(self) -> tuple[str, ...]:
        """What is shown of it, by :data:`COLUMNS`."""
        optimal = f"{self.num_optimal}/{len(self.layers)}" if self.layers else ""
        seconds = "" if self.runtime is None else f"{self.runtime:.2g}"
        gaps = (percent(self.gap_mean), percent(self.gap_max))
        return (self.policy, self.status, self.message[:LONGEST], *gaps, optimal, seconds)

    @property
    def gap_mean(self) -> float | None:
        """Mean over layers with load; None if there are none."""
        return fmean(layer.gap for layer in self.layers) if self.layers else None

    @property
    def gap_max(self) -> float | None:
        """Largest gap of a layer; None if there are none."""
        return max((layer.gap for layer in self.layers), default=None)

    @property
    def balancedness_mean(self) -> float | None:
        """Mean over layers of mean rank load over makespan; None if there are none."""
        return fmean(layer.balancedness for layer in self.layers) if self.layers else None

    @property
    def loss_mean(self) -> float | None:
        """Mean over layers of makespan over mean rank load, less 1; None if there are none. Over
        the steps of a trace that is the served loss.
        """
        return fmean(1 / layer.balancedness - 1 for layer in self.layers) if self.layers else None

    @property
    def traffic_mean(self) -> float | None:
        """Mean over layers of the part of the tokens served off home; None if it is none."""
        return fmean(map(float, found)) if (found := self._traffic) else None

    @property
    def traffic_max(self) -> float | None:
        """Largest of a layer; None if it is none."""
        return max(map(float, self._traffic), default=None)

    @property
    def time_mean(self) -> float | None:
        """Mean over layers of loss and way as a time; None if it was not asked for."""
        found = [layer.time for layer in self.layers if layer.time is not None]
        return fmean(found) if found else None

    @property
    def time_most_mean(self) -> float | None:
        """The same at most."""
        found = [layer.time_most for layer in self.layers if layer.time_most is not None]
        return fmean(found) if found else None

    @property
    def _traffic(self) -> list[Fraction]:
        """By layer; nothing unless all are known."""
        found = [layer.traffic for layer in self.layers if layer.traffic is not None]
        return found if len(found) == len(self.layers) else []

    @property
    def num_optimal(self) -> int:
        """Layers where the placement is proven optimal."""
        return sum(layer.optimal is True for layer in self.layers)


@dataclass(frozen=True, repr=False)
class GapReport(ShowsItself):
    """Reference and policies for one instance; ``interrupted`` if Ctrl-C ended it early.

    Attributes:
        instance: the loads that are served.
        reference: one entry a layer.
        policies: one entry a policy, in the order given.
        interrupted: Ctrl-C ended the work early.
        attribution: with ``explain``, the split of each policy that is ``ok``, see
            :mod:`eplb_opt.gap.attribution`, and for all but the sum under even dispatch, also with
            ``serve_on``, :mod:`eplb_opt.gap.served_loss`.
        staleness: with ``serve_on``, likewise, see :mod:`eplb_opt.gap.staleness`; for the sum under
            even dispatch.
        placed_on: where the loads came from that the policies saw.
        cost: what was measured: objective and dispatch.
        travel: what traffic costs, if times were asked for.
    """

    instance: Instance
    reference: tuple[Reference, ...]
    policies: tuple[PolicyGap, ...]
    interrupted: bool = False
    attribution: tuple[PolicySplit, ...] = ()
    staleness: tuple[PolicySplit, ...] = ()
    placed_on: str = ""
    cost: Cost = EVEN_SUM
    travel: Travel | None = None

    def _shown(self) -> Shown:
        """Each policy over all layers."""
        known = Counter(reference.status for reference in self.reference)
        bounds = ", ".join(f"{count} {status}" for status, count in known.items())
        ended = ", interrupted" * self.interrupted
        heading = f"GapReport({self.instance!r}, references: {bounds}{ended})"
        return Shown(heading, COLUMNS, [policy._row() for policy in self.policies])
