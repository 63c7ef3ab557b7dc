"""Makespans under optimal dispatch: every method against the definition, and the proofs."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from eplb_opt import Instance, Layer, Topology
from eplb_opt.problem.objective import Cost
from solvers.compiled import HAVE_NUMBA
from solvers.dispatch import best_shares, value, value_evidence
from solvers.dispatch.classes import Classes, classes_of, holders
from solvers.dispatch.optimal import (
    compiled_cuts,
    of_cuts,
    optimal_makespans,
    python_cuts,
    try_all_sets,
)
from tests.oracles.steps import optimal_makespans as by_definition
from tests.oracles.steps import placed_traces, steps_of


def all_ranks(classes: Classes) -> NDArray[np.bool_]:
    return np.ones_like(classes.base, dtype=bool)


METHODS = {
    "all sets": try_all_sets,
    "compiled": lambda classes: of_cuts(classes, compiled_cuts(classes)),
    "Python": lambda classes: of_cuts(classes, python_cuts(classes, all_ranks(classes))),
    "chosen": optimal_makespans,
}


@settings(max_examples=100)
@given(placed_traces())
def test_every_method_is_exact(placed: tuple[Layer, tuple[int, ...]]) -> None:
    layer, slots = placed
    ranks = layer.topology.num_ranks
    truth = by_definition(steps_of(layer), slots, ranks)
    classes = classes_of(layer.steps, holders(slots, len(layer.loads), ranks))
    for name, method in METHODS.items():
        if name != "compiled" or int(classes.totals.max()) * ranks**2 < 2**63:
            assert [v * layer.unit for v in method(classes).values] == truth, name


@settings(max_examples=100)
@given(placed_traces(), st.sampled_from(["sum", "mean", "worst", "cvar:0.4"]))
def test_cuts_prove_the_makespans(placed: tuple[Layer, tuple[int, ...]], objective: str) -> None:
    layer, slots = placed
    cost = Cost.of(objective, "optimal")
    evidence = value_evidence(layer, slots, cost)
    held = holders(slots, len(layer.loads), layer.topology.num_ranks)
    steps = steps_of(layer, objective)
    assert evidence is not None
    makespans = []
    for row, cut in zip(steps, evidence.ranks, strict=True):
        assert bool(cut) == any(row)
        assert list(cut) == sorted(set(cut))
        outside = np.delete(held, list(cut), axis=1).any(axis=1)
        inside = sum((load for load, out in zip(row, outside, strict=True) if not out), Fraction(0))
        makespans.append(inside / len(cut) if cut else Fraction(0))
    assert cost.objective.over(makespans) == value(layer, slots, *cost).bound


def random_trace(steps: int, experts: int, slots: int, ranks: int, seed: int = 0):
    random = np.random.default_rng(seed)
    loads = random.multinomial(4096, random.dirichlet(np.full(experts, 0.5)), steps)
    phy2log = random.permutation([*range(experts), *random.integers(0, experts, slots - experts)])
    return loads, phy2log.tolist(), Topology(slots, ranks)


@pytest.mark.skipif(not HAVE_NUMBA, reason="nothing is compiled")
@pytest.mark.parametrize("shape", [(40, 30, 48, 12), (20, 24, 64, 16), (10, 64, 72, 24)])
def test_steps_on_many_ranks_are_those_of_single_steps(shape: tuple[int, ...]) -> None:
    for seed in range(3):
        loads, slots, topology = random_trace(*shape, seed)
        layer = Instance(loads[:, None], topology).layer(0)
        alone = [best_shares(step, slots).makespan for step in layer.each_step()]
        classes = classes_of(layer.steps, holders(slots, shape[1], topology.num_ranks))
        assert METHODS["compiled"](classes).values == alone
        assert value(layer, slots, "mean", "optimal").value == sum(alone) / len(alone)


@pytest.mark.parametrize(
    "largest", [2**k + d for k in (30, 52, 53, 54, 55, 61) for d in (-1, 0, 1)]
)
@pytest.mark.parametrize("ranks", [3, 12])
def test_loads_near_the_limit_of_64_bits(largest: int, ranks: int) -> None:
    """Products of loads and numbers of ranks are compared: no integer may wrap."""
    random = np.random.default_rng(largest % 97)
    loads = random.integers(largest // 2, largest, (3, ranks + 1), endpoint=True)
    loads[0] = largest
    slots = [e % (ranks + 1) for e in range(2 * ranks)]
    layer = Instance(loads[:, None] // 4, Topology(2 * ranks, ranks)).layer(0)
    steps = steps_of(layer)
    for dispatch in ("even", "optimal"):
        found = value(layer, slots, "mean", dispatch).value
        cost = {"even": even_by_definition, "optimal": alone}[dispatch]
        assert found == sum(cost(layer, step, slots) for step in steps) / 3


def even_by_definition(layer: Layer, step: list[Fraction], slots: list[int]) -> Fraction:
    size = layer.topology.slots_per_rank
    shares = [step[e] / slots.count(e) for e in slots]
    return max(sum(shares[i : i + size]) for i in range(0, len(slots), size))


def alone(layer: Layer, step: list[Fraction], slots: list[int]) -> Fraction:
    loads = tuple(int(load / layer.unit) for load in step)
    return best_shares(Layer(loads, layer.unit, layer.topology), slots).makespan


def test_long_loads_start_from_a_guess_on_shorter_ones() -> None:
    loads, slots, topology = random_trace(60, 24, 48, 12)
    layer = Instance(loads[:, None] / 3.7 + 1e-9, topology).layer(0)
    assert layer.steps.dtype == object
    alone = [best_shares(step, slots).makespan for step in layer.each_step()]
    assert value(layer, slots, "worst", "optimal").value == max(alone)
    assert value(layer, slots, "mean", "optimal").value == sum(alone) / len(alone)


def test_floats_of_any_size() -> None:
    random = np.random.default_rng(5)
    loads = random.random((4, 1, 24)) * 10.0 ** random.integers(-200, 200, (4, 1, 24))
    _, slots, topology = random_trace(1, 24, 36, 12)
    layer = Instance(loads, topology).layer(0)
    assert layer.steps.dtype == object
    expected = [best_shares(step, slots).makespan for step in layer.each_step()]
    assert value(layer, slots, "worst", "optimal").value == max(expected)
