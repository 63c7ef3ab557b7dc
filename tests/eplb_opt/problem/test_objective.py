"""How the makespans of steps become one number."""

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Placement, Topology
from eplb_opt.problem.objective import (
    Objective,
    cost_of_shares,
    mean_load,
    rank_loads,
    step_makespans,
)
from tests.oracles.steps import (
    OBJECTIVES,
    Slots,
    even_makespans,
    over,
    placed_traces,
    steps_of,
)

MAKESPANS = st.lists(st.fractions(0, 100, max_denominator=9), min_size=1, max_size=8)
SHARES = st.fractions(Fraction(1, 12), 1, max_denominator=12)


@given(MAKESPANS, SHARES)
def test_cvar_is_a_fractional_knapsack(makespans: list[Fraction], share: Fraction) -> None:
    """cvar:a is the most that weights of at most 1 / (a T), which add up to 1, can make of it."""
    left, best = Fraction(1), Fraction(0)
    for makespan in sorted(makespans, reverse=True):
        weight = min(left, 1 / (share * len(makespans)))
        best, left = best + weight * makespan, left - weight
    assert Objective("cvar", share).over(makespans) == best


@given(MAKESPANS)
def test_cvar_lies_between_mean_and_worst(makespans: list[Fraction]) -> None:
    mean = sum(makespans) / len(makespans)
    assert Objective("mean").over(makespans) == Objective("cvar").over(makespans) == mean
    assert Objective("worst").over(makespans) == max(makespans)
    assert Objective("cvar", Fraction(1, len(makespans))).over(makespans) == max(makespans)


@pytest.mark.parametrize("text", ["sum", "mean", "worst", "cvar:0.05", "cvar:1/3", "cvar:1"])
def test_words_are_read_as_written(text: str) -> None:
    assert str(Objective.parse(text)) == text
    assert Objective.parse(Objective.parse(text)) == Objective.parse(text)


@given(SHARES | st.fractions(Fraction(1, 10**9), 1))
def test_a_share_is_written_exactly(share: Fraction) -> None:
    assert Objective.parse(str(Objective("cvar", share))).share == share
    assert str(Objective.parse("cvar:1/20")) == "cvar:0.05"


@pytest.mark.parametrize(
    "text", ["", "best", "cvar", "cvar:", "cvar:0", "cvar:1.5", "cvar:-1", "cvar:x", "mean:0.5",
             "cvar:1/0", "cvar:nan", "cvar:1e-400000000", "cvar:1e400000000"]
)  # fmt: skip
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not one of sum, mean, worst, cvar:SHARE"):
        Objective.parse(text)


def test_the_sum_is_one_step() -> None:
    layer = Instance([[[1, 0]], [[0, 1]]], Topology(2, 2)).layer(0)
    assert [step.loads for step in Objective("sum").steps_of(layer)] == [(1, 1)]
    assert [step.loads for step in Objective("mean").steps_of(layer)] == [(1, 0), (0, 1)]
    assert mean_load(layer) == 1
    assert mean_load(layer, Objective("worst")) == Fraction(1, 2)


def test_makespans_of_steps_in_floats_are_those_of_fractions() -> None:
    trace = np.random.default_rng(0).integers(0, 50, (4, 3, 5))
    slots = [[0, 1, 2, 3, 4, 0], [4, 4, 3, 2, 1, 0], [0, 1, 0, 2, 3, 4]]
    found = step_makespans(Placement(slots, 5), trace, 2)
    assert found.shape == (4, 3)
    for i, layer in enumerate(Instance(trace, Topology(6, 2)).layers()):
        exact = [float(max(rank_loads(step, slots[i]))) for step in layer.each_step()]
        assert found[:, i] == pytest.approx(exact)


@given(placed_traces(), st.sampled_from(OBJECTIVES), st.randoms(use_true_random=False))
def test_what_given_shares_cost(
    placed: tuple[Layer, Slots], objective: str, chance: random.Random
) -> None:
    """By the definition; replicas that share alike cost what ``even`` dispatch does."""
    layer, slots = placed
    parts = [Fraction(chance.randint(1, 10 ** chance.randint(1, 20))) for _ in slots]
    totals = [sum(q for q, other in zip(parts, slots, strict=True) if other == e) for e in slots]
    shares = [part / total for part, total in zip(parts, totals, strict=True)]
    S, steps = layer.topology.slots_per_rank, steps_of(layer, objective)
    makespans = [
        max(
            sum(row[slots[p]] * shares[p] for p in range(first, first + S))
            for first in range(0, len(slots), S)
        )
        for row in steps
    ]
    parsed = Objective.parse(objective)
    assert cost_of_shares(layer, slots, shares, parsed) == over(makespans, objective)
    even = [Fraction(1, slots.count(e)) for e in slots]
    alike = over(even_makespans(steps, slots, layer.topology.num_ranks), objective)
    assert cost_of_shares(layer, slots, even, parsed) == alike
