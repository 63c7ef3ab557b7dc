"""What a placement costs: how tokens are shared, and how the makespans of steps become one number.

Under a :class:`Dispatch` every step t of a layer has a makespan m_t, the load of its fullest rank.
An :class:`Objective` makes one number of m_1, ..., m_T.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.rationals import Integers, integer_array, widen


class Dispatch(StrEnum):
    """How the tokens of an expert are shared by its replicas in a step."""

    EVEN = "even"
    """All alike: ``1 / c_e`` each."""
    FIXED = "fixed"
    """Fractions fitted to all steps together, the same at every step."""
    OPTIMAL = "optimal"
    """Fractions of each step for itself that make its makespan least."""


@dataclass(frozen=True)
class Objective:
    """What is minimized over the steps of a layer.

    Attributes:
        name: ``sum``: the makespan of the summed loads, as of one step; else of the makespans of
            the steps the ``mean``, the largest (``worst``), or with ``cvar`` the mean of the worst
            ones.
        share: with ``cvar``, which share of the steps that is, fractional steps included; else 1.

    Raises:
        ValueError: no such name, or a share outside of (0, 1].

    Example:
        >>> [str(Objective.parse("cvar:0.5").over([Fraction(v) for v in (4, 1, 2)]))]
        ['10/3']
    """

    name: str = "sum"
    share: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if self.name not in ("sum", "mean", "worst", "cvar"):
            raise ValueError(f"objective={self.name!r} is not one of sum, mean, worst, cvar:SHARE")
        if not 0 < self.share <= 1 or (self.share < 1 and self.name != "cvar"):
            raise ValueError(f"share={self.share} of objective={self.name!r} is not in (0, 1]")

    @classmethod
    def parse(cls, text: str | Objective) -> Objective:
        """``sum``, ``mean``, ``worst`` or ``cvar:a`` with a decimal or a ratio a.

        Raises:
            ValueError: it is something else.
        """
        if isinstance(text, Objective):
            return text
        name, colon, share = str(text).partition(":")
        if (name == "cvar") != bool(colon):
            raise ValueError(f"objective={text!r} is not one of sum, mean, worst, cvar:SHARE")
        try:
            return cls(name, _share(share) if colon else Fraction(1))
        except (ValueError, ZeroDivisionError):
            raise ValueError(
                f"objective={text!r} is not one of sum, mean, worst, cvar:SHARE with a share in "
                "(0, 1]"
            ) from None

    def __str__(self) -> str:
        """As it is typed: the share as a decimal where a short one is exact, else as a ratio."""
        if self.name != "cvar":
            return self.name
        decimal = f"{float(self.share):.4g}"
        short = "e" not in decimal and Fraction(decimal) == self.share
        return f"cvar:{decimal if short else self.share}"

    def check_steps(self, instance: Instance) -> None:
        """Raise ValueError if the objective is over steps and the instance has none."""
        if self.name != "sum" and instance.trace is None:
            raise ValueError(
                f"objective={str(self)!r}: {instance.source} holds [layers, experts], and steps "
                "are needed: give a trace [steps, layers, experts], draw one around these loads "
                "(heuristics.steps.draw_steps), or objective 'sum'"
            )

    def steps_of(self, layer: Layer) -> list[Layer]:
        """The problems whose makespans count: each step, or for ``sum`` all steps as one."""
        return [layer] if self.name == "sum" else layer.each_step()

    def loads_of(self, layer: Layer) -> Integers:
        """Their loads [T, E] in the unit of the layer: its steps, or for ``sum`` the sum alone."""
        return integer_array([layer.loads]) if self.name == "sum" else layer.steps

    def over(self, makespans: Sequence[Fraction]) -> Fraction:
        """One number from the makespans of :meth:`steps_of`, in the same unit; exact.

        ``cvar:a`` is the mean of the ``a T`` largest, the last of them counted in part if ``a T``
        is no integer. So ``cvar:1`` is ``mean``, and a share of at most 1 / T is ``worst``.
        """
        if len(makespans) == 1 or self.name == "worst":
            return max(makespans)
        counted = self.share * len(makespans)
        whole = math.floor(counted)
        falling = sorted(makespans, reverse=True)
        total = sum(falling[:whole], Fraction(0))
        if whole < counted:
            total += (counted - whole) * falling[whole]
        return total / counted

    def weights(self, makespans: Sequence[Fraction]) -> tuple[Fraction, ...]:
        """Weights q of the steps with ``over(makespans) = sum of q_t * makespans[t]``.

        They are in the set Q of :meth:`admits`, and of all weights in Q they weigh these makespans
        most. Ties go to earlier steps.
        """
        if len(makespans) == 1:
            return (Fraction(1),)
        most, left = self.most_weight(len(makespans)), Fraction(1)
        found = [Fraction(0)] * len(makespans)
        for t in sorted(range(len(makespans)), key=lambda t: -makespans[t]):
            found[t] = min(most, left)
            left -= found[t]
        return tuple(found)

    def admits(self, weights: Sequence[Fraction]) -> bool:
        """Whether ``weights`` [T] are in Q: they are not negative, sum to 1, and none is above
        ``1 / (a T)`` (``mean`` is a = 1; ``worst`` has no such limit, nor has ``sum``).

        Then ``over(m) >= sum of q_t * m_t`` for all m >= 0, and equal for some q in Q: the dual of
        a coherent risk measure (Artzner, Delbaen, Eber, Heath, Math. Finance 9 (1999) 203).
        """
        most = self.most_weight(len(weights))
        return sum(weights) == 1 and all(0 <= weight <= most for weight in weights)

    def most_weight(self, steps: int) -> Fraction:
        """Of one step."""
        if self.name in ("sum", "worst"):
            return Fraction(1)
        return min(Fraction(1), 1 / (self.share * steps))


def _share(text: str) -> Fraction:
    """A decimal or a ratio; exponents are looked at as floats first, for a fraction writes out all
    digits of ``1e-400000000``.
    """
    if "/" not in text and not 0 < float(text) <= 1:
        raise ValueError(text)
    return Fraction(text)


SUM = Objective()


class Cost(NamedTuple):
    """What a placement is measured by, as in ``value(layer, slots, *cost)``."""

    objective: Objective = SUM
    dispatch: Dispatch = Dispatch.EVEN

    @classmethod
    def of(cls, objective: Objective | str, dispatch: Dispatch | str) -> Cost:
        """The words understood.

        Raises:
            ValueError: there is no such objective or dispatch.
        """
        if dispatch not in list(Dispatch):
            raise ValueError(f"dispatch={dispatch!r} is not one of {', '.join(Dispatch)}")
        return cls(Objective.parse(objective), Dispatch(dispatch))

    def on(self, layer: Layer) -> Cost:
        """The same cost with the objective ``sum`` if the layer has one step."""
        return self._replace(objective=SUM) if len(layer.steps) == 1 else self

    def __str__(self) -> str:
        return f"objective={str(self.objective)!r}, dispatch={str(self.dispatch)!r}"


EVEN_SUM = Cost()
"""The makespan of the summed loads, replicas sharing alike."""


def rank_loads(layer: Layer, phy2log: Sequence[int]) -> list[Fraction]:
    """Tokens on each rank under an even split, ``sum of loads[e] / c_e`` over its slots.

    For ``phy2log`` [P] and the summed loads of one layer. Exact: the sums are taken in multiples of
    ``unit / lcm(counts)``.
    """
    counts = Counter(phy2log)
    common = math.lcm(*counts.values())
    replica = {e: layer.loads[e] * (common // c) for e, c in counts.items()}
    S = layer.topology.slots_per_rank
    sums = (sum(replica[e] for e in phy2log[i : i + S]) for i in range(0, len(phy2log), S))
    return [Fraction(s, common) * layer.unit for s in sums]


def mean_load(layer: Layer, objective: Objective = SUM) -> Fraction:
    """The objective of the mean rank loads ``sum(w_t) / G``: no makespan is below its mean."""
    loads = objective.loads_of(layer)
    totals = widen(loads, loads.shape[1]).sum(axis=1).tolist()
    return (
        objective.over([Fraction(total) for total in totals])
        * layer.unit
        / layer.topology.num_ranks
    )


def cost_of_shares(
    layer: Layer, phy2log: Sequence[int], shares: Sequence[Fraction], objective: Objective
) -> Fraction:
    """What a placement costs whose slots serve the same parts of their experts at every step.

    Args:
        layer: the problem.
        phy2log: [P] the expert in each slot.
        shares: [P] parts, which sum to 1 over the slots of an expert.
        objective: over the steps.

    Returns:
        Tokens, exact.
    """
    common = math.lcm(*(share.denominator for share in shares))
    parts = [share.numerator * (common // share.denominator) for share in shares]
    loads = widen(objective.loads_of(layer), common * len(phy2log))
    if common > 2**62:
        loads = loads.astype(object)
    slots = loads[:, list(phy2log)] * np.array(parts, dtype=loads.dtype)
    makespans = slots.reshape(len(loads), layer.topology.num_ranks, -1).sum(axis=2).max(axis=1)
    found = objective.over([Fraction(load, common) for load in makespans.tolist()])
    return found * layer.unit


def step_makespans(placement: Placement, steps: ArrayLike, num_ranks: int) -> NDArray[np.float64]:
    """Tokens on the fullest rank at each step under an even split: [T, L] float64 from [T, L, E].

    In floats, for all layers and steps: to simulate and to show. What is claimed of a placement is
    claimed of :func:`solvers.dispatch.value`.
    """
    loads = np.asarray(steps, dtype=np.float64)
    return np.array([placement.rank_loads(step, num_ranks).max(axis=1) for step in loads])
