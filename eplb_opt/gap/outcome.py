"""What a measurement of gaps says."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from statistics import fmean

from eplb_opt.gap.loss_split import PolicySplit
from eplb_opt.gap.reference import Reference
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import EVEN_SUM, Cost
from eplb_opt.problem.placement import Placement


@dataclass(frozen=True)
class LayerGap:
    """A policy on one layer with load: ``gap = (makespan - lower_bound) / lower_bound``.

    ``optimal`` is True if the makespan equals the bound, False if a better placement is known or
    the optimum is, None if nobody knows.
    """

    layer: int
    makespan: Fraction
    gap: float
    balancedness: float
    optimal: bool | None


@dataclass(frozen=True)
class PolicyGap:
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
    def num_optimal(self) -> int:
        """Layers where the placement is proven optimal."""
        return sum(layer.optimal is True for layer in self.layers)


@dataclass(frozen=True)
class GapReport:
    """Reference and policies for one instance; ``interrupted`` if Ctrl-C ended it early.

    Attributes:
        instance: the loads that are served.
        reference: one entry a layer.
        policies: one entry a policy, in the order given.
        interrupted: Ctrl-C ended the work early.
        attribution: with ``explain``, the split of each policy that is ``ok``, see
            :mod:`eplb_opt.gap.attribution`.
        staleness: with ``serve_on``, likewise, see :mod:`eplb_opt.gap.staleness`.
        placed_on: where the loads came from that the policies saw.
        cost: what was measured: objective and dispatch.
    """

    instance: Instance
    reference: tuple[Reference, ...]
    policies: tuple[PolicyGap, ...]
    interrupted: bool = False
    attribution: tuple[PolicySplit, ...] = ()
    staleness: tuple[PolicySplit, ...] = ()
    placed_on: str = ""
    cost: Cost = EVEN_SUM
