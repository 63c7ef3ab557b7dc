"""Loads of several steps, and the objective over them, in 64-bit integers.

Where they do not fit they are rounded *down*: what no placement of the lighter loads reaches, no
placement of the true ones reaches. What a placement costs is never read off these integers, so a
search that looks at every placement whose integers are below the incumbent is exact all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Objective
from solvers.arrays import Integers
from solvers.compiled import compiled

LARGEST_COST = 2**60
"""All loads on one rank at all steps cost at most this much in scaled units."""
ROOM_FOR_PRICES = 2**46
"""The same where prices multiply the loads."""
NOTHING = 2**62
"""Above every objective in scaled units."""
LARGEST_WEIGHT = 2**16
"""Common denominator of the weights of the steps; only a strange share of ``cvar`` has more."""


@dataclass(frozen=True)
class ScaledSteps:
    """Integers that stand for the loads of the steps that count.

    Attributes:
        loads: [T, E] int64, rounded down, divisible by ``multiple`` where that is exact.
        weights: [k] int64, falling: what the largest, second largest, .. makespan weighs.
        factor: by which the search multiplies the loads.
        multiple: what the search makes of an objective of 1, in units of the loads.
        most_weight: of one step.
        unit: tokens of the objective that one integer of the search stands for.
    """

    loads: Integers
    weights: Integers
    factor: int
    multiple: int
    most_weight: Fraction
    unit: Fraction


def scale_steps(
    layer: Layer, objective: Objective, multiple: int, factor: int, largest: int = LARGEST_COST
) -> ScaledSteps:
    """The steps of ``layer`` in integers.

    Args:
        layer: the problem.
        objective: over its steps.
        multiple: the loads are made divisible by it where they fit.
        factor: by which the search multiplies the loads.
        largest: cost of all loads on one rank at all steps, in scaled units.
    """
    loads = objective.loads_of(layer)
    whole = [[int(load) for load in row] for row in loads.tolist()]
    steps = len(whole)
    falling = [q for q in objective.weights([Fraction(-t) for t in range(steps)]) if q]
    denominator = min(LARGEST_WEIGHT, math.lcm(*(q.denominator for q in falling)))
    weights = np.array([math.floor(q * denominator) for q in falling], np.int64)
    common = max(1, math.gcd(*(load for row in whole for load in row)))
    total = max(1, sum(map(sum, whole)))
    ratio = min(Fraction(multiple, common), Fraction(largest, total * denominator * factor))
    scaled = [[load * ratio.numerator // ratio.denominator for load in row] for row in whole]
    each = denominator * factor
    return ScaledSteps(
        loads=np.array(scaled, np.int64),
        weights=weights,
        factor=factor,
        multiple=each,
        most_weight=Fraction(int(weights[0]), denominator),
        unit=layer.unit / (ratio * each),
    )


def find_twins(loads: NDArray[Any], num_nodes: int) -> Integers:
    """[E] 1 where an expert has the loads [E, T] of the one before, in the same node.

    From the exact loads: experts that differ may be equal once they are rounded.
    """
    same = (loads == np.roll(loads, 1, axis=0)).all(axis=1)
    inside = np.arange(len(loads)) % (len(loads) // num_nodes) > 0
    return np.asarray(same & inside, np.int64)


@compiled
def sort_falling(values: Integers) -> None:
    """Insertion sort of few integers; numpy's takes seconds to compile.

    Args:
        values: [n] integers; sorted in place, the largest first.
    """
    for i in range(1, len(values)):
        value, j = values[i], i
        while j > 0 and values[j - 1] < value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value


@compiled
def over(makespans: Integers, weights: Integers) -> int:
    """The objective of the makespans of all steps.

    Args:
        makespans: [T] tokens in scaled units.
        weights: [k] what the largest, second largest, .. of them weighs.
    """
    cost = np.int64(0)
    if len(weights) == 1:
        for makespan in makespans:
            cost = max(cost, makespan)
        return int(cost * weights[0])
    if weights[-1] == weights[0] and len(weights) == len(makespans):
        for makespan in makespans:
            cost += makespan
        return int(cost * weights[0])
    falling = makespans.copy()
    sort_falling(falling)
    for i in range(len(weights)):
        cost += weights[i] * falling[i]
    return int(cost)
