"""Fixed shares: exact ends, and between them the optimum of an exact simplex method."""

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Layer
from eplb_opt.problem.objective import Cost
from solvers.dispatch import value, value_evidence
from tests.oracles.steps import OBJECTIVES, exact_value, over, placed_traces, steps_of

Placed = tuple[Layer, tuple[int, ...]]


def cost_of_shares(layer: Layer, slots: tuple[int, ...], shares, objective: str) -> Fraction:
    size = layer.topology.slots_per_rank
    makespans = []
    for row in steps_of(layer, objective):
        loads = [row[e] * share for e, share in zip(slots, shares, strict=True)]
        makespans.append(max(sum(loads[i : i + size]) for i in range(0, len(slots), size)))
    return over(makespans, "worst" if objective == "sum" else objective)


@settings(max_examples=400, deadline=None)
@given(placed_traces(), st.sampled_from(OBJECTIVES))
def test_ends_are_exact(placed: Placed, objective: str) -> None:
    layer, slots = placed
    found = value(layer, slots, objective, "fixed")
    truth = exact_value(layer, slots, objective, "fixed")
    assert found.bound <= truth <= found.value
    assert found.value - found.bound <= truth / 10**6
    shares = found.shares
    assert shares is not None
    assert min(shares) >= 0
    assert all(sum(s for s, e in zip(shares, slots, strict=True) if e == x) == 1 for x in slots)
    assert cost_of_shares(layer, slots, shares, objective) == found.value


@settings(max_examples=200, deadline=None)
@given(placed_traces(), st.sampled_from(OBJECTIVES))
def test_prices_prove_the_bound(placed: Placed, objective: str) -> None:
    layer, slots = placed
    cost = Cost.of(objective, "fixed")
    evidence = value_evidence(layer, slots, cost)
    prices = [[Fraction(p, evidence.scale) for p in row] for row in evidence.prices]
    steps, size = steps_of(layer, objective), layer.topology.slots_per_rank
    assert np.shape(prices) == (len(steps), layer.topology.num_ranks)
    assert min(min(row) for row in prices) >= 0
    assert cost.on(layer).objective.admits([sum(row) for row in prices])
    bound = sum(
        min(
            sum(p[slot // size] * row[e] for p, row in zip(prices, steps, strict=True))
            for slot, held in enumerate(slots)
            if held == e
        )
        for e in set(slots)
    )
    assert bound == evidence.bound == value(layer, slots, *cost).bound
