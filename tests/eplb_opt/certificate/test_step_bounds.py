"""Evidence of bounds for constant placements over steps: checked again, and tampered with."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology, bounds
from eplb_opt.bounds.same_rank import same_rank_bound
from eplb_opt.bounds.steps import step_bounds
from eplb_opt.certificate import CertificateError, CheckBudget, Trust, check_bound
from eplb_opt.certificate.parsing import parse_evidence
from eplb_opt.certificate.writing import evidence as write
from eplb_opt.problem.evidence import ONE_PARTITION, SameRank
from eplb_opt.problem.objective import Cost, Objective
from tests.oracles.steps import DISPATCHES, OBJECTIVES, tiny_traces

MEAN_EVEN = Cost.of("mean", "even")


@settings(max_examples=80, deadline=None)
@given(tiny_traces(), st.sampled_from(OBJECTIVES), st.sampled_from(DISPATCHES))
def test_every_bound_is_verified(layer: Layer, objective: str, dispatch: str) -> None:
    cost, bound = Cost.of(objective, dispatch), bounds.of(layer, objective, dispatch)
    evidence = parse_evidence(json.loads(json.dumps(write(bound.evidence))))
    assert evidence == bound.evidence
    assert check_bound(layer, bound.value, evidence, cost=cost) == Trust.VERIFIED
    loose = bounds.wait_and_see(layer, objective, dispatch, rule_free=True)
    verified = check_bound(layer.without_nodes(), loose.value, loose.evidence, cost=cost)
    assert verified == Trust.VERIFIED


def drawn(seed: int = 0) -> tuple[Layer, bounds.Bound]:
    trace = np.random.default_rng(seed).poisson(8, size=(60, 1, 12))
    layer = Instance(trace, Topology(16, 4)).layer(0)
    found = same_rank_bound(layer, Objective("mean"), step_bounds(layer, MEAN_EVEN.dispatch))
    assert found is not None
    return layer, found


def test_prices_and_factors_prove_exactly_what_was_claimed() -> None:
    layer, bound = drawn()
    for cost in (MEAN_EVEN, Cost.of("mean", "fixed"), Cost.of("cvar:0.5", "even")):
        assert check_bound(layer, bound.value, bound.evidence, cost=cost) == Trust.VERIFIED
    above = bound.value + Fraction(1, 10**30)
    with pytest.raises(CertificateError, match="same-rank proves"):
        check_bound(layer, above, bound.evidence, cost=MEAN_EVEN)
    small = check_bound(layer, bound.value, bound.evidence, cost=MEAN_EVEN, budget=CheckBudget(9))
    assert small == Trust.TOO_LARGE


def test_tampered_prices_and_factors_are_refused() -> None:
    layer, bound = drawn()
    found = bound.evidence
    assert isinstance(found, SameRank)
    (expert, price), *rest = found.prices[0]
    dear = (((expert, price + 2**30), *rest), *found.prices[1:])
    negative = (((expert, -price), *rest), *found.prices[1:])
    unknown = (((12, price), *rest), *found.prices[1:])
    free = tuple(() for _ in found.prices)
    floors = (found.floors[0] + 1, *found.floors[1:])
    cases = {
        "negative, or above": [replace(found, prices=p) for p in (dear, negative, unknown)],
        "not admitted": [
            replace(found, steps=(found.steps[0] + 1, *found.steps[1:])),
            replace(found, steps=(0,) * 60),
            replace(found, steps=(-1, *found.steps[1:])),
        ],
        "not those of 60 steps": [
            replace(found, steps=found.steps[:-1]),
            replace(found, prices=found.prices[1:]),
            replace(found, floors=()),
        ],
        "rows of one length": [
            replace(found, factors=found.factors[1:]),
            replace(found, factors=((), *found.factors[1:])),
        ],
        "closed forms prove less": [replace(found, prices=free, floors=floors, factors=NONE)],
        "same-rank proves": [
            replace(found, factors=tuple(tuple(2 * v for v in row) for row in found.factors)),
            replace(found, prices=free, factors=NONE, floors=(Fraction(0), *found.floors[1:])),
        ],
    }
    for message, tampered in cases.items():
        for evidence in tampered:
            claimed = bound.value
            if evidence.factors == NONE:
                claimed = sum(found.floors, Fraction(0)) / 60
            with pytest.raises(CertificateError, match=message):
                check_bound(layer, claimed, evidence, cost=MEAN_EVEN)


NONE: tuple[tuple[int, ...], ...] = ((),) * 12
"""No factors: floors alone."""


def test_the_same_rank_says_nothing_of_other_costs() -> None:
    layer, bound = drawn()
    for cost in (Cost.of("mean", "optimal"), Cost.of("sum", "even")):
        with pytest.raises(CertificateError, match="'same-rank' proves nothing for"):
            check_bound(layer, Fraction(1), bound.evidence, cost=cost)
    counts = (2, 2, 2, 2, *[1] * 8)
    with pytest.raises(CertificateError, match="does not speak of given counts"):
        check_bound(layer, bound.value, bound.evidence, counts, cost=MEAN_EVEN)


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "same-rank"},
        {"kind": "same-rank", "steps": [1], "prices": [[[1]]], "floors": ["1"], "factors": [[1]]},
        {"kind": "same-rank", "steps": [1], "prices": [3], "floors": ["1"], "factors": [[1]]},
        {"kind": "same-rank", "steps": [1], "prices": [], "floors": [1], "factors": [[1]]},
        {"kind": "same-rank", "steps": [1.5], "prices": [], "floors": [], "factors": []},
        {"kind": "same-rank", "steps": [1], "prices": [], "floors": [], "factors": [["1"]]},
        {"kind": "one-partition", "blocks": []},
    ],
)
def test_malformed_evidence_is_refused(given: object) -> None:
    with pytest.raises(CertificateError):
        parse_evidence(given)


def test_one_partition_proves_exactly_the_best() -> None:
    trace = np.array([[[6, 6, 0, 0]], [[6, 0, 6, 0]], [[6, 0, 0, 6]]])
    layer = Instance(trace, Topology(4, 2, 2, 4)).layer(0)
    cost = Cost.of("mean", "optimal")
    assert check_bound(layer, Fraction(8), ONE_PARTITION, cost=cost) == Trust.VERIFIED
    with pytest.raises(CertificateError, match="a partition of the groups may cost less than"):
        check_bound(layer, Fraction(8) + Fraction(1, 10**20), ONE_PARTITION, cost=cost)
    with pytest.raises(CertificateError, match="is for the hierarchical rule only"):
        check_bound(layer.without_nodes(), Fraction(8), ONE_PARTITION, cost=cost)
    small = check_bound(layer, Fraction(8), ONE_PARTITION, cost=cost, budget=CheckBudget(20))
    assert small == Trust.TOO_LARGE
