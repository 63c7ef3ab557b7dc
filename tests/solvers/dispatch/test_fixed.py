"""Fixed shares: exact ends, and between them the optimum of an exact simplex method."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology
from eplb_opt.problem.objective import Cost, Dispatch
from solvers.dispatch import fixed, value, value_evidence
from solvers.dispatch.vertex import Vertex
from tests.oracles.steps import (
    OBJECTIVES,
    all_step_placements,
    exact_value,
    over,
    placed_traces,
    steps_of,
)

Placed = tuple[Layer, tuple[int, ...]]


def cost_of_shares(layer: Layer, slots: tuple[int, ...], shares, objective: str) -> Fraction:
    size = layer.topology.slots_per_rank
    makespans = []
    for row in steps_of(layer, objective):
        loads = [row[e] * share for e, share in zip(slots, shares, strict=True)]
        makespans.append(max(sum(loads[i : i + size]) for i in range(0, len(slots), size)))
    return over(makespans, "worst" if objective == "sum" else objective)


@settings(max_examples=80, deadline=None)
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


@settings(max_examples=100, deadline=None)
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


@pytest.fixture
def sixteen_steps() -> Placed:
    random = np.random.default_rng(4)
    loads = random.multinomial(512, random.dirichlet(np.full(12, 0.7)), (16, 1))
    slots = tuple(random.permutation([*range(12), *random.integers(0, 12, 6)]).tolist())
    return Instance(loads, Topology(18, 6)).layer(0), slots


@pytest.mark.parametrize("objective", ["mean", "worst", "cvar:0.3"])
def test_rounded_ends_enclose_the_vertex(
    sixteen_steps: Placed, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there are too many unknowns to solve for in integers."""
    exact = value(*sixteen_steps, objective, "fixed")
    monkeypatch.setattr(fixed, "solve_vertex", lambda *_: Vertex())
    rounded = value(*sixteen_steps, objective, "fixed")
    assert exact.value == exact.bound
    assert (
        rounded.bound
        <= exact.bound
        <= rounded.incumbent
        <= rounded.bound * (1 + Fraction(1, 10**6))
    )
    assert cost_of_shares(*sixteen_steps, rounded.shares, objective) == rounded.value


def test_without_a_linear_program_the_ends_are_even_and_optimal(
    sixteen_steps: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = value(*sixteen_steps, "mean", "fixed")
    even, optimal = (value(*sixteen_steps, "mean", rule) for rule in ("even", "optimal"))
    monkeypatch.setattr(fixed, "solve_program", lambda _: None)
    found = value(*sixteen_steps, "mean", "fixed")
    assert found.value == even.value
    assert optimal.incumbent <= found.bound <= exact.incumbent <= found.incumbent


def test_one_rank_and_no_choice() -> None:
    layer = Instance([[[3, 1]], [[1, 5]]], Topology(4, 1)).layer(0)
    assert value(layer, (0, 1, 1, 0), "mean", "fixed").bound == 5
    assert value(layer, (0, 1, 1, 0), "mean", "optimal").value == 5
    alone = Instance([[[3, 1]], [[1, 5]]], Topology(2, 2)).layer(0)
    found = value(alone, (0, 1), "worst", "fixed")
    assert (found.value, found.bound, found.shares) == (5, 5, (1, 1))


def test_an_even_split_of_unequal_copies_never_costs_less() -> None:
    rows = [[1.0, 1e-300, 1e200, 0.0], [1e-10, 1e-10, 0.07193, 0.0], [1.0, 1e-10, 2.9e15, 1e-10]]
    layer = Instance(np.array(rows)[:, None], Topology(6, 2)).layer(0)
    for slots in all_step_placements(layer):
        even, fixed, _ = (value(layer, slots, "worst", d).incumbent for d in Dispatch)
        assert fixed <= even
