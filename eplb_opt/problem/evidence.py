"""Evidence for a lower bound: what :mod:`eplb_opt.certificate` checks from the loads alone."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar


@dataclass(frozen=True)
class ClosedForm:
    """The bound follows from an argument of :mod:`eplb_opt.bounds`."""

    kind: ClassVar[str] = "closed-form"


@dataclass(frozen=True)
class Exhaustive:
    """Nothing below the bound: a search small enough to be done again."""

    kind: ClassVar[str] = "exhaustive"


@dataclass(frozen=True)
class Pattern:
    """Prices of replicas under which no mix of rank patterns stays below ``bound`` tokens.

    Attributes:
        bound: tokens.
        grid: weights are multiples of ``bound / grid``.
        count_price: what every replica is worth besides.
        levels: where the price changes, (weight, price) by ascending weight.
    """

    kind: ClassVar[str] = "pattern"
    bound: Fraction
    grid: int
    count_price: int
    levels: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Trusted:
    """A solver's word: nothing to check."""

    kind: ClassVar[str] = "trusted"
    solver: str


@dataclass(frozen=True)
class BlockBound:
    """A node that takes ``groups`` has a makespan of at least ``bound`` tokens."""

    groups: tuple[int, ...]
    bound: Fraction
    evidence: Evidence


@dataclass(frozen=True)
class Groups:
    """Every partition of the groups has a block that reaches the bound.

    Blocks that are not named have their closed-form bound.
    """

    kind: ClassVar[str] = "groups"
    blocks: tuple[BlockBound, ...]


Evidence = ClosedForm | Exhaustive | Pattern | Trusted | Groups
