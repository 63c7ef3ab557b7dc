"""Certificates over several steps: every objective, dispatch and rule against brute force."""

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology, bounds, documents
from eplb_opt.certificate import (
    CertificateError,
    CheckBudget,
    TooLargeToCheckError,
    Trust,
    Verdict,
    check_bound,
    parse_document,
    value,
    verify_document,
    writing,
)
from eplb_opt.certificate.document import sign
from eplb_opt.certificate.exhaustive_steps import _falling_weights, placement_below
from eplb_opt.certificate.flows import Flows
from eplb_opt.certificate.problem import parse_cost
from eplb_opt.certificate.shares import prices_that_reach
from eplb_opt.problem.evidence import (
    Blocks,
    ClosedForm,
    Cuts,
    Evidence,
    Exhaustive,
    Prices,
    StepBlock,
    Trusted,
)
from eplb_opt.problem.objective import Cost, Objective
from eplb_opt.problem.rationals import integer_array
from eplb_opt.problem.result import Result, Stage
from solvers.dispatch import value as solved_value
from solvers.dispatch import value_evidence
from tests.eplb_opt.certificate.documents import CLOSED_FORM, EXHAUSTIVE, of_steps
from tests.eplb_opt.certificate.test_certificate import changed, changes
from tests.oracles.steps import (
    Slots,
    each_cost,
    exact_value,
    optimal_makespans,
    optimum,
    over,
    placed_traces,
    steps_of,
    tiny_traces,
)

COSTS = list(each_cost())
SMALL = 20_000
"""Units: some milliseconds."""


def machine(layer: Layer, cost: Cost) -> dict[str, Any]:
    topology = layer.topology
    return {
        "source": "drawn",
        "num_layers": 1,
        "num_logical_experts": len(layer.loads),
        "num_physical_experts": topology.num_physical_experts,
        "num_ranks": topology.num_ranks,
        "num_nodes": topology.num_nodes,
        "num_groups": topology.num_groups,
        "rule": str(layer.rule),
        "spread_replicas": layer.spread_replicas,
        "num_steps": len(layer.steps),
        "objective": str(cost.objective),
        "dispatch": str(cost.dispatch),
    }


def written(
    layer: Layer,
    slots: Slots | None,
    cost: Cost,
    bound: Fraction,
    evidence: Evidence | None,
    budget: CheckBudget | None = None,
) -> dict[str, Any]:
    result = Result(Stage.JOINT, "by hand", bound, certificate=evidence, cost=cost)
    if slots is not None:
        found = solved_value(layer, slots, *cost)
        result = replace(
            result,
            objective=found.value,
            placement=slots,
            shares=found.shares,
            value_evidence=value_evidence(layer, slots, cost),
        )
    document = writing.certificate(
        machine(layer, cost), [layer], [result], interrupted=False, budget=budget
    )
    return parse_document(json.dumps(document).encode())


def verdict(document: dict[str, Any], units: int | None = None) -> Verdict:
    (found,) = verify_document(document, None if units is None else CheckBudget(units))
    assert "\n" not in found.reason
    assert len(found.reason) < 300
    return found


@settings(max_examples=80)
@given(placed_traces(), st.sampled_from(COSTS))
def test_values_and_optima_are_verified_and_nothing_above_them(
    placed: tuple[Layer, Slots], words: tuple[str, str]
) -> None:
    layer, slots = placed
    cost, best = Cost.of(*words).on(layer), optimum(layer, *words)
    if (cost.dispatch, str(cost.objective)) == ("even", "sum"):
        return  # as ever
    found = verdict(written(layer, slots, cost, best, Exhaustive()))
    exact = exact_value(layer, slots, *words)
    assert found.trust is Trust.VERIFIED
    assert found.objective >= exact
    assert found.objective == exact or cost.dispatch == "fixed"
    assert found.any_shares is None or found.any_shares <= exact
    known = bounds.wait_and_see(layer, *cost)
    for evidence in (Exhaustive(), ClosedForm(), Blocks(())):
        with pytest.raises(CertificateError):
            check_bound(layer, best + layer.unit / 10**9, evidence, cost=cost)
    seen = verdict(written(layer, slots, cost, known.value, known.evidence))
    assert seen.trust is Trust.VERIFIED


@settings(max_examples=40)
@given(st.data(), st.integers(10, 12))
def test_flows_agree_with_sets_of_ranks(data: st.DataObject, ranks: int) -> None:
    experts = data.draw(st.integers(1, 2 * ranks))
    held = data.draw(
        st.lists(st.sets(st.integers(0, ranks - 1), min_size=1, max_size=3), min_size=experts,
                 max_size=experts)
    )  # fmt: skip
    masks = [sum(1 << g for g in row) for row in held]
    load = st.integers(0, 9) | st.integers(0, 2**70)
    row = st.lists(load, min_size=experts, max_size=experts)
    steps = data.draw(st.lists(row, min_size=1, max_size=3))
    loads = integer_array(steps)
    expected = value._over_sets(loads, masks, ranks, CheckBudget())
    assert Flows(masks, ranks, CheckBudget()).makespans(loads, None) == expected
    halves = [m / 2 for m in expected]
    assert Flows(masks, ranks, CheckBudget()).makespans(loads, halves) == expected


@settings(max_examples=30)
@given(placed_traces(), st.sampled_from(["mean", "worst", "cvar:0.4"]), st.fractions(0, 2))
def test_the_linear_program_of_shares_is_exact(
    placed: tuple[Layer, Slots], objective: str, factor: Fraction
) -> None:
    layer, slots = placed
    exact = exact_value(layer, slots, objective, "fixed") / layer.unit
    ranks = [
        sorted({p // layer.topology.slots_per_rank for p, held in enumerate(slots) if held == e})
        for e in range(len(layer.loads))
    ]
    weights, total = _falling_weights(Objective.parse(objective), len(layer.steps))
    for limit in (exact, exact * factor):
        found = prices_that_reach(
            limit * total, layer.steps.tolist(), ranks, weights, CheckBudget()
        )
        assert (found is not None) == (limit <= exact)


@settings(max_examples=60)
@given(st.data(), tiny_traces(), st.sampled_from(COSTS))
def test_blocks_of_steps_hold_for_every_objective(
    data: st.DataObject, layer: Layer, words: tuple[str, str]
) -> None:
    """Bounds of blocks that are the optima of their sums: as high as it gets."""
    cost = Cost.of(*words).on(layer)
    if cost.objective.name == "sum":
        return
    part = data.draw(st.lists(st.integers(0, 2), min_size=len(layer.steps),
                              max_size=len(layer.steps)))  # fmt: skip
    blocks = []
    for number in set(part) - {2}:  # some steps in no block
        steps = tuple(t for t, block in enumerate(part) if block == number)
        rows = layer.steps[list(steps)]
        summed = replace(layer, loads=tuple(map(int, rows.sum(axis=0))), steps=None)
        blocks.append(StepBlock(steps, optimum(summed, "sum", words[1]), Trusted("listed")))
    parts = [Fraction(0)] * len(part)
    for block in blocks:
        for t in block.steps:
            parts[t] = block.bound / len(block.steps)
    proven = over(parts, words[0])
    assert proven <= optimum(layer, *words)
    assert check_bound(layer, proven, Blocks(tuple(blocks)), cost=cost) is (
        Trust.TRUSTED if blocks else Trust.VERIFIED
    )
    with pytest.raises(CertificateError, match="blocks prove"):
        check_bound(layer, proven + layer.unit / 99, Blocks(tuple(blocks)), cost=cost)


def test_a_block_may_prove_more_than_its_steps() -> None:
    """Three steps whose fullest ranks must hold 1 each, and 4 of their sum."""
    rows = [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]
    layer = Instance([[row] for row in rows], Topology(4, 2)).layer(0)
    cost = Cost.of("mean", "even")
    one = Blocks((StepBlock((0, 1, 2), Fraction(4), ClosedForm()),))
    single = Blocks(tuple(StepBlock((t,), Fraction(1), ClosedForm()) for t in range(3)))
    assert check_bound(layer, Fraction(4, 3), one, cost=cost) is Trust.VERIFIED
    assert check_bound(layer, Fraction(1), single, cost=cost) is Trust.VERIFIED
    with pytest.raises(CertificateError, match="blocks prove 1, not the bound 4/3"):
        check_bound(layer, Fraction(4, 3), single, cost=cost)


def test_counts_given_over_steps() -> None:
    layer = Instance([[[30, 13]], [[10, 13]]], Topology(4, 2)).layer(0)
    cost, counts = Cost.of("mean", "even"), (3, 1)
    for evidence in (ClosedForm(), Exhaustive()):
        assert check_bound(layer, Fraction(17), evidence, counts, cost=cost) is Trust.VERIFIED
    blocks = Blocks((StepBlock((0,), Fraction(23), ClosedForm()),))
    assert check_bound(layer, Fraction(23, 2), blocks, counts, cost=cost) is Trust.VERIFIED
    worth = min(exact_value(layer, s, "mean", "even") for s in [(0, 0, 0, 1), (0, 1, 0, 0)])
    assert check_bound(layer, worth, Exhaustive(), counts, cost=cost) is Trust.VERIFIED
    with pytest.raises(CertificateError, match="there is a placement below"):
        check_bound(layer, worth + 1, Exhaustive(), counts, cost=cost)


# Documents, whole and changed.

TRACE = [[[4, 1, 1, 3]], [[1, 4, 2, 1]], [[1, 1, 5, 0]]]
FLAT = Instance(TRACE, Topology(6, 3)).layer(0)
SHORT = Instance(TRACE[:2], Topology(6, 3)).layer(0)
NODES = Instance(TRACE, Topology(8, 4, 2, 2)).layer(0)
PLACED = {
    FLAT: (0, 1, 2, 3, 0, 2),
    SHORT: (0, 1, 2, 3, 0, 2),
    NODES: (0, 1, 0, 0, 2, 3, 2, 3),
}
SINGLE = Blocks(tuple(StepBlock((t,), Fraction(5, 3), ClosedForm()) for t in (0, 1)))
MIXED = Blocks((StepBlock((0,), Fraction(9, 4), Exhaustive()), StepBlock((1,), 3, Trusted("x"))))
DOCUMENTS = [
    (FLAT, "mean", "even", Exhaustive()),
    (FLAT, "cvar:1/2", "optimal", Exhaustive()),
    (FLAT, "sum", "optimal", Exhaustive()),
    (SHORT, "cvar:2/3", "fixed", Exhaustive()),
    (SHORT, "mean", "fixed", SINGLE),
    (NODES, "worst", "even", SINGLE),
    (NODES, "mean", "optimal", MIXED),
    (NODES, "cvar:2/3", "fixed", Exhaustive()),
]
HARMLESS = {
    ("instance", "source"),
    ("instance", "num_nodes"),  # the global rule has no nodes and no groups
    ("instance", "num_groups"),
    ("instance", "num_steps"),  # of a sum
    ("layers", 0, "layer"),
    ("interrupted",),
    ("sha256",),
}


def still_true(tampered: dict[str, Any], found: Verdict) -> bool:
    """Whether value and bound are those of brute force."""
    instance, entry = tampered["instance"], tampered["layers"][0]
    rows = entry.get("steps") or [entry["loads"]]
    topology = Topology(*(instance[f"num_{name}"] for name in
                          ("physical_experts", "ranks", "nodes", "groups")))  # fmt: skip
    loads = [[[float(Fraction(w)) for w in row]] for row in rows]
    layer = Instance(
        loads, topology, instance["rule"], spread_replicas=instance["spread_replicas"]
    ).layer(0)
    objective, dispatch = instance["objective"], instance["dispatch"]
    slots = tuple(entry["phy2log"])
    exact = exact_value(layer, slots, objective, dispatch)
    right = found.objective >= exact if dispatch == "fixed" else found.objective == exact
    right &= found.any_shares is None or found.any_shares <= exact
    return right and found.lower_bound <= optimum(layer, objective, dispatch)


@pytest.mark.parametrize(("layer", "objective", "dispatch", "evidence"), DOCUMENTS)
def test_a_changed_field_is_refused_or_all_is_still_true(
    layer: Layer, objective: str, dispatch: str, evidence: Evidence
) -> None:
    searched = isinstance(evidence, Exhaustive)
    bound = optimum(layer, objective, dispatch) if searched else Fraction(1)
    document = written(layer, PLACED[layer], Cost.of(objective, dispatch), bound, evidence)
    whole = verdict(document)
    assert whole.trust is (Trust.TRUSTED if evidence is MIXED else Trust.VERIFIED)
    assert still_true(document, whole)
    passed = 0
    for path, changed_value in changes(document):
        with pytest.raises(CertificateError):
            verify_document(changed(document, path, changed_value))
        tampered = sign(changed(document, path, changed_value))
        try:
            found = verdict(tampered)
        except CertificateError:
            continue
        if found.trust in (Trust.VERIFIED, Trust.TRUSTED) and path not in HARMLESS:
            passed += 1
            assert still_true(tampered, found), (path, changed_value)
    assert passed < 60


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"objective": "cvar:0"}, "the share is not in"),
        ({"objective": "cvar:1e999999999"}, "must be a string"),
        ({"objective": "cvar:5/4"}, "the share is not in"),
        ({"objective": "cvar:00.5"}, "must be a string"),
        ({"objective": "cvar"}, "is not one of sum"),
        ({"objective": "mean:1"}, "is not one of sum"),
        ({"objective": ["mean"]}, "is not one of sum"),
        ({"objective": None}, "is not one of sum"),
        ({"dispatch": "drawn"}, "is not one of even, fixed, optimal"),
        ({"dispatch": []}, "is not one of even, fixed, optimal"),
    ],
)
def test_an_unknown_objective_or_dispatch_is_no_certificate(
    fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(CertificateError, match=why):
        verify_document(of_steps(TRACE, 6, 3, instance=fields))


def test_the_share_in_a_document_is_a_decimal_or_a_ratio() -> None:
    for share in ("0.5", "1/2"):
        cost = parse_cost({"objective": f"cvar:{share}"}, CheckBudget())
        assert cost.objective.share == Fraction(1, 2)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"steps": []}, "steps is not a list of num_steps lists"),
        ({"steps": [["1"] * 4] * 2}, "steps is not a list of num_steps lists"),
        ({"steps": [["1"] * 4, ["1"] * 3, ["1"] * 4]}, "is not a list of num_logical_experts"),
        ({"steps": [["1"] * 4, ["1"] * 4, "1111"]}, "is not a list of num_logical_experts"),
        ({"steps": [["1"] * 4, ["1"] * 4, [1.5] * 4]}, "must be a string"),
        ({"steps": [["1"] * 4, ["1"] * 4, ["-1"] * 4]}, "must be a string"),
        ({"loads": ["1"] * 4}, "a layer has the fields"),
        ({"shares": ["1"] * 6}, "an objective without a placement"),
        ({"stage": "packing", "counts": [3, 1, 1, 1]}, "counts are given for dispatch 'even' only"),
    ],
)
def test_steps_that_are_none_are_refused(fields: dict[str, Any], why: str) -> None:
    assert why in verdict(of_steps(TRACE, 6, 3, **fields)).reason


PLACEMENT = {"phy2log": [0, 1, 2, 3, 0, 2], "objective_exact": "7/2", "status": "feasible"}


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        ({"kind": "cuts", "ranks": [[0], [1]]}, "2 cuts of 3 steps"),
        ({"kind": "cuts", "ranks": [[0], [1], [3]]}, "cut 2 is no set of ranks"),
        ({"kind": "cuts", "ranks": [[0], [1], [-1]]}, "cut 2 is no set of ranks"),
        ({"kind": "cuts", "ranks": [[0], [1], [2, 2]]}, "cut 2 is no set of ranks"),
        ({"kind": "cuts", "ranks": [[0], [1], [10**4000]]}, "cut 2 is no set of ranks"),
        ({"kind": "cuts", "ranks": [[0], [1], [0.0]]}, "must be a list of integers"),
        ({"kind": "cuts", "ranks": [[0], [1], 2]}, "must be a list of integers"),
        ({"kind": "cuts", "ranks": [[], [], []]}, "do not have the makespan of their step"),
        ({"kind": "cuts", "ranks": {}}, "'ranks' is missing or no list"),
        ({"kind": "closed-form"}, "is no kind of evidence for a value"),
        ({"kind": "prices", "scale": 3, "prices": [[1, 0, 0]] * 3, "bound": "1"},
         "prices are for dispatch 'fixed' only"),
        ([], "'kind' is missing"),
    ],
)  # fmt: skip
def test_cuts_that_prove_nothing_are_refused(evidence: Any, why: str) -> None:
    given = PLACEMENT | {"value_evidence": evidence}
    assert why in verdict(of_steps(TRACE, 6, 3, **given)).reason


@pytest.mark.parametrize(
    ("prices", "why"),
    [
        ({"prices": [[1, 0, 0], [0, 1, 0], [0, 2, -1]]}, "must not be negative"),
        ({"scale": 0}, "scale must be positive"),
        ({"scale": -3}, "scale must be positive"),
        ({"scale": 3.0}, "must be a list of integers"),
        ({"scale": 4}, "do not sum to weights that the objective has"),
        ({"prices": [[3, 0, 0], [0, 0, 0], [0, 0, 0]]}, "do not sum to weights"),
        ({"prices": [[1, 0], [0, 1], [1, 0]]}, "prices are not 3 lists of 3 integers"),
        ({"prices": []}, "prices are not 3 lists of 3 integers"),
        ({"prices": [[True, 0, 0]] * 3}, "must be a list of integers"),
        ({"bound": "9"}, "prices prove"),
        ({"bound": "-1"}, "must be a string"),
        ({"more": 1}, "expected an object with the fields"),
        ({"scale": 10**4000}, "do not sum to weights"),
    ],
)
def test_prices_that_prove_nothing_are_refused(prices: dict[str, Any], why: str) -> None:
    whole = {"kind": "prices", "scale": 3, "prices": [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
             "bound": "1"}  # fmt: skip
    shares = {"shares": ["1/2", "1", "1/2", "1", "1/2", "1/2"]}
    exact = exact_value(FLAT, PLACED[FLAT], "mean", "even")
    given = PLACEMENT | shares | {"objective_exact": str(exact), "instance": {"dispatch": "fixed"}}
    assert verdict(of_steps(TRACE, 6, 3, value_evidence=whole, **given)).any_shares > 1
    assert why in verdict(of_steps(TRACE, 6, 3, value_evidence=whole | prices, **given)).reason


@pytest.mark.parametrize(
    ("shares", "why"),
    [
        (None, "over several steps needs shares"),
        (["1/2", "1", "1/2", "1", "1/2"], "5 shares of 6 slots"),
        (["1/2", "1", "1/2", "1", "1/2", "1/3"], "the shares of expert 2 do not sum to 1"),
        (["-1/2", "1", "1/2", "1", "3/2", "1/2"], "must be a string"),
        ([0.5, "1", "1/2", "1", "1/2", "1/2"], "must be a string"),
        (["0", "1", "1/2", "1", "1", "1/2"], "the placement is worth"),
        ({}, "shares must be a list"),
    ],
)
def test_shares_that_are_none_are_refused(shares: Any, why: str) -> None:
    exact = exact_value(FLAT, PLACED[FLAT], "mean", "even")
    given = PLACEMENT | {"objective_exact": str(exact), "shares": shares}
    assert why in verdict(of_steps(TRACE, 6, 3, instance={"dispatch": "fixed"}, **given)).reason


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        ([{"steps": [0, 0], "bound": "1"}], "not disjoint sets of steps from 0 to 2"),
        ([{"steps": [0], "bound": "1"}, {"steps": [1, 0], "bound": "1"}], "not disjoint"),
        ([{"steps": [3], "bound": "1"}], "not disjoint"),
        ([{"steps": [-1], "bound": "1"}], "not disjoint"),
        ([{"steps": [], "bound": "1"}], "not disjoint"),
        ([{"steps": [0.0], "bound": "1"}], "must be a list of integers"),
        ([{"steps": [0], "bound": 1}], "must be a string"),
        ([{"steps": [0], "bound": "1/2"}], "blocks prove 1/6, not the bound 1"),
        ([{"steps": [0], "bound": "99"}], "closed forms prove less"),
        ([{"steps": [0], "bound": "1", "more": 1}], "expected an object with the fields"),
        ([{"steps": [0], "bound": "1", "evidence": {"kind": "blocks", "blocks": []}}], "within"),
        ([{"steps": [0], "bound": "1", "evidence": {"kind": "groups", "blocks": []}}], "nothing"),
        ([None], "expected an object"),
    ],
)
def test_blocks_that_prove_nothing_are_refused(blocks: list[Any], why: str) -> None:
    whole = [b and {"evidence": CLOSED_FORM} | b for b in blocks]
    given = of_steps(TRACE, 6, 3, evidence={"kind": "blocks", "blocks": whole})
    assert why in verdict(given).reason


# Budgets.


def test_every_loop_over_steps_is_on_the_budget() -> None:
    rows = [[[(7 * t + 3 * e * e) % 50 + 1 for e in range(12)]] for t in range(40)]
    layer = Instance(rows, Topology(24, 6)).layer(0)
    wide = Instance([[row[0] * 3] for row in rows], Topology(72, 12)).layer(0)
    slots = tuple(p * 5 % 36 for p in range(72))
    mean, objective = bounds.of(layer, "mean", "optimal").value, Objective("mean")
    for dispatch in ("even", "fixed", "optimal"):
        with pytest.raises(TooLargeToCheckError):
            placement_below(layer, mean + 1, Cost.of("mean", dispatch), None, CheckBudget(300))
    program = (Fraction(10**9), layer.steps.tolist(), [[0, 1]] * 12, [1] * 40)
    jobs = [
        lambda budget: prices_that_reach(*program, budget),
        lambda budget: value.best_cost(wide, slots, objective, None, budget),
        lambda budget: value.cost_of_shares(
            wide, slots, value.even_shares(slots), objective, budget
        ),
        lambda budget: value.cost_at_prices(
            wide, slots, objective, Prices(480, ((1,) * 12,) * 40, Fraction(0)), budget
        ),
    ]
    for job in jobs:
        with pytest.raises(TooLargeToCheckError):
            job(CheckBudget(200))


def test_bounds_of_blocks_with_long_denominators_are_on_the_budget() -> None:
    """Their sum has the product of all: it took minutes."""
    trace = [[[1]]] * 1000
    blocks = [
        {"steps": [t], "bound": f"1/{10**200 + t}", "evidence": CLOSED_FORM} for t in range(1000)
    ]
    for objective in ("mean", "cvar:7/9"):
        given = of_steps(trace, 1, 1, instance={"objective": objective},
                         evidence={"kind": "blocks", "blocks": blocks})  # fmt: skip
        assert verdict(given, 10 * SMALL).trust is Trust.TOO_LARGE


@pytest.mark.parametrize(
    ("steps", "experts", "ranks", "bits"),
    [(2000, 4, 4, 8), (2, 60, 60, 8), (2, 61, 2, 8), (3, 50, 2, 6000), (60, 8, 8, 6000)],
)
def test_searches_beyond_their_size_are_too_large_at_once(
    steps: int, experts: int, ranks: int, bits: int
) -> None:
    rows = [[[(3 * t + e) % 7 + (1 << bits) for e in range(experts)]] for t in range(steps)]
    trace = [[[str(load) for load in row[0]]] for row in rows]
    for dispatch in ("even", "fixed", "optimal"):
        slots = -(-2 * experts // ranks) * ranks
        given = of_steps(trace, slots, ranks, evidence=EXHAUSTIVE, instance={"dispatch": dispatch},
                         lower_bound_exact=str(1 << 2 * bits))  # fmt: skip
        found = verdict(given, SMALL)
        assert found.trust in (Trust.TOO_LARGE, Trust.VERIFIED, None)


def test_a_program_of_too_many_steps_is_not_begun() -> None:
    with pytest.raises(TooLargeToCheckError, match="a linear program of"):
        prices_that_reach(Fraction(1), [[1, 1]] * 5000, [[0, 1], [0]], [1] * 5000, CheckBudget())


def test_long_numbers_of_steps_without_load_are_no_matter() -> None:
    """They would not be long, times nothing."""
    trace, big = [[[0, 0]]] * 3, 2**80
    for objective, dispatch in (
        ("mean", "fixed"),
        ("cvar:1/7", "fixed"),
        (f"cvar:{big - 1}/{big}", "even"),
    ):
        cost = {"objective": objective, "dispatch": dispatch}
        given = {"phy2log": [0, 1, 0, 1], "objective_exact": "0", "lower_bound_exact": "0",
                 "status": "optimal", "evidence": EXHAUSTIVE}  # fmt: skip
        if dispatch == "fixed":
            given["shares"] = [f"1/{big}", "1/3", f"{big - 1}/{big}", "2/3"]
            given["value_evidence"] = {"kind": "prices", "scale": 3 * big,
                                       "prices": [[big, 0]] * 3, "bound": "0"}  # fmt: skip
        assert verdict(of_steps(trace, 4, 2, instance=cost, **given)).trust is Trust.VERIFIED


# What is written.


def test_bounds_that_came_with_no_evidence_are_searched_where_layers_are_small() -> None:
    cost = Cost.of("mean", "optimal")
    best = optimum(FLAT, "mean", "optimal")
    found = written(FLAT, PLACED[FLAT], cost, best, None)
    assert found["layers"][0]["evidence"] == {"kind": "exhaustive"}
    with pytest.raises(RuntimeError, match="the checker refuses what by hand found"):
        written(FLAT, None, cost, best + 1, None)


def test_a_value_too_large_to_compute_again_is_on_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: Any) -> None:
        raise TooLargeToCheckError("flows")

    monkeypatch.setattr(value, "best_cost", too_large)
    cost = Cost.of("mean", "optimal")
    found = written(FLAT, PLACED[FLAT], cost, Fraction(1), ClosedForm())
    (layer,) = found["layers"]
    assert layer["value_evidence"] == {"kind": "trusted", "solver": "by hand"}
    result = Result(Stage.JOINT, "by hand", Fraction(1), certificate=ClosedForm(), cost=cost)
    assert writing.too_large(found, [result]) == [0]
    checked = verdict(found)
    assert (checked.trust, checked.trusted) == (Trust.TRUSTED, ("value",))
    layer["evidence"] = {"kind": "trusted", "solver": "x"}
    assert verdict(sign(found)).trusted == ("value", "bound")
    layer["phy2log"][1] = 0
    assert "no valid placement" in verdict(sign(found)).reason


def test_numbers_of_too_many_digits_are_left_out() -> None:
    instance = Instance(TRACE, Topology(6, 3))
    long = Fraction(1, 3**5000)
    shares = (Fraction(1, 2) + long, 1, Fraction(1, 2), 1, Fraction(1, 2) - long, Fraction(1, 2))
    prices = Prices(10**5000, ((10**4999,) * 3,) * 3, Fraction(0))
    result = Result(
        Stage.JOINT,
        "by hand",
        Fraction(1),
        Fraction(5),
        PLACED[FLAT],
        certificate=ClosedForm(),
        cost=Cost.of("mean", "fixed"),
        shares=shares,
    )
    document = documents.certificate(instance, [result], interrupted=False)
    assert document["layers"][0]["phy2log"] is None
    assert writing.too_large(document, [result]) == [0]
    assert verdict(document).trust is Trust.VERIFIED
    even = value.even_shares(PLACED[FLAT])
    exact = value.cost_of_shares(FLAT, PLACED[FLAT], even, Objective("mean"), CheckBudget())
    result = replace(result, objective=exact, shares=tuple(even), value_evidence=prices)
    document = documents.certificate(instance, [result], interrupted=False)
    assert "value_evidence" not in document["layers"][0]
    assert verdict(document).objective == exact


def test_a_certificate_speaks_of_one_cost() -> None:
    instance = Instance(TRACE, Topology(6, 3)).select([0])
    results = [
        Result(Stage.JOINT, "x", Fraction(0), cost=Cost.of(o, "even")) for o in ("mean", "worst")
    ]
    with pytest.raises(ValueError, match="one objective and one dispatch"):
        documents.certificate(instance, results, interrupted=False)


def test_cuts_are_those_of_the_definition() -> None:
    """Also where there are more ranks than sets are tried for."""
    rows = [[[e * e % 7 + t for e in range(14)]] for t in range(3)]
    layer, slots = Instance(rows, Topology(24, 12)).layer(0), tuple(p * 5 % 14 for p in range(24))
    exact = optimal_makespans(steps_of(layer), slots, 12)
    objective = Objective("mean")
    assert value.best_cost(layer, slots, objective, None, CheckBudget()) == sum(exact) / 3
    cuts = value_evidence(layer, slots, Cost.of("mean", "optimal"))
    assert isinstance(cuts, Cuts)
    assert value.best_cost(layer, slots, objective, cuts, CheckBudget()) == sum(exact) / 3
    with pytest.raises(CertificateError, match="cut 0"):
        value.best_cost(layer, slots, objective, Cuts(((0,),) * 3), CheckBudget())
