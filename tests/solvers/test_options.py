"""What is left of a budget, and who is charged."""

from fractions import Fraction

import numpy as np
import pytest

from eplb_opt import Instance, Topology
from eplb_opt.io.synthetic import generate
from eplb_opt.migration import plan_migration
from eplb_opt.problem.result import Limit
from solvers import solve
from solvers.backends import BACKENDS
from solvers.bracket import Bracket
from solvers.options import CHUNK, Budget, SearchOptions


def test_work_of_a_part_is_charged_to_the_whole() -> None:
    whole = Budget(SearchOptions(work_limit=1000))
    part = whole.part(0.5)
    assert (part.work, part.chunk()) == (500, 500)
    part.charge(400)
    assert (part.work_left(), whole.work_left()) == (100, 600)
    part.charge(100)
    assert (part.chunk(), part.limit, whole.limit) == (0, Limit.WORK, None)
    assert whole.part(work=100).work == 100
    assert Budget().part(work=7).work == 7


def test_time_of_a_part_is_a_share_of_what_is_left() -> None:
    whole = Budget(SearchOptions(time_limit=100))
    assert 49 < whole.part(0.5).seconds <= 50
    none = Budget(SearchOptions(time_limit=0))
    assert (none.chunk(), none.limit) == (0, Limit.TIME)
    assert Budget().chunk() == CHUNK


def test_an_interrupt_of_a_part_ends_the_whole() -> None:
    whole = Budget(SearchOptions(time_limit=100))
    part = whole.part(0.5).part(0.5)
    part.interrupt()
    assert whole.interrupted
    later = whole.part()
    assert (later.chunk(), later.limit, later.seconds) == (0, Limit.INTERRUPT, 0)


def test_a_target_or_a_tolerance_is_enough() -> None:
    budget = Budget(SearchOptions(tolerance=Fraction(1, 10)), target=Fraction(20))
    assert budget.accepts(Fraction(20), Fraction(1))
    assert budget.accepts(Fraction(33), Fraction(30))
    assert not budget.accepts(Fraction(34), Fraction(30))
    assert budget.part().target == 20
    assert budget.part(target=Fraction(5)).target == 5


@pytest.mark.parametrize("backend", [b for b in BACKENDS["joint"] if b != "brute-force"])
def test_every_backend_charges_its_work(backend: str) -> None:
    loads = generate("lognormal", num_layers=1, num_experts=10, tokens=40_960, seed=0)
    layer = Instance(loads, Topology(14, 7)).layer(0)
    if not BACKENDS["joint"][backend].is_installed():
        pytest.skip(f"{backend} is not installed")
    budget = Budget(SearchOptions(time_limit=0.5))
    BACKENDS["joint"][backend].solve(layer, budget, None)
    assert budget.used > 0


def test_a_work_limit_ends_the_portfolio_and_is_said() -> None:
    """With it alone the patterns once had a clock of a minute of their own."""
    loads = generate("lognormal", num_layers=1, num_experts=128, tokens=128 * 4096, seed=0)
    layer = Instance(loads, Topology(144, 36)).layer(0)
    first, second = (solve(layer, work_limit=5_000_000) for _ in range(2))
    assert first.limit == "work"
    assert first.runtime < 20
    assert (first.objective, first.lower_bound) == (second.objective, second.lower_bound)


def test_a_bracket_only_comes_closer() -> None:
    known = Bracket((0, 1), Fraction(5), Fraction(2), "mean")
    better = Bracket((1, 0), Fraction(4), Fraction(4), "even")
    assert known.with_placement(better).value == 4
    assert known.with_placement(better).bound == 2
    assert better.with_placement(known) is better
    assert known.with_bound(Fraction(1), "x") is known
    assert known.with_bound(Fraction(3), "x").source == "x"
    assert not known.closed
    assert better.closed
    with pytest.raises(ValueError, match="no placement is known"):
        _ = Bracket(None, None, Fraction(1), "x").incumbent


@pytest.mark.parametrize("backend", ["search", "two-slots", "portfolio"])
def test_a_tolerance_that_ended_the_search_is_said(backend: str) -> None:
    result = solve(Instance([[8, 1]], Topology(6, 3)).layer(0), backend=backend, tolerance=0.5)
    assert (str(result.status), result.limit) == ("feasible", "tolerance")


def test_a_program_is_not_run_without_work() -> None:
    loads = generate("lognormal", num_layers=1, num_experts=16, tokens=65_536, seed=0)
    layer = Instance(loads, Topology(24, 6)).layer(0)
    result = solve(layer, backend="scipy", work_limit=1)
    assert result.limit == "work"
    assert result.lower_bound < result.objective


def test_a_plan_of_a_migration_heeds_its_limit_on_work() -> None:
    loads = np.random.default_rng(1).integers(1, 1000, (1, 24))
    start = np.arange(32)[None] % 24
    plan = plan_migration(
        Instance(loads, Topology(32, 8)), start, budget=10, search=SearchOptions(work_limit=1)
    )
    assert plan.layers[0].transfers_at_least is not None
