"""The portfolio keeps what is known when it is stopped, and says what proves its bound."""

from fractions import Fraction

import pytest

from eplb_opt import Instance, Topology
from eplb_opt.certificate import Trust, check_bound
from eplb_opt.io.synthetic import generate
from solvers import portfolio, solve


def instance(family: str, experts: int, *sizes: int) -> Instance:
    loads = generate(family, num_layers=1, num_experts=experts, tokens=4096 * experts, seed=0)
    return Instance(loads, Topology(*sizes))


@pytest.mark.parametrize("step", ["_improve", "_raise_bound"])
def test_interrupt_in_a_step_keeps_placement_and_bound(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(portfolio, step, interrupted)
    result = solve(instance("zipf", 64, 72, 24).layer(0), time_limit=5)
    assert result.limit == "interrupt"
    assert 0 < result.lower_bound <= result.objective


def test_interrupt_in_the_local_search_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("solvers.local_search.improve.iterate", interrupted)
    result = solve(instance("zipf", 64, 72, 24).layer(0), time_limit=5)
    assert result.limit == "interrupt"


def test_patterns_close_what_closed_forms_leave_open() -> None:
    layer = instance("zipf", 64, 72, 24).layer(0)
    quick, full = solve(layer, time_limit=0), solve(layer, time_limit=15, tolerance=1e-3)
    assert full.bound_source == "patterns"
    assert full.lower_bound > quick.lower_bound
    assert full.gap < 0.001
    assert check_bound(layer, full.lower_bound, full.certificate) is Trust.VERIFIED


def test_progress_is_told_as_bounds_and_values_improve() -> None:
    told: list[tuple[Fraction, Fraction]] = []
    layer = instance("zipf", 64, 72, 24).layer(0)
    result = solve(layer, time_limit=2, progress=lambda value, bound: told.append((value, bound)))
    assert told[-1] == (result.objective, result.lower_bound)
    assert [v for v, _ in told] == sorted((v for v, _ in told), reverse=True)
    assert [b for _, b in told] == sorted(b for _, b in told)


@pytest.mark.parametrize("sizes", [(8, 8), (12, 12), (16, 16)])
def test_one_slot_a_rank_is_a_closed_form(sizes: tuple[int, int]) -> None:
    layer = instance("lognormal", 8, *sizes).layer(0)
    result = solve(layer)
    assert (result.status, result.bound_source) == ("optimal", "threshold")


def test_hierarchical_full_scale_meets_its_bound() -> None:
    layer = instance("deepseek-v3", 256, 288, 32, 4, 8).layer(0)
    result = solve(layer, time_limit=60, tolerance=1e-5)
    assert result.gap < 2e-5
    assert check_bound(layer, result.lower_bound, result.certificate) is Trust.VERIFIED


@pytest.mark.parametrize("sizes", [(96, 144, 72), (24, 48, 12)])
def test_a_search_that_time_ends_says_so(sizes: tuple[int, int, int]) -> None:
    result = solve(instance("zipf", *sizes).layer(0), time_limit=0.2)
    assert (result.limit == "time") == (result.objective > result.lower_bound)


@pytest.mark.parametrize(
    ("sizes", "source"), [((64, 72, 36), "two-slots"), ((12, 24, 8), "search")]
)
def test_what_proved_the_bound_is_named(sizes: tuple[int, int, int], source: str) -> None:
    result = solve(instance("lognormal", *sizes).layer(0), time_limit=60)
    assert (str(result.status), result.bound_source) == ("optimal", source)
