"""The split of the loss over the steps served, against listing every placement of tiny layers."""

import random
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology, documents, measure_gap
from eplb_opt.gap.loss_split import Split, point
from eplb_opt.gap.optima import NO_SEARCH
from eplb_opt.gap.served_loss import TERMS, Placed, split_served_loss, void_terms
from eplb_opt.gap.staleness import next_window
from eplb_opt.problem.objective import Cost, Dispatch, Objective
from solvers.options import SearchOptions
from tests.oracles.steps import (
    DISPATCHES,
    OBJECTIVES,
    Slots,
    all_step_placements,
    distinct_placements,
    exact_value,
    optimal_makespans,
    over,
    steps_of,
    tiny_traces,
)

UNTIL_PROVEN = SearchOptions()
COSTS = st.tuples(st.sampled_from(OBJECTIVES), st.sampled_from(DISPATCHES))
CHANCE = st.randoms(use_true_random=False)
LAYERS = tiny_traces().filter(lambda layer: layer.has_load and len(layer.loads) < 6)
"""Six experts in eight slots have too many placements under the global rule."""


def true_optima(layer: Layer, objective: str) -> list[Fraction]:
    """V_0 to V_3: mean, wait-and-see under the global rule and the layer's, best constant."""
    steps, ranks = steps_of(layer, objective), layer.topology.num_ranks
    found = [over([sum(row) / ranks for row in steps], objective)]
    for problem in (layer.without_nodes(), layer):
        placed = [optimal_makespans(steps, x, ranks) for x in distinct_placements(problem)]
        found.append(over([min(column) for column in zip(*placed, strict=True)], objective))
    return [*found, min(over(makespans, objective) for makespans in placed)]


def place_twice(layer: Layer, cost: tuple[str, str], chance: random.Random) -> dict[str, Placed]:
    slots = {name: chance.choice(all_step_placements(layer)) for name in ("a", "b")}
    return {name: Placed(x, exact_value(layer, x, *cost)) for name, x in slots.items()}


def split_of(
    layer: Layer,
    placed: dict[str, Placed],
    cost: tuple[str, str],
    search: SearchOptions = NO_SEARCH,
    seen: Layer | None = None,
) -> dict[str, Split]:
    found = split_served_loss(layer, placed, Cost.of(*cost), search, seen)
    return {name: layer.split for name, layer in found.items()}


def check_terms(
    layer: Layer, cost: tuple[str, str], chance: random.Random, search: SearchOptions
) -> None:
    """All terms contain the truth; after a ``search`` they are exact."""
    optima, placed = true_optima(layer, cost[0]), place_twice(layer, cost, chance)
    for name, split in split_of(layer, placed, cost, search).items():
        mine = exact_value(layer, tuple(placed[name].phy2log), cost[0], "optimal")
        losses = [b - a for a, b in pairwise([*optima, mine, placed[name].paid])]
        truth = {term: loss / optima[0] for term, loss in zip(TERMS, losses, strict=True)}
        assert split.total == sum(truth.values())
        assert all(truth[term] in split.terms[term] for term in TERMS)
        assert all(split.shown[term] >= 0 for term in TERMS)
        void = void_terms(layer, Objective.parse(cost[0]), Dispatch(cost[1]))
        assert all(truth[term] == 0 for term in void)
        if search != NO_SEARCH:
            assert dict(split.terms) == {term: point(truth[term]) for term in TERMS}


@settings(max_examples=60)
@given(LAYERS, COSTS, CHANCE)
def test_terms_contain_the_truth(
    layer: Layer, cost: tuple[str, str], chance: random.Random
) -> None:
    check_terms(layer, cost, chance, NO_SEARCH)


@settings(max_examples=15)
@given(LAYERS.filter(lambda layer: layer.unit == 1), COSTS, CHANCE)
def test_terms_are_exact_where_all_is_searched(
    layer: Layer, cost: tuple[str, str], chance: random.Random
) -> None:
    check_terms(layer, cost, chance, UNTIL_PROVEN)


def test_with_enough_redundant_experts_wait_and_see_is_known_without_a_search() -> None:
    """G - 1 on each node: every step alone is spread evenly."""
    trace = [[[9, 2, 1, 0]], [[0, 0, 5, 5]], [[1, 7, 1, 1]]]
    for topology in (Topology(6, 3), Topology(8, 4, 2, 2), Topology(8, 4, 2, 4)):
        layer = Instance(trace, topology).layer(0)
        optima = true_optima(layer, "mean")
        x = all_step_placements(layer)[0]
        split = split_of(layer, {"x": Placed(x, Fraction(9))}, ("mean", "even"))["x"]
        assert split.terms["granularity"] == point(0) == point(optima[1] - optima[0])
        assert split.terms["rule"] == point((optima[2] - optima[1]) / optima[0])


@settings(max_examples=30)
@given(LAYERS, COSTS, CHANCE)
def test_staleness_contains_the_truth(
    served: Layer, cost: tuple[str, str], chance: random.Random
) -> None:
    steps = served.steps[[chance.randrange(len(served.steps)) for _ in range(3)]]
    steps = steps[:, chance.sample(range(steps.shape[1]), steps.shape[1])]
    seen = Instance(
        steps[:, None].astype(np.float64), served.topology, served.rule,
        spread_replicas=served.spread_replicas,
    ).layer(0)  # fmt: skip
    placed = place_twice(served, cost, chance)
    of_served, of_seen = true_optima(served, cost[0]), true_optima(seen, cost[0])
    for name, split in split_of(served, placed, cost, seen=seen).items():
        x: Slots = tuple(placed[name].phy2log)
        placement = (exact_value(served, x, cost[0], "optimal") - of_served[3]) / of_served[0]
        optimality = Fraction(0)
        if seen.has_load:
            mine = exact_value(seen, x, cost[0], "optimal")
            optimality = (mine - of_seen[3]) / of_seen[0]
        assert placement in split.sums["placement"]
        assert optimality in split.terms["optimality"]
        assert placement - optimality in split.terms["staleness"]
        assert list(split.terms) == [*TERMS[:3], "optimality", "staleness", "dispatch"]
        assert sum(split.shown.values()) == split.total


def test_the_same_steps_scaled_are_not_stale() -> None:
    trace = np.array([[[5, 3, 1]], [[1, 1, 1]], [[0, 0, 0]]])
    seen, served = (Instance(k * trace, Topology(4, 2)).layer(0) for k in (1, 3))
    split = split_of(served, {"x": Placed((0, 1, 2, 2), Fraction(30))}, ("mean", "even"), seen=seen)
    assert split["x"].terms["staleness"] == point(0)
    assert split["x"].terms["optimality"] == split["x"].sums["placement"]


def test_the_stochastic_solution_is_worth_what_the_sum_loses() -> None:
    """The sum is even over the experts, so any placement is best for it; two steps tell pairs
    apart.
    """
    layer = Instance([[[4, 4, 0, 0]], [[0, 0, 4, 4]]], Topology(4, 2)).layer(0)
    split = split_of(layer, {"x": Placed((0, 1, 2, 3), Fraction(8))}, ("mean", "even"))["x"]
    assert split.beside["vss"].high == Fraction(1)  # (0, 1) on one rank: 8 for 4
    proven = split_of(
        layer, {"x": Placed((0, 2, 1, 3), Fraction(4))}, ("mean", "optimal"), UNTIL_PROVEN
    )["x"]
    assert proven.total == 0
    assert proven.beside["vss"] == point(0)  # this one is as good for the sum


def test_a_report_of_all_objectives_and_dispatch_rules() -> None:
    trace = [[[4, 1, 1, 1], [0] * 4], [[1, 4, 1, 1], [0] * 4], [[0] * 4, [0] * 4]]
    instance = Instance(trace, Topology(6, 3))
    for objective in ("sum", "mean", "worst", "cvar:1/2"):
        for dispatch in ("even", "optimal"):
            cost = (objective, dispatch)
            report = measure_gap(instance, ["deepseek"], objective=objective, dispatch=dispatch,
                                 explain=True, time_limit=0)  # fmt: skip
            (layer,), (policy,) = report.policies[0].layers, report.attribution
            assert float(policy.mean.total) == pytest.approx(report.policies[0].loss_mean)
            x = tuple(report.policies[0].placement.phy2log[0].tolist())  # type: ignore[union-attr]
            assert layer.makespan == exact_value(instance.layer(0), x, *cost)
            assert documents.gap(report)["attribution"][0]["num_layers"] == 1


def test_windows_follow_each_other() -> None:
    trace = np.arange(7 * 2 * 4).reshape(7, 2, 4)
    seen, served = next_window(Instance(trace, Topology(4, 2), source="t"), 2)
    assert np.array_equal(seen.trace, np.concatenate([trace[0:2], trace[2:4]], axis=1))
    assert np.array_equal(served.trace, np.concatenate([trace[2:4], trace[4:6]], axis=1))
    assert (seen.source, served.source) == ("t, steps 0 to 3 by 2", "t, steps 2 to 5 by 2")
    with pytest.raises(ValueError, match="needs a trace of at least 8 steps"):
        next_window(Instance(trace, Topology(4, 2)), 4)


def test_an_objective_over_steps_needs_them() -> None:
    instance = Instance([[3, 1]], Topology(2, 2), source="x.json")
    with pytest.raises(ValueError, match=r"objective='mean': x.json holds \[layers, experts\]"):
        measure_gap(instance, objective="mean")
    trace = Instance([[[3, 1]]], Topology(2, 2))
    with pytest.raises(ValueError, match=r"x.json holds \[layers, experts\]"):
        measure_gap(trace, objective="worst", serve_on=instance)
