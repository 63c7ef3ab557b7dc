"""The bound from which experts share a rank, against brute force."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology
from eplb_opt.bounds.same_rank import (
    _least_sum,
    _rounded_weights,
    same_rank_bound,
    same_rank_value,
)
from eplb_opt.bounds.steps import step_bounds
from eplb_opt.problem.evidence import SameRank
from eplb_opt.problem.objective import Dispatch, Objective
from tests.oracles.packings import count_vectors
from tests.oracles.steps import OBJECTIVES, optimum, tiny_traces

OVER_STEPS = [name for name in OBJECTIVES if name != "sum"]
dispatches = st.sampled_from(["even", "fixed"])


@settings(max_examples=100, deadline=None)
@given(tiny_traces(), st.sampled_from(OVER_STEPS), dispatches, st.data())
def test_the_formula_holds_for_all_prices_and_factors(
    layer: Layer, name: str, dispatch: str, data: st.DataObject
) -> None:
    objective = Objective.parse(name)
    T, E = layer.steps.shape
    steps = _rounded_weights(objective, np.array(data.draw(_floats(T))))
    assert objective.admits([Fraction(w, sum(steps)) for w in steps])
    prices = []
    for weight in steps:
        parts = data.draw(st.lists(st.integers(0, 9), min_size=E, max_size=E))
        whole = max(1, sum(parts) + data.draw(st.integers(0, 3)))
        prices.append(tuple((e, weight * part // whole) for e, part in enumerate(parts) if part))
    size = int((sum(steps) * max(map(int, layer.loads), default=1)) ** 0.5) + 1
    factor = st.floats(-0.5, 1).map(lambda x: int(x * size / 2))
    factors = tuple(tuple(data.draw(st.lists(factor, min_size=2, max_size=2))) for _ in range(E))
    floors = tuple(step_bounds(layer, Dispatch(dispatch)))
    evidence = SameRank(tuple(steps), tuple(prices), floors, factors)
    assert same_rank_value(layer, evidence) <= optimum(layer, name, dispatch)


def _floats(size: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(0, 1), min_size=size, max_size=size)


@settings(max_examples=40, deadline=None)
@given(tiny_traces(), st.sampled_from(OVER_STEPS), dispatches)
def test_what_is_found_is_no_more_than_the_optimum(layer: Layer, name: str, dispatch: str) -> None:
    objective = Objective.parse(name)
    floors = step_bounds(layer, Dispatch(dispatch))
    found = same_rank_bound(layer, objective, floors, 5)
    assert found is None or found.value <= optimum(layer, name, dispatch)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=4), st.integers(0, 5), st.integers(1, 4))
def test_least_sum_over_counts(weights: list[int], redundant: int, ranks: int) -> None:
    slots = ranks * (-(-(len(weights) + redundant) // ranks))
    layer = Instance([weights], Topology(slots, ranks)).layer(0)
    assert _least_sum(weights, layer) == min(
        sum(Fraction(w, min(c, ranks)) for w, c in zip(weights, counts, strict=True))
        for counts in count_vectors(len(weights), slots)
    )


def test_drawn_steps_are_bounded_well_above_their_means() -> None:
    """Steps that are drawn anew: no placement suits all of them, each has one that suits it."""
    rng = np.random.default_rng(0)
    trace = rng.poisson(8, size=(200, 1, 16))
    layer = Instance(trace, Topology(16, 4)).layer(0)
    floors = step_bounds(layer, Dispatch.EVEN)
    found = same_rank_bound(layer, Objective("mean"), floors)
    assert found is not None
    assert found.value > Fraction(108, 100) * Objective("mean").over(floors)


@pytest.mark.parametrize("unit", [1, 2.0**-40, 2.0**300])
def test_loads_of_any_size(unit: float) -> None:
    trace = np.array([[[6, 0, 1, 1]], [[0, 6, 1, 1]], [[1, 1, 0, 6]]]) * unit
    layer = Instance(trace, Topology(4, 2)).layer(0)
    floors = step_bounds(layer, Dispatch.EVEN)
    found = same_rank_bound(layer, Objective("mean"), floors, 20)
    assert found is not None
    assert found.value <= optimum(layer, "mean", "even")
    assert found.value > Fraction(9, 10) * Objective("mean").over(floors)
