"""What is to be proven of a layer, and how far that was checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction

from eplb_opt.certificate.budget import CheckBudget
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, Cost


class CertificateError(ValueError):
    """The document is malformed, or what it claims is not so; the message is one line."""


class Trust(IntEnum):
    """How far a claim was checked, worst first."""

    TRUSTED = 0
    """A solver's word, not verified."""
    TOO_LARGE = 1
    """It may be so, but the budget of work does not suffice to find out."""
    VERIFIED = 2
    """Proven again from the loads."""


@dataclass(frozen=True)
class Statement:
    """Every placement of ``layer`` costs at least ``bound`` tokens, by ``cost``.

    Attributes:
        layer: the problem; ``cost.on(layer)`` is ``cost``.
        bound: in tokens.
        budget: of the whole check.
        cost: objective and dispatch.
        counts: [E], if only placements with these counts are meant.
    """

    layer: Layer
    bound: Fraction
    budget: CheckBudget
    cost: Cost = EVEN_SUM
    counts: Sequence[int] | None = None
