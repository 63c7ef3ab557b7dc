"""``robust`` by its definition, in exact arithmetic on tiny layers: what it is never above."""

from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt.problem.transfer import count_transfers
from heuristics import rebalance_experts
from heuristics.refined import refined
from heuristics.steps import robust
from tests.heuristics.steps.test_dispatch_aware import (
    EDGES,
    GLOBAL,
    NODES,
    Shape,
    cases,
    check_valid,
    drawn,
    instance_of,
)
from tests.oracles.steps import even_makespans, optimum, over

OBJECTIVES = ["mean", "worst", "cvar:0.4"]
ROUNDING = Fraction(1, 10**9)
"""Relative error of values in float64, in which placements are compared."""


def values(steps: torch.Tensor, placed: torch.Tensor, ranks: int, objective: str) -> list[Fraction]:
    """The objective of each layer."""
    layers = steps.transpose(0, 1).tolist()
    exact = [[[Fraction(w) for w in row] for row in layer] for layer in layers]
    return [
        over(even_makespans(layer, tuple(slots), ranks), objective)
        for layer, slots in zip(exact, placed.tolist(), strict=True)
    ]


def check_never_above(
    steps: torch.Tensor, placed: torch.Tensor, other: torch.Tensor, ranks: int, objective: str
) -> None:
    ours, theirs = (values(steps, each, ranks, objective) for each in (placed, other))
    assert all(a <= b * (1 + ROUNDING) for a, b in zip(ours, theirs, strict=True))


def placed_for_the_sum(steps: torch.Tensor, shape: Shape) -> Iterator[torch.Tensor]:
    yield rebalance_experts(steps.sum(0), *shape[1:], policy="deepseek")[0]
    yield refined(steps.sum(0), *shape[1:])


@given(cases([*GLOBAL, *NODES, *EDGES]), st.sampled_from(OBJECTIVES), st.booleans())
@settings(max_examples=20)
def test_placements_are_valid_and_never_above_those_of_the_sum(case, objective, backwards):
    """Nor are they where the steps come in another order: the value does not know of any."""
    steps, shape = case
    given_steps = steps.flip(0) if backwards else steps
    placed = robust(given_steps, *shape[1:], objective=objective, effort="fast")
    check_valid(steps, placed, shape)
    for other in placed_for_the_sum(steps, shape):
        check_never_above(steps, placed, other, shape[4], objective)


@given(cases([*GLOBAL, *NODES]), st.sampled_from(OBJECTIVES), st.integers(0, 4), st.integers(0, 5))
@settings(max_examples=15)
def test_a_budget_is_kept_and_no_layer_gets_worse(case, objective, budget, turn):
    steps, shape = case
    weight = torch.arange(1.0, shape[0] + 1).roll(turn).expand(steps.shape[1], -1)
    old = rebalance_experts(weight, *shape[1:], policy="deepseek")[0]
    words = {"objective": objective, "effort": "fast"}
    placed = robust(steps, *shape[1:], **words, old=old, move_budget=budget)
    check_valid(steps, placed, shape)
    assert count_transfers(old, placed, shape[1] // shape[4]).sum(1).max() <= budget
    check_never_above(steps, placed, old, shape[4], objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("shape", [(4, 6, 1, 1, 3), (4, 6, 2, 2, 2)])
def test_tiny_layers_are_placed_nearly_best(objective, shape):
    steps = drawn(4, 6, 4, seed=0)
    placed = robust(steps, *shape[1:], objective=objective)
    best = [optimum(layer, objective, "even") for layer in instance_of(steps, shape).layers()]
    found = values(steps, placed, shape[4], objective)
    assert all(value >= least for value, least in zip(found, best, strict=True))
    assert sum(found) <= sum(best) * Fraction(105, 100)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_single_step_is_placed_as_refined_does(objective):
    step = drawn(1, 5, 8, seed=3)
    expected = refined(step[0], 12, 1, 1, 4)
    for weight in (step, step[0], step.float()):
        for effort in ("fast", "default"):
            placed = robust(weight, 12, 1, 1, 4, objective=objective, effort=effort)
            assert torch.equal(placed, expected)
