"""What a document claims besides its evidence: counts, stages, numbers of layers, sizes."""

import json
import re
from fractions import Fraction
from typing import Any

import pytest

from eplb_opt import Instance, Topology, documents
from eplb_opt.certificate import (
    CertificateError,
    CheckBudget,
    Trust,
    parse_document,
    verify_document,
    writing,
)
from eplb_opt.certificate.document import sign
from eplb_opt.problem.evidence import ClosedForm, Exhaustive
from eplb_opt.problem.result import Result, Stage
from solvers import solve
from tests.eplb_opt.certificate.documents import (
    CLOSED_FORM,
    claim,
    document,
    machine,
    of_one,
)

SPREAD = {"spread_replicas": True}
PUBLISHED = Instance([[600, 560, 120, 120, 20, 10, 10, 10]], Topology(16, 8))


def reason(document: dict[str, Any]) -> str:
    (verdict,) = verify_document(document)
    assert verdict.trust is None
    assert "\n" not in verdict.reason
    assert len(verdict.reason) < 300
    return verdict.reason


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ([1, 1, 1, 1], "the counts sum to 4, not to 12 slots"),
        ([-1, 11, 1, 1], r"counts\[0\]=-1 is not from 1 to 9"),
        ([0, 10, 1, 1], r"counts\[0\]=0 is not from 1 to 9"),
        ([10**30, 1, 1, 1], r"counts\[0\]=1000.* is not from 1 to 9"),
        ([10**4200, 1, 1, 1], r"counts\[0\]=1000.*\.\. is not from 1 to 9"),
        ([9, 1, 2], "3 counts of 4 experts"),
        ([], "0 counts of 4 experts"),
    ],
)
def test_counts_of_a_packing_that_no_placement_has_are_refused(counts: Any, why: str) -> None:
    given = of_one([100, 1, 1, 1], 12, 4, "25", stage="packing", counts=counts)
    assert re.search(why, reason(given))


def test_counts_of_a_packing_that_fit_are_verified_and_its_stage_is_shown() -> None:
    given = of_one([100, 1, 1, 1], 12, 4, "103/4", stage="packing", counts=[9, 1, 1, 1])
    (verdict,) = verify_document(given)
    assert (verdict.trust, verdict.stage) == (Trust.VERIFIED, "packing")


def test_counts_above_the_ranks_under_spread_replicas_are_refused() -> None:
    """A packing that is infeasible: there is nothing to bound, and nothing to certify."""
    counts = [9, 1, 1, 1]
    for status in ("infeasible", "unknown"):
        given = of_one([100, 1, 1, 1], 12, 4, "25", rules=SPREAD, stage="packing", counts=counts,
                       status=status)  # fmt: skip
        assert reason(given) == "counts[0]=9 is not from 1 to 4"
    infeasible = Result(Stage.PACKING, "x", Fraction(25), infeasible=True)
    with pytest.raises(ValueError, match="layer 0 is infeasible: there is nothing to certify"):
        documents.certificate(PUBLISHED, [infeasible], interrupted=False)


def test_counts_under_the_hierarchical_rule_need_a_placement_that_has_them() -> None:
    """Group 0 has one slot and its node three: no placement has these counts."""
    rules = {"num_nodes": 2, "num_groups": 2, "rule": "hierarchical"}
    given = of_one([8, 0], 6, 2, "14/3", rules=rules, stage="packing", counts=[1, 5])
    assert "counts under this rule need a placement" in reason(given)


def test_spread_replicas_that_leave_slots_empty_are_refused() -> None:
    assert "no placement exists" in reason(of_one([5, 5], 6, 2, "5", rules=SPREAD))


@pytest.mark.parametrize("number", [-5, None, True, "0", 1.0, 2**70])
def test_a_negative_layer_is_refused(number: Any) -> None:
    assert reason(of_one([1, 1], 2, 2, layer=number)).startswith("'layer' is missing or no number")


def test_a_layer_that_occurs_twice_is_refused() -> None:
    layers = [claim([1, 1], "1", CLOSED_FORM, layer=number) for number in (3, 4, 3)]
    verdicts = verify_document(document(layers, machine(2, 2, 2)))
    assert [verdict.trust for verdict in verdicts] == [Trust.VERIFIED, Trust.VERIFIED, None]
    twice = Instance([[3, 1]], Topology(4, 2)).select([0, 0])
    results = [Result(Stage.JOINT, "x", Fraction(2), certificate=ClosedForm())] * 2
    with pytest.raises(ValueError, match="a certificate holds a layer once"):
        documents.certificate(twice, results, interrupted=False)


@pytest.mark.parametrize("number", [0, 2001])
def test_a_document_without_layers_or_with_too_many_is_refused(number: int) -> None:
    layers = [claim([1, 1], "1", CLOSED_FORM, layer=i) for i in range(number)]
    with pytest.raises(CertificateError, match=f"has {number} layers, not 1 to 2,000"):
        verify_document(document(layers, machine(2, 2, 2)))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"a": 1, "b": {"x": 1, "y": 2, "x": 3}}', "an object has the key 'x' twice"),
        (b'{"a": ' + b"1" * 5000 + b"}", "no JSON: .*4300 digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b"\xff\xfe\xfa", "no JSON"),
        (b"", "no JSON"),
        (b" " * (2**23 + 1), "has over 8 MiB, too much to check"),
    ],
)
def test_what_is_no_json_of_a_certificate_is_one_line(content: bytes, why: str) -> None:
    with pytest.raises(CertificateError, match=why) as caught:
        parse_document(content)
    assert "\n" not in str(caught.value)


def test_numbers_that_no_json_holds_are_one_line() -> None:
    for value in (10**5000, float("nan").__class__, {1, 2}):
        given = of_one([1, 1], 2, 2)
        given["instance"]["source"] = value
        with pytest.raises(CertificateError, match="is no JSON"):
            verify_document(given)


def test_levels_below_zero_are_refused() -> None:
    levels = [[-(10**30), 0], [5, 1]]
    evidence = {"kind": "pattern", "bound": "5", "grid": 10, "count_price": 0, "levels": levels}
    assert "the weights of levels must ascend from 0" in reason(
        of_one([5, 4, 3], 4, 2, "5", evidence)
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("stage", "x" * 10**6), ("status", ["x"] * 10**6), ("lower_bound_exact", "9" * 2001)],
)
def test_a_refusal_repeats_no_long_value(field: str, value: Any) -> None:
    reason(of_one([1, 1], 2, 2, **{field: value}))


def test_sizes_beyond_the_largest_are_too_large_not_refused() -> None:
    (verdict,) = verify_document(of_one([1, 1], 10**6, 2))
    assert verdict.trust is Trust.TOO_LARGE


LARGE = Instance([[1.79e308, 1.7e308, 1.5e308, 1e308, 1e-300, 3]], Topology(8, 2))


def test_loads_near_the_largest_float_are_written_and_verified() -> None:
    results = [solve(LARGE.layer(0), time_limit=2)]
    written = documents.certificate(LARGE, results, interrupted=False)
    (verdict,) = verify_document(parse_document(json.dumps(written, allow_nan=False).encode()))
    assert verdict.trust is Trust.VERIFIED
    assert verdict.objective > 10**308
    solved = documents.solve(LARGE, results, interrupted=False)
    json.dumps(solved, allow_nan=False)
    (layer,) = solved["layers"]
    assert layer["objective"] is None
    assert Fraction(layer["objective_exact"]) == results[0].objective
    assert Fraction(layer["lower_bound"]) <= Fraction(layer["lower_bound_exact"])


def test_evidence_too_large_to_check_is_left_out_and_said_to_be() -> None:
    results = [solve(PUBLISHED.layer(0))]
    assert results[0].certificate == Exhaustive()
    machine = documents.describe_instance(PUBLISHED)
    for units, kind, left_out in ((10**6, "exhaustive", []), (200, "trusted", [0])):
        found = writing.certificate(
            machine, PUBLISHED.layers(), results, interrupted=False, budget=CheckBudget(units)
        )
        assert found["layers"][0]["evidence"]["kind"] == kind
        assert writing.too_large(found, results) == left_out
        (verdict,) = verify_document(found)
        assert verdict.trust is (Trust.TRUSTED if left_out else Trust.VERIFIED)


def test_a_result_that_the_checker_refuses_is_an_error_of_ours() -> None:
    wrong = Result(Stage.JOINT, "broken", Fraction(10**6), certificate=ClosedForm())
    with pytest.raises(RuntimeError, match="the checker refuses what broken found: closed forms"):
        documents.certificate(PUBLISHED, [wrong], interrupted=False)


def test_ctrl_c_while_a_certificate_is_written_leaves_the_rest_on_trust(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "verdict_on", interrupted)
    results = [solve(PUBLISHED.layer(0))]
    written = documents.certificate(PUBLISHED, results, interrupted=False)
    assert written == sign(written)
    assert writing.too_large(written, results) == [0]
