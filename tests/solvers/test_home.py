"""The rule ``home`` solved exactly: against enumeration, and what follows from the definition."""

from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest

from eplb_opt import Instance, Layer, Rule, Topology
from eplb_opt.problem.homes import find_homes, traffic
from eplb_opt.problem.objective import rank_loads
from eplb_opt.problem.validity import layer_violation, over_limit
from solvers import solve
from solvers.backends import JOINT_OVER_STEPS
from solvers.frontier import frontier
from tests.oracles.home import home_placements, tiny_home_layer
from tests.oracles.steps import exact_value

OBJECTIVES = ["sum", "mean", "worst", "cvar:0.4"]
EIGHT = [600, 560, 120, 120, 20, 10, 10, 10]


def home_layer(
    loads: list[int] | list[list[int]], limit: Fraction | int = 1, slots: int = 12, ranks: int = 4
) -> Layer:
    """Two nodes, four groups."""
    steps = loads if isinstance(loads[0], list) else [loads]
    topology = Topology(slots, ranks, num_nodes=2, num_groups=4)
    trace = [[step] for step in steps]
    return Instance(trace, topology, rule="home", traffic_limit=limit).layer(0)


def assert_agrees(layer: Layer, backend: str, cost: tuple[str, str]) -> None:
    """With enumeration, in value and bound."""
    objective, dispatch = cost
    words = {"objective": objective, "dispatch": dispatch}
    truth = solve(layer, backend="brute-force", **words)
    found = solve(layer, backend=backend, **words)
    assert found.infeasible == truth.infeasible
    if truth.infeasible:
        return
    assert found.lower_bound <= truth.objective
    if JOINT_OVER_STEPS[backend].in_floats:
        assert truth.objective <= found.objective <= truth.objective * (1 + Fraction(1, 2**12))
    elif layer.unit == 1:
        assert (found.objective, str(found.status)) == (truth.objective, "optimal")
    else:
        assert truth.objective <= found.objective <= truth.objective * (1 + Fraction(1, 2**20))
    assert layer_violation(layer, found.placement) is None
    assert found.node_of_group == find_homes(layer, found.placement)
    assert dispatch != "even" or over_limit(layer, found.placement) is None


def assert_many_agree(number: int, backend: str, dispatch: str, seed: int = 0) -> None:
    random = Random(seed)
    for _ in range(number):
        layer = tiny_home_layer(random, largest_shape=8 if number > 50 else 6)
        objective = random.choice(OBJECTIVES if len(layer.steps) > 1 else ["sum"])
        if is_offered(backend, layer, (objective, dispatch)):
            assert_agrees(layer, backend, (objective, dispatch))


def is_offered(backend: str, layer: Layer, cost: tuple[str, str]) -> bool:
    """``cuts`` know no limit under ``optimal`` dispatch, nor for the sum, which is one step."""
    one_step = cost[1] == "optimal" or cost[0] == "sum"
    return not (backend == "cuts" and one_step and layer.traffic_limit < 1)


@pytest.mark.parametrize(
    ("backend", "dispatch", "number"),
    [
        ("cp-sat", "even", 8),
        ("scipy", "even", 2),
        ("portfolio", "even", 2),
        ("cp-sat", "optimal", 5),
        ("cuts", "optimal", 3),
        ("scipy", "optimal", 1),
        ("cuts", "fixed", 2),
        ("scipy", "fixed", 2),
    ],
)
def test_agreement_with_enumeration(backend: str, dispatch: str, number: int) -> None:
    assert_many_agree(number, backend, dispatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "dispatch", "number"),
    [
        ("cp-sat", "even", 1000),
        ("scipy", "even", 200),
        ("portfolio", "even", 200),
        ("cp-sat", "optimal", 300),
        ("scipy", "optimal", 100),
        ("cuts", "optimal", 100),
        ("portfolio", "optimal", 100),
        ("cuts", "fixed", 100),
        ("scipy", "fixed", 60),
    ],
)
@pytest.mark.timeout(3600)
def test_agreement_of_many(backend: str, dispatch: str, number: int) -> None:
    assert_many_agree(number, backend, dispatch, seed=1)


def test_enumeration_against_the_definition() -> None:
    """The oracle of these tests, against one that shares nothing with it."""
    random = Random(5)
    for _ in range(3):
        layer = replace(tiny_home_layer(random, largest_shape=4), spread_replicas=False)
        within = [slots for slots, off in home_placements(layer) if off <= layer.traffic_limit]
        truth = min(exact_value(layer, slots, "mean", "even") for slots in within)
        assert solve(layer, backend="brute-force", objective="mean").objective == truth


def test_limits_lie_between_the_hierarchical_and_the_global_rule() -> None:
    layer = home_layer([60, 31, 12, 5], slots=6, ranks=2)
    limits = [Fraction(0), Fraction(1, 50), Fraction(1, 10), Fraction(1)]
    found = [solve(replace(layer, traffic_limit=limit)) for limit in limits]
    assert all(str(result.status) == "optimal" for result in found)
    values = [result.objective for result in found]
    assert values == sorted(values, reverse=True)
    assert values[0] == solve(replace(layer, rule=Rule.HIERARCHICAL)).objective
    assert values[-1] >= solve(layer.without_nodes()).objective
    for limit, result in zip(limits, found, strict=True):
        assert traffic(layer, result.placement) <= limit


def test_better_dispatch_costs_no_more() -> None:
    """Without a limit: with one, shares are limited under other dispatch, placements under even."""
    layer = home_layer([[9, 1, 2, 2], [1, 8, 2, 3]], slots=4, ranks=2)
    even, fixed, optimal = (
        solve(layer, backend="brute-force", objective="mean", dispatch=d).objective
        for d in ("even", "fixed", "optimal")
    )
    assert even >= fixed >= optimal


def test_homes_are_those_with_replicas_alike() -> None:
    """Each group is whole on both nodes: only one of two ways to call them home is the homes'."""
    layer = Instance([[9, 4]], Topology(4, 4, 2, 2), rule="home", traffic_limit=0).layer(0)
    limited = [replace(layer, traffic_limit=x) for x in (Fraction(0), Fraction(1, 5))]
    for one in limited:
        truth = solve(one, backend="brute-force", dispatch="optimal").objective
        assert solve(one, backend="cp-sat", dispatch="optimal").objective == truth
        assert solve(one, backend="scipy", dispatch="optimal").objective == truth


def test_one_node_is_the_global_rule() -> None:
    machine = Topology(6, 3, num_nodes=1, num_groups=2)
    layer = Instance([[9, 5, 3, 1]], machine, rule="home", traffic_limit=0).layer(0)
    found = solve(layer)
    assert found.objective == solve(layer.without_nodes()).objective
    assert found.node_of_group == (0, 0)


def test_other_stages_and_backends_are_refused() -> None:
    layer = home_layer(EIGHT)
    for stage in ("groups", "counts", "packing"):
        with pytest.raises(ValueError, match="only stage='joint'"):
            solve(layer, stage=stage)
    with pytest.raises(ValueError, match="backend='search' is not one of auto, portfolio"):
        solve(layer, backend="search")
    with pytest.raises(ValueError, match="backend='cuts' is not one of"):
        solve(home_layer(EIGHT, Fraction(1, 9)), backend="cuts", dispatch="optimal")
    with pytest.raises(ValueError, match="backend='cp-sat' is not one of"):
        solve(home_layer([EIGHT, EIGHT]), backend="cp-sat", objective="mean", dispatch="fixed")


def test_nodes_that_do_not_divide_groups_are_refused() -> None:
    layer = Layer((1,) * 6, Fraction(1), Topology(8, 4, 4, 6), Rule.HOME)
    with pytest.raises(ValueError, match="num_nodes=4, num_groups=6"):
        solve(layer)


def test_start_beyond_the_limit_is_refused() -> None:
    layer = home_layer([4, 4, 4, 4], Fraction(0), slots=8, ranks=2)
    start = (0, 1, 0, 2, 2, 3, 1, 3)
    assert traffic(layer, start) > 0
    with pytest.raises(ValueError, match="initial is beyond the limit of traffic: layer 0"):
        solve(layer, initial=start)
    assert solve(replace(layer, traffic_limit=Fraction(1)), initial=start, time_limit=0).objective


def test_spread_replicas_may_leave_no_placement_within_a_limit() -> None:
    """A rank of three slots, and two experts at home on the node."""
    loads, machine = [[5, 4, 3, 2]], Topology(6, 2, num_nodes=2, num_groups=2)
    free, limited = (
        Instance(loads, machine, rule="home", spread_replicas=True, traffic_limit=x).layer(0)
        for x in (Fraction(1), Fraction(1, 10))
    )
    assert str(solve(free).status) == "optimal"
    for backend in ("auto", "cp-sat", "scipy", "brute-force"):
        assert solve(limited, backend=backend).infeasible
    assert solve(replace(limited, traffic_limit=Fraction(0))).infeasible


def test_no_time_is_a_result() -> None:
    found = solve(home_layer(EIGHT, Fraction(1, 20)), time_limit=0)
    assert (str(found.status), str(found.limit)) == ("feasible", "time")
    assert over_limit(home_layer(EIGHT, Fraction(1, 20)), found.placement) is None


def test_layer_without_load() -> None:
    for dispatch in ("even", "fixed", "optimal"):
        found = solve(home_layer([0] * 8, Fraction(1, 20)), dispatch=dispatch)
        assert (found.objective, str(found.status)) == (0, "optimal")


def test_frontier_against_enumeration() -> None:
    random, several = Random(11), 0
    for _ in range(6):
        layer = replace(tiny_home_layer(random, limited=False, largest_shape=6))
        layer = replace(layer, unit=Fraction(1), spread_replicas=False)
        if not layer.has_load:
            continue
        seen = {(max(rank_loads(layer, p)), off) for p, off in home_placements(layer)}
        truth = [
            (makespan, off)
            for makespan, off in sorted(seen)
            if not any(m <= makespan and t <= off and (m, t) != (makespan, off) for m, t in seen)
        ]
        found = frontier(layer)
        assert [(point.makespan, point.traffic) for point in found] == truth
        assert all(point.proven for point in found)
        for point in found:
            assert max(rank_loads(layer, point.placement)) == point.makespan
            assert traffic(layer, point.placement) == point.traffic
        several += len(found) > 1
    assert several


def test_frontier_at_given_limits() -> None:
    layer = home_layer([60, 31, 12, 5], slots=6, ranks=2)
    points = frontier(layer, [Fraction(1), Fraction(1, 10), 0])
    assert [point.limit for point in points] == [1, Fraction(1, 10), 0]
    assert points[-1].makespan == solve(replace(layer, rule=Rule.HIERARCHICAL)).objective
    with pytest.raises(ValueError, match="parts of the tokens"):
        frontier(layer, [2])


def test_weights_are_small_enough_for_presolve() -> None:
    """With weights of 2^40 CP-SAT proved 23.78, above the optimum."""
    loads = [[[64.6, 0.0, 0.0]], [[0.0, 0.0, 12.3]], [[0.0, 0.6, 0.0]]]
    machine = Topology(6, 3, num_nodes=3, num_groups=3)
    layer = Instance(loads, machine, rule="home", traffic_limit=Fraction(1, 10)).layer(0)
    found = solve(layer, backend="cp-sat", objective="mean")
    assert (
        found.lower_bound
        <= found.objective
        == solve(layer, backend="brute-force", objective="mean").objective
    )
