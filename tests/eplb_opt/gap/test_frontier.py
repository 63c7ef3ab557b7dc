"""Balance against traffic: the same policies under one rule after another."""

from fractions import Fraction
from itertools import combinations_with_replacement, pairwise

import pytest

from eplb_opt import Instance, Topology
from eplb_opt.gap import measure_frontier, measure_gap
from eplb_opt.gap.frontier import name_of
from eplb_opt.gap.travel import Travel
from eplb_opt.problem.homes import traffic
from eplb_opt.problem.objective import rank_loads
from eplb_opt.problem.validity import layer_violation, over_limit

MACHINE = Topology(6, 2, num_nodes=2, num_groups=2)
LOADS = [[6, 2, 1, 1], [3, 3, 2, 2]]


def best_in(instance: Instance, row: int) -> Fraction:
    """The least makespan of all placements that the rule and its limit allow."""
    layer = instance.layer(row)
    ranks = list(combinations_with_replacement(range(4), 3))
    return min(
        max(rank_loads(layer, placed))
        for placed in (a + b for a in ranks for b in ranks)
        if not layer_violation(layer, placed) and not over_limit(layer, placed)
    )


def spilling(_weight, _slots, _groups, _nodes, _ranks):
    """Expert 0 twice at home and once off home, in both layers."""
    return [[0, 0, 1, 2, 3, 0]] * 2


def test_optima_of_the_frontier_lie_above_its_bounds_and_below_its_policies() -> None:
    limits = [Fraction(1, 5), Fraction(1, 10), 0]
    frontier = measure_frontier(
        Instance(LOADS, MACHINE), limits, ["refined", spilling], time_limit=0
    )
    names = ["hierarchical", "home 0", "home 0.1", "home 0.2", "home", "global"]
    assert [name_of(report) for report in frontier.reports] == names
    optima, bounds = [], []
    for report in frontier.reports:
        best = [best_in(report.instance, row) for row in range(2)]
        for row, reference in enumerate(report.reference):
            assert reference.lower_bound <= best[row]
            for policy in report.policies:
                if policy.layers:
                    assert policy.layers[row].makespan >= best[row]
        optima.append(best)
        bounds.append([reference.lower_bound for reference in report.reference])
    assert all(
        a >= b for tight, loose in pairwise(bounds) for a, b in zip(tight, loose, strict=True)
    )
    for tight, loose in pairwise(optima):
        assert all(a >= b for a, b in zip(tight, loose, strict=True))
    assert optima[0] == optima[1]  # all experts have load
    assert frontier.worse_than_hierarchical == ()
    statuses = [report.policies[1].status for report in frontier.reports]
    assert statuses == ["invalid"] * 3 + ["ok"] * 3
    assert [row.traffic for row in frontier.reports[4].policies[1].layers] == [
        Fraction(1, 5),
        Fraction(1, 10),
    ]
    assert frontier.reports[4].policies[1].traffic_mean == pytest.approx(0.15)
    assert frontier.reports[4].policies[1].traffic_max == pytest.approx(0.2)


def test_a_placement_above_the_limit_is_no_solution_where_shares_are_alike() -> None:
    """With other dispatch the shares keep the limit."""
    instance = Instance([LOADS], MACHINE, rule="home", traffic_limit="0.15")
    for dispatch in ("even", "fixed", "optimal"):
        (policy,) = measure_gap(instance, spilling, dispatch=dispatch, time_limit=0).policies
        assert policy.status == ("invalid" if dispatch == "even" else "ok")
        if dispatch == "even":
            assert policy.message == (
                "layer 0: 20.0000% of the tokens are served off home, and the limit is 15.0000%"
            )


def test_on_other_loads_the_limit_is_that_of_the_loads_seen() -> None:
    seen = Instance(LOADS[1:], MACHINE, rule="home", traffic_limit="0.1")
    served = Instance(LOADS[:1], MACHINE, rule="home", traffic_limit="0.1")

    def one(*_sizes):
        return spilling(*_sizes)[:1]

    (policy,) = measure_gap(seen, one, serve_on=served, time_limit=0).policies
    assert (policy.status, policy.traffic_mean) == ("ok", pytest.approx(0.2))
    (policy,) = measure_gap(served, one, serve_on=seen, time_limit=0).policies
    assert policy.status == "invalid"


def test_traffic_of_other_rules() -> None:
    """With several nodes that share the groups alike; nothing is off home if all is there."""
    for rule, slots, expected in (("hierarchical", [0, 1, 1, 2, 3, 3], 0), ("global", None, 0.2)):
        placed = slots or [0, 0, 1, 2, 3, 0]
        instance = Instance(LOADS[:1], MACHINE, rule=rule)
        (policy,) = measure_gap(instance, lambda *_, placed=placed: [placed], time_limit=0).policies
        assert policy.traffic_mean == expected
        (layer,) = policy.layers
        assert layer.traffic == traffic(instance.layer(0), placed, present=False)
    one_node = Instance(LOADS[:1], Topology(6, 2))
    assert measure_gap(one_node, time_limit=0).policies[0].traffic_mean is None
    at_home = Instance(LOADS[:1], Topology(6, 2), rule="home")
    assert measure_gap(at_home, time_limit=0).policies[0].traffic_mean == 0


def test_an_interrupted_frontier_has_the_reports_so_far() -> None:
    def stop(what: str, done: int, _total: int) -> None:
        if (what, done) == ("home: reference", 1):
            raise KeyboardInterrupt

    frontier = measure_frontier(Instance(LOADS, MACHINE), [0.1], "deepseek", progress=stop)
    assert frontier.interrupted
    assert [report.interrupted for report in frontier.reports] == [False, False, True]


@pytest.mark.parametrize("limit", [-1, "x", 2])
def test_bad_limits(limit: object) -> None:
    with pytest.raises(ValueError, match="traffic_limit="):
        measure_frontier(Instance(LOADS, MACHINE), [limit])


def test_time_adds_loss_and_the_fullest_link() -> None:
    """Of 10 loads node 0 serves 6 and node 1 serves 4, of which 2 are off home.

    So a token with two experts drawn by load visits node 0 with 1 - 0.4^2. A visit is 3 H bytes,
    3 us; with two ranks a token is one expert's work, 2 us, on each.
    """
    travel = Travel(2, hidden_size=1000, link=1.0, seconds_per_token=2e-6)
    instance = Instance(LOADS[:1], MACHINE, rule="home")

    def one(*sizes):
        return spilling(*sizes)[:1]

    (policy,) = measure_gap(instance, one, travel=travel, time_limit=0).policies
    (layer,) = policy.layers
    assert layer.makespan == 6
    assert policy.time_mean == layer.time == pytest.approx(6 / 5 - 1 + 0.84 * 3 / 2)
    assert policy.time_most_mean == pytest.approx(policy.time_mean)  # node 1: 0.36 + 0.4
    still = measure_gap(instance, "deepseek", travel=travel, time_limit=0).policies[0]
    assert still.time_mean == pytest.approx(still.loss_mean + 0.96 * 3 / 2)
    with pytest.raises(ValueError, match="a time needs objective 'sum' or 'mean'"):
        measure_gap(instance, one, travel=travel, dispatch="optimal")


def test_a_small_frontier_is_solved_exactly() -> None:
    """Every placement agrees, under every rule."""
    frontier = measure_frontier(Instance(LOADS[:1], MACHINE), [0, 0.1, "0.15", 0.25], "deepseek")
    for report in frontier.reports:
        assert report.reference[0].lower_bound == best_in(report.instance, 0)
        assert report.reference[0].status == "optimal"


def test_normalised_steps_have_a_frontier() -> None:
    trace = [[LOADS[0]], [LOADS[1]]]
    instance = Instance(trace, MACHINE, normalize_steps=True)
    found = measure_frontier(instance, [0.2], "deepseek", objective="mean", time_limit=0)
    assert [name_of(report) for report in found.reports][1] == "home 0.2"
    assert all(report.instance.normalize_steps for report in found.reports)
