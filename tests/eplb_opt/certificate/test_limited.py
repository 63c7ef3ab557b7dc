"""Costs of placements under a limit of traffic, computed again, and their evidence."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings

from eplb_opt import Layer
from eplb_opt.certificate import CertificateError, CheckBudget, TooLargeToCheckError, value
from eplb_opt.certificate.parsing import parse_value_evidence
from eplb_opt.certificate.writing import evidence as write
from eplb_opt.problem.evidence import Cuts, LimitedCuts, Prices
from eplb_opt.problem.objective import Cost, Objective
from solvers.dispatch import value as solved_value
from solvers.dispatch import value_evidence
from tests.solvers.dispatch.test_limited import OBJECTIVES, Placed, at_home, large


def through_json(found: Any) -> Any:
    return parse_value_evidence(write(found), CheckBudget())


def best_cost(layer: Layer, slots: tuple[int, ...], cost: Cost, cuts: Any) -> Fraction:
    return value.best_cost(layer, slots, cost.objective, cuts, CheckBudget())


@settings(max_examples=20, deadline=None)
@given(at_home(), OBJECTIVES)
def test_costs_are_those_of_the_solver(placed: Placed, objective: str) -> None:
    cost = Cost.of(objective, "optimal").on(placed[0])
    cuts = value_evidence(*placed, cost)
    assert through_json(cuts) == cuts
    truth = solved_value(*placed, *cost).value
    assert best_cost(*placed, cost, cuts) == truth
    assert best_cost(*placed, cost, None) == truth


@settings(max_examples=10, deadline=None)
@given(at_home(), OBJECTIVES)
def test_prices_prove_costs_of_fixed_shares(placed: Placed, objective: str) -> None:
    cost = Cost.of(objective, "fixed").on(placed[0])
    prices = value_evidence(*placed, cost)
    assert through_json(prices) == prices
    proven = value.cost_at_prices(*placed, cost.objective, prices, CheckBudget())
    assert proven == solved_value(*placed, *cost).bound
    free = (placed[0].without_limit(), placed[1], cost.objective)
    for changed in (replace(prices, traffic_price=-1), replace(prices, traffic_price=10**9)):
        with pytest.raises(CertificateError, match="traffic_price"):
            value.cost_at_prices(*free, changed, CheckBudget())


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_many_ranks(scale: float) -> None:
    layer, slots = large(4, (128, 144, 16, 4, 8), 3, scale)
    cost = Cost.of("mean", "optimal")
    cuts, truth = value_evidence(layer, slots, cost), solved_value(layer, slots, *cost).value
    assert isinstance(cuts, LimitedCuts)
    assert any(cuts.traffic_prices)
    assert best_cost(layer, slots, cost, cuts) == best_cost(layer, slots, cost, None) == truth
    with pytest.raises(TooLargeToCheckError):
        value.best_cost(layer, slots, cost.objective, cuts, CheckBudget(2000))
    with pytest.raises(CertificateError, match="and there is none"):
        best_cost(layer.without_limit(), slots, cost, cuts)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"traffic_prices": (1,)}, "1 cuts of 2 steps|2 cuts of 2 steps"),
        ({"prices": ((1, 1, 1),) * 2}, "is not 8 prices"),
        ({"prices": ((0,) * 8,) * 2}, "do not prove the makespan"),
        ({"prices": ((1,) * 8,) * 2}, "do not prove the makespan"),
        ({"prices": ((-1,) + (1,) * 7,) * 2}, "not negative"),
        ({"traffic_prices": (-1, 1)}, "not negative"),
    ],
)
def test_wrong_prices_are_refused(change: dict[str, Any], why: str) -> None:
    layer, slots = large(2, (32, 48, 8, 4, 8), 1)
    cost = Cost.of("mean", "optimal")
    cuts = value_evidence(layer, slots, cost)
    with pytest.raises(CertificateError, match=why):
        best_cost(layer, slots, cost, replace(cuts, **change))


def test_other_evidence_under_a_limit() -> None:
    """Cuts say nothing of a limit and are not needed: all is computed."""
    layer, slots = large(2, (32, 48, 8, 4, 8), 1)
    cost = Cost.of("mean", "optimal")
    truth = solved_value(layer, slots, *cost).value
    assert best_cost(layer, slots, cost, Cuts(((0,),) * 2)) == truth
    with pytest.raises(CertificateError, match="no homes"):
        best_cost(layer, tuple(reversed(slots[:32])) + slots[:16], cost, None)
    free = Prices(16, ((1,) * 8,) * 2, Fraction(0))
    assert value.cost_at_prices(layer, slots, Objective("mean"), free, CheckBudget()) > 0
