"""Certificates under the rule ``home``: bounds, values and what a document says of the limit."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Layer, bounds
from eplb_opt.certificate import CertificateError, Trust, check_bound
from eplb_opt.certificate.parsing import parse_evidence
from eplb_opt.certificate.writing import evidence as write
from eplb_opt.problem.evidence import CLOSED_FORM, ONE_PARTITION, Blocks, Exhaustive, StepBlock
from eplb_opt.problem.objective import Cost
from eplb_opt.problem.rationals import integer_array
from tests.eplb_opt.bounds.test_homes import LIMITS, SHAPES, TRACES, home_layer
from tests.oracles.homes import even_makespan, even_optimum, optimal_optimum, within_limit
from tests.oracles.steps import DISPATCHES

SIZES = [*SHAPES, (4, 5, 5, 1, 2), (4, 8, 8, 4, 4)]
costs = st.builds(
    Cost.of, st.sampled_from(["sum", "mean", "worst", "cvar:0.4"]), st.sampled_from(DISPATCHES)
)
layers = st.builds(home_layer, TRACES, st.sampled_from(SIZES), st.sampled_from(LIMITS))


@settings(max_examples=60, deadline=None)
@given(layers, costs)
def test_every_bound_is_verified(layer: Layer, cost: Cost) -> None:
    found = bounds.of(layer, *cost)
    evidence = parse_evidence(json.loads(json.dumps(write(found.evidence))))
    assert evidence == found.evidence
    assert check_bound(layer, found.value, evidence, cost=cost) == Trust.VERIFIED
    loose = bounds.wait_and_see(layer, *cost)
    assert check_bound(layer, loose.value, loose.evidence, cost=cost) == Trust.VERIFIED


@settings(max_examples=25, deadline=None)
@given(st.builds(home_layer, TRACES, st.sampled_from(SHAPES), st.sampled_from(LIMITS)))
def test_nothing_above_the_optimum_is_proven(layer: Layer) -> None:
    """Neither of the summed loads nor, by all steps as one block, of the mean."""
    above = even_optimum(layer) + Fraction(1, 10**9)
    steps = len(layer.steps)
    whole = Blocks((StepBlock(tuple(range(steps)), above, CLOSED_FORM),))
    for evidence, bound, cost in [
        (CLOSED_FORM, above, Cost.of("sum", "even")),
        (ONE_PARTITION, above, Cost.of("sum", "even")),
        (whole, above / steps, Cost.of("mean", "even")),
    ]:
        with pytest.raises(CertificateError):
            check_bound(layer, bound, evidence, cost=cost)


def test_the_limit_of_all_steps_is_none_of_some() -> None:
    """Each step may be served off home, as long as both together are within the limit."""
    trace = [[8, 0, 1, 1], [20, 20, 40, 40]]
    layer = home_layer(trace, (4, 8, 4, 2, 2), Fraction(1, 50))
    first = StepBlock((0,), Fraction(4) - Fraction(1, 10), CLOSED_FORM)
    whole = check_bound(layer, first.bound / 2, Blocks((first,)), cost=Cost.of("mean", "optimal"))
    assert whole == Trust.VERIFIED
    for dispatch in ("even", "fixed"):
        with pytest.raises(CertificateError, match="closed forms prove less"):
            check_bound(layer, first.bound / 2, Blocks((first,)), cost=Cost.of("mean", dispatch))


def verified(layer: Layer, bound: Fraction, cost: Cost) -> bool | None:
    """By a search; None if it does not know."""
    try:
        trust = check_bound(layer, bound, Exhaustive(), cost=cost)
    except CertificateError:
        return False
    return True if trust == Trust.VERIFIED else None


@settings(max_examples=12, deadline=None)
@given(st.builds(home_layer, TRACES, st.sampled_from(SHAPES), st.sampled_from(LIMITS)))
def test_the_search_finds_the_optimum(layer: Layer) -> None:
    best, cost = even_optimum(layer), Cost.of("sum", "even")
    assert verified(layer, best, cost)
    assert verified(layer, best + Fraction(1, 10**9), cost) is False


@settings(max_examples=6, deadline=None)
@given(
    st.builds(home_layer, TRACES, st.sampled_from(SHAPES[:4]), st.sampled_from(LIMITS)),
    st.sampled_from(["mean", "worst", "cvar:0.4"]),
)
def test_the_search_finds_the_optimum_over_steps(layer: Layer, name: str) -> None:
    each = [tuple(map(int, step)) for step in layer.steps]
    cost = Cost.of(name, "even")
    best = min(
        cost.objective.over([even_makespan(step, ranks) for step in each])
        for ranks in within_limit(layer)
    )
    assert verified(layer, best, cost)
    assert verified(layer, best + Fraction(1, 10**9), cost) is False


@settings(max_examples=4, deadline=None)
@given(st.builds(home_layer, TRACES, st.sampled_from(SHAPES[:4]), st.sampled_from(LIMITS)))
def test_the_search_of_shares_keeps_the_limit(layer: Layer) -> None:
    """With any homes, which may make a placement cheaper than it is: then nothing is known."""
    single = replace(layer, steps=integer_array([layer.loads]))
    best = Fraction(optimal_optimum(layer)).limit_denominator(10**6)
    for dispatch in ("optimal", "fixed"):
        cost = Cost.of("sum", dispatch)
        assert verified(single, best + Fraction(1, 10**4), cost) is not True
        assert verified(single, best - Fraction(1, 10**4), cost) is not False


@pytest.mark.parametrize(("loads", "limit"), [([7, 2, 1, 2], "1/5"), ([9, 1, 4, 3], "1/10")])
def test_optima_of_shares_under_a_limit_are_verified(loads: list[int], limit: str) -> None:
    layer = home_layer([loads], (4, 6, 2, 2, 2), Fraction(limit))
    best = Fraction(optimal_optimum(layer)).limit_denominator(10**6)
    assert verified(layer, best, Cost.of("sum", "optimal"))
