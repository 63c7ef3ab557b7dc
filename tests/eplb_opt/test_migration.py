"""Plans of migrations: the front, the choice, and what is proven of it."""

from fractions import Fraction

import numpy as np
import pytest

from eplb_opt import Instance, Topology, bounds, find_violations
from eplb_opt.io.synthetic import generate
from eplb_opt.migration import plan_migration
from eplb_opt.problem.homes import traffic
from eplb_opt.problem.result import Limit
from eplb_opt.problem.transfer import count_transfers
from eplb_opt.problem.validity import over_limit
from solvers.dispatch import value
from solvers.migration import MigrationResult
from solvers.options import SearchOptions

LOADS = generate("lognormal", num_layers=3, num_experts=12, tokens=12_000, seed=1)
NOW = Instance(np.vstack([LOADS, np.zeros((1, 12), int)]), Topology(16, 4))
BEFORE = np.tile(np.arange(16) % 12, (4, 1))


def test_the_front_falls_and_keeps_its_budgets() -> None:
    plan = plan_migration(NOW, BEFORE, budget=10)
    assert plan.budgets == (0, 5, 10)
    assert not find_violations(plan.placement, NOW)
    for layer, found in zip(NOW.layers(), plan.layers, strict=True):
        assert found.lower_bound == bounds.of(layer).value
        makespans = [x.makespan for x in found.front]
        assert makespans == sorted(makespans, reverse=True)
        for budget, x in zip(plan.budgets, found.front, strict=True):
            assert x.makespan == value(layer, x.phy2log).value
            old, new = BEFORE[:1], np.array([x.phy2log])
            assert x.transfers == count_transfers(old, new, 4).sum() <= budget
        assert found.after.makespan == min(makespans)
        assert found.transfers_at_least is None
    assert plan.layers[3].after.gap is None  # without load
    assert [row[0] for row in plan.summary()] == [0, 5, 10]


def test_within_takes_no_more_than_it_needs() -> None:
    plan = plan_migration(NOW, BEFORE, budget=16, within=Fraction(1, 2))
    for found in plan.layers[:3]:
        assert found.after.makespan <= Fraction(3, 2) * found.lower_bound
        fewer = [m for m in found.front if m.transfers < found.after.transfers]
        assert all(m.makespan > Fraction(3, 2) * found.lower_bound for m in fewer)


@pytest.mark.parametrize("budget", [2, 4, 50])
def test_a_ratio_that_is_missed_leaves_the_least_makespan(budget: int) -> None:
    """Changes were looked for less thoroughly with a ratio, so that more budget could be worse."""
    for ratio in (Fraction(0), Fraction(9)):
        plan = plan_migration(NOW, BEFORE, budget=budget, within=ratio)
        least = plan_migration(NOW, BEFORE, budget=budget)
        for found, best in zip(plan.layers, least.layers, strict=True):
            assert found.makespan_limit == (1 + ratio) * found.lower_bound
            assert found.missed == (best.after.makespan > found.makespan_limit)
            assert not found.missed or found.after.makespan == best.after.makespan
        assert any(found.missed for found in plan.layers) == (ratio == 0)
        assert not any(found.missed for found in least.layers)


def test_what_is_proven_is_at_most_what_is_transferred() -> None:
    plan = plan_migration(NOW, BEFORE, budget=4, search=SearchOptions(5))
    for found in plan.layers:
        assert found.transfers_at_least <= found.after.transfers <= 4
    assert any(found.transfers_at_least == found.after.transfers > 0 for found in plan.layers)
    assert not plan.interrupted


def test_an_interrupt_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    import solvers.migration

    real, calls = solvers.migration.fewest_transfers, []

    def second_is_interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(solvers.migration, "fewest_transfers", second_is_interrupted)
    plan = plan_migration(NOW, BEFORE, budget=4, search=SearchOptions(5))
    assert plan.interrupted
    assert [found.transfers_at_least is None for found in plan.layers] == [False, True, True, True]
    assert not find_violations(plan.placement, NOW)


def test_an_interrupt_between_two_makespans_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``within`` each layer is searched for two makespans: the second went on, to the end."""
    import solvers.migration

    calls: list[Fraction] = []

    def interrupted(_layer, _old, makespan, **_options):
        calls.append(makespan)
        return MigrationResult(makespan, 0, limit=Limit.INTERRUPT)

    monkeypatch.setattr(solvers.migration, "fewest_transfers", interrupted)
    search = SearchOptions(5)
    plan = plan_migration(NOW, BEFORE, budget=4, within=Fraction(1, 100), search=search)
    assert (plan.interrupted, len(calls)) == (True, 1)


def test_spread_replicas_are_refused() -> None:
    spread = Instance(LOADS, Topology(16, 4), spread_replicas=True)
    with pytest.raises(ValueError, match="does not keep replicas apart"):
        plan_migration(spread, BEFORE[:3])


def test_no_more_transfers_are_planned_than_there_are_slots() -> None:
    """10^23 of them overflowed."""
    now = Instance([[4, 3, 2, 1]], Topology(4, 2))
    plan = plan_migration(now, np.array([[0, 1, 2, 3]]), budget=10**23)
    assert plan.budgets[-1] == 4
    assert plan.layers[0].after.makespan == 5


HOME_LOADS = generate("lognormal", num_layers=4, num_experts=16, tokens=16_000, shape=1.5, seed=2)
HOME_MACHINE = Topology(24, 4, 2, 4)
HOME_BEFORE = np.tile([*range(8), 8, 9, 10, 11, *range(8, 16), 0, 1, 2, 3], (4, 1))
"""Each node holds two groups, and copies of a group of the other node."""


@pytest.mark.parametrize("limit", ["1/5", "0"])
def test_under_home_traffic_comes_within_its_limit(limit: str) -> None:
    now = Instance(HOME_LOADS, HOME_MACHINE, "home", traffic_limit=limit)
    plan = plan_migration(now, HOME_BEFORE, budget=12, search=SearchOptions(0.05))
    assert not find_violations(plan.placement, now)
    for layer, found in zip(now.layers(), plan.layers, strict=True):
        assert found.before.traffic == traffic(layer, found.before.phy2log)
        assert found.after.traffic == traffic(layer, found.after.phy2log)
        assert not found.over_limit
        assert over_limit(layer, found.after.phy2log) is None
        within = found.before.traffic <= now.traffic_limit
        assert not within or found.after.makespan <= found.before.makespan
    assert any(found.before.traffic > Fraction(1, 5) for found in plan.layers)


def test_a_budget_too_small_for_the_limit_of_traffic_is_said() -> None:
    one_slot_a_rank = Topology(24, 24, 2, 4)
    now = Instance(HOME_LOADS, one_slot_a_rank, "home", traffic_limit=0)
    plan = plan_migration(now, HOME_BEFORE, budget=1)
    assert any(found.over_limit for found in plan.layers)
    for found in plan.layers:
        assert found.over_limit == (found.after.traffic > 0)
        assert found.after.traffic < found.before.traffic
