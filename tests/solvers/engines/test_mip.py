"""What MILP solvers say must not be taken at its word: each trap with a real run."""

import math
from fractions import Fraction

import numpy as np
import pytest

from eplb_opt import Instance, Layer, Result, Topology
from eplb_opt.io.synthetic import generate
from solvers import solve
from solvers.engines import mip
from solvers.model_size import require_size
from solvers.options import Budget, SearchOptions

INSTALLED = [name for name in mip.ENGINES if mip.is_installed(name)]


def hard() -> Layer:
    loads = generate("lognormal", num_layers=1, num_experts=16, tokens=16 * 4096, seed=0)
    return Instance(loads, Topology(24, 8)).layer(0)


@pytest.fixture(scope="module")
def best() -> dict[str, Result]:
    return {stage: solve(hard(), stage=stage, time_limit=30) for stage in ("packing", "joint")}


@pytest.mark.parametrize("stage", ["packing", "joint"])
@pytest.mark.parametrize("backend", INSTALLED)
def test_a_time_limit_is_never_called_optimal(
    backend: str, stage: str, best: dict[str, Result]
) -> None:
    """PuLP says 'Optimal' for all its solvers when the time is up."""
    result = solve(hard(), stage=stage, backend=backend, time_limit=0.5)
    known = best[stage]
    assert result.lower_bound <= known.objective
    if result.status == "optimal":
        assert result.objective == known.objective == known.lower_bound


@pytest.mark.parametrize("backend", INSTALLED)
def test_large_coefficients_do_not_raise_the_bound(backend: str) -> None:
    """With loads scaled to 2^30, HiGHS proved 1.2811 where the optimum is 1.1406."""
    loads = (0, 4503599627370496, 5769666596750305)
    layer = Layer(loads, Fraction(1, 4503599627370496), Topology(6, 2))
    optimum = solve(layer, backend="brute-force").objective
    assert solve(layer, backend=backend, time_limit=20).lower_bound <= optimum


def program_with_optimum(value: int) -> mip.Program:
    program = mip.Program()
    program.objective = program.variable(0, 10**6)
    other = program.variable(0, 7)
    program.add([(program.objective, 1), (other, 3)], value + 21, math.inf)
    return program


@pytest.mark.parametrize("backend", INSTALLED)
def test_a_float_bound_just_below_an_integer_stands_for_it(backend: str) -> None:
    outcome = mip.run(program_with_optimum(360), backend, Budget(SearchOptions(10)))
    assert (outcome.bound, outcome.limit) == (360, None)
    assert [outcome.value(j) for j in range(2)] == [360, 7]
    assert mip._lower_bound(359.9999999992, 1) == 360
    assert mip._lower_bound(360.2, 1) == 361
    assert 360.198 < mip._lower_bound(360.2, None) < 360.2
    assert mip._lower_bound(None, 1) is None
    assert mip._lower_bound(-math.inf, 1) is None


def test_values_are_rounded_and_not_truncated() -> None:
    assert mip._integers(np.array([0.9999999, 2.0000001])).tolist() == [1, 2]
    assert mip._integers(np.array([0.5])) is None
    assert mip._integers(np.array([math.nan])) is None


def test_scipy_s_solution_at_a_limit_is_used() -> None:
    """There success is False while x holds a solution."""
    result = solve(hard(), stage="packing", backend="scipy", time_limit=1)
    assert result.limit == "time"
    assert result.lower_bound < result.objective


def test_a_missing_solver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mip, "is_installed", lambda _: False)
    with pytest.raises(ValueError, match=r"backend='scip' is not installed.*eplb-opt\[milp\]"):
        mip.run(program_with_optimum(1), "scip", Budget())


@pytest.mark.parametrize("backend", ["scipy", "cp-sat"])
def test_models_that_are_too_large_are_refused(backend: str) -> None:
    loads = generate("lognormal", num_layers=1, num_experts=512, tokens=10**6, seed=0)
    layer = Instance(loads, Topology(1024, 256)).layer(0)
    with pytest.raises(ValueError, match=r"would need [\d,]+ variables and [\d,]+ nonzeros"):
        solve(layer, backend=backend, time_limit=5)


def test_size_limit() -> None:
    require_size("x", 1, 20_000_000)
    with pytest.raises(ValueError, match="use backend='auto'"):
        require_size("x", 1, 20_000_001)
