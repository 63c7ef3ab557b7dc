"""Closed forms when the tokens of an expert are shared in any proportion; second implementation.

The m heaviest experts hold at most ``m + P - E`` slots, since each other one needs one, and no more
ranks than that and G: ``w_1 + ... + w_m`` over that many ranks. With m = E it is the mean. This
holds for every dispatch rule, in each step for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from eplb_opt.certificate.budget import CheckBudget
from eplb_opt.certificate.problem import cost_over
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Objective
from eplb_opt.problem.rationals import Integers, widen


def dispatch_reaches(layer: Layer, bound: Fraction, budget: CheckBudget) -> bool:
    """Whether this proves ``bound`` tokens for a layer of one step, under the global rule."""
    return steps_reach(layer, Objective(), bound, budget)


def steps_reach(
    layer: Layer,
    objective: Objective,
    bound: Fraction,
    budget: CheckBudget,
    counts: Sequence[int] | None = None,
) -> bool:
    """Whether the objective of these bounds of each step is at least ``bound`` tokens.

    With ``counts`` [E] and even dispatch, also of its heaviest replica.
    """
    loads = objective.loads_of(layer)
    makespans = least_of_steps(layer, loads, budget)
    if counts is not None:
        budget.charge(2 * loads.size * (1 + int(loads.max(initial=0)).bit_length() // 4096))
        heaviest = [max(map(Fraction, row, counts)) for row in loads.tolist()]
        makespans = list(map(max, makespans, heaviest))
    return cost_over(objective, makespans, budget) * layer.unit >= bound


def least_of_steps(layer: Layer, loads: Integers, budget: CheckBudget) -> list[Fraction]:
    """[T] what each step of ``loads`` [T, E] costs at least, in their unit."""
    ranks, spare = layer.topology.num_ranks, layer.num_redundant_experts
    experts = loads.shape[1]
    loads = widen(loads, experts)
    longest = int(loads.max(initial=0)).bit_length()
    cost = 1 + longest // 4096 if loads.dtype == object else 0
    # of all m with the same divisor the largest is best
    sizes = [(m, m + spare) for m in range(1, min(experts, ranks - spare))] + [(experts, ranks)]
    budget.charge(10 + loads.size * (1 + 4 * cost) // 16 + len(loads) * len(sizes) * (1 + cost))
    totals = np.sort(loads, axis=1)[:, ::-1].cumsum(axis=1)
    heaviest = totals[:, [m - 1 for m, _ in sizes]].tolist()
    return [max(Fraction(w, d) for w, (_, d) in zip(row, sizes, strict=True)) for row in heaviest]
