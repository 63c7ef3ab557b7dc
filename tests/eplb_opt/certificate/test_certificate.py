"""Certificates of real solves are verified, changed ones are refused."""

import copy
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology, documents
from eplb_opt.certificate import (
    CertificateError,
    CheckBudget,
    Trust,
    check_bound,
    verify_document,
)
from eplb_opt.certificate.document import sign
from eplb_opt.certificate.exhaustive import nothing_below
from eplb_opt.certificate.parsing import parse_evidence
from eplb_opt.io.synthetic import generate
from eplb_opt.problem.evidence import ClosedForm
from eplb_opt.problem.result import Result, Stage
from solvers import solve
from tests.solvers.test_against_brute_force import Rule, tiny_layers


def certificate(instance: Instance, **options: Any) -> dict[str, Any]:
    results = [solve(layer, **options) for layer in instance.layers()]
    return documents.certificate(instance, results, interrupted=False)


PUBLISHED = Instance([[600, 560, 120, 120, 20, 10, 10, 10]], Topology(16, 8))
ZIPF = Instance(
    generate("zipf", num_layers=1, num_experts=64, tokens=64 * 4096, seed=0), Topology(72, 24)
)
NODES = Instance(
    generate("lognormal", num_layers=1, num_experts=16, tokens=4096, seed=1),
    Topology(24, 8, num_nodes=2, num_groups=4),
)


def check(layer: Layer, bound: Fraction, evidence: Any, counts: Any = None) -> Trust:
    """Of evidence as it stands in a document."""
    return check_bound(layer, bound, parse_evidence(evidence), counts)


def verdicts(document: dict[str, Any]) -> list[Trust | None]:
    return [verdict.trust for verdict in verify_document(document)]


@pytest.mark.parametrize(
    ("instance", "kind", "options"),
    [
        (PUBLISHED, "exhaustive", {}),
        (NODES, "groups", {}),
        (ZIPF, "pattern", {"time_limit": 15, "tolerance": 1e-3}),
    ],
)
def test_evidence_of_each_kind_is_verified(
    instance: Instance, kind: str, options: dict[str, Any]
) -> None:
    document = json.loads(json.dumps(certificate(instance, **options)))
    assert document["layers"][0]["evidence"]["kind"] == kind
    assert verdicts(document) == [Trust.VERIFIED]


def test_packing_and_layers_without_load() -> None:
    instance = Instance([[0, 0, 0], [5, 5, 1]], Topology(4, 2))
    assert verdicts(certificate(instance)) == [Trust.VERIFIED] * 2
    packing = certificate(instance, stage="packing")
    assert packing["layers"][1]["counts"] == [2, 1, 1]
    assert verdicts(packing)[0] is not None


@pytest.mark.slow
def test_a_solver_s_word_is_shown_as_such() -> None:
    document = certificate(PUBLISHED, backend="cp-sat", time_limit=60)
    assert document["layers"][0]["evidence"] == {"kind": "trusted", "solver": "cp-sat"}
    assert verdicts(document) == [Trust.TRUSTED]


@settings(max_examples=60)
@given(tiny_layers(Rule.GLOBAL), st.fractions(0, 2))
def test_exhaustive_check_agrees_with_brute_force(layer: Any, factor: Fraction) -> None:
    optimum = solve(layer, backend="brute-force").objective
    bound = optimum * factor
    assert nothing_below(layer, bound, CheckBudget()) == (bound <= optimum)
    assert nothing_below(layer, optimum, CheckBudget())


@pytest.mark.parametrize(
    ("loads", "machine"),
    [([8, 11, 7, 4, 2], (8, 2)), ([12, 4, 10, 2, 6], (8, 2)), ([11, 4, 7], (4, 2))],
)
def test_exhaustive_check_puts_no_expert_twice_on_a_rank_where_that_is_forbidden(
    loads: list[int], machine: tuple[int, int]
) -> None:
    spread = Instance([loads], Topology(*machine), spread_replicas=True).layer(0)
    optimum = solve(spread, backend="brute-force").objective
    assert nothing_below(spread, optimum, CheckBudget())
    together = Instance([loads], Topology(*machine)).layer(0)
    assert not nothing_below(together, optimum, CheckBudget())


def test_a_certificate_without_a_placement() -> None:
    unknown = Result(Stage.JOINT, "none", Fraction(100), certificate=ClosedForm())
    document = documents.certificate(PUBLISHED, [unknown], interrupted=True)
    assert document["layers"][0]["phy2log"] is None
    (verdict,) = verify_document(document)
    assert (verdict.trust, verdict.objective, verdict.lower_bound) == (Trust.VERIFIED, None, 100)


def test_verdicts_go_by_the_numbers_of_the_layers() -> None:
    instance = Instance([[3, 1], [1, 1], [2, 5]], Topology(4, 2)).select([2, 0])
    assert [verdict.layer for verdict in verify_document(certificate(instance))] == [2, 0]


def test_a_refusal_names_its_layer_and_field() -> None:
    instance = Instance([[3, 1], [1, 1], [2, 5]], Topology(4, 2)).select([2, 0])
    document = certificate(instance)
    document["layers"][0]["evidence"] = {"blocks": []}
    refused, verified = verify_document(sign(document))
    assert (refused.layer, refused.trust, verified.layer) == (2, None, 0)
    assert refused.reason == "'kind' is missing or no str"


def test_a_block_on_trust_leaves_the_whole_on_trust() -> None:
    layer = NODES.layer(0)
    document = certificate(NODES)["layers"][0]
    bound, evidence = Fraction(document["lower_bound_exact"]), document["evidence"]
    assert check(layer, bound, evidence) is Trust.VERIFIED
    trusted = [b | {"evidence": {"kind": "trusted", "solver": "x"}} for b in evidence["blocks"]]
    assert check(layer, bound, evidence | {"blocks": trusted}) is Trust.TRUSTED
    assert Trust.TRUSTED < Trust.TOO_LARGE < Trust.VERIFIED
    nameless = [{k: v for k, v in b.items() if k != "bound"} for b in evidence["blocks"]]
    with pytest.raises(CertificateError, match="bound='None' must be a string"):
        check(layer, bound, evidence | {"blocks": nameless})


def test_closed_forms_of_given_counts() -> None:
    layer = Instance([[30, 13]], Topology(4, 2)).layer(0)
    assert check(layer, Fraction(23), {"kind": "closed-form"}, (3, 1)) is Trust.VERIFIED
    for counts in (None, (2, 2)):
        with pytest.raises(CertificateError, match="closed forms prove"):
            check(layer, Fraction(23), {"kind": "closed-form"}, counts)


def test_evidence_that_does_not_apply_says_why() -> None:
    layer = PUBLISHED.layer(0)
    with pytest.raises(CertificateError, match="'exhaustive' does not speak of given counts"):
        check(layer, Fraction(1), {"kind": "exhaustive"}, [2] * 8)
    with pytest.raises(CertificateError, match="expected an object with the fields kind, solver"):
        check(layer, Fraction(1), {"kind": "trusted", "solver": "x", "more": 1})


@settings(max_examples=40)
@given(st.sampled_from(list(Rule)), st.data())
def test_a_bound_one_step_too_high_is_refused(rule: Rule, data: st.DataObject) -> None:
    layer = data.draw(tiny_layers(rule))
    result = solve(layer, time_limit=60)
    too_high = result.objective + layer.unit / 10**6
    blocks = [{"groups": [0, 1], "bound": "1000000", "evidence": {"kind": "exhaustive"}}]
    for evidence in (
        {"kind": "closed-form"},
        {"kind": "exhaustive"},
        documents.evidence(result.certificate),
        {"kind": "groups", "blocks": blocks},
        {"kind": "groups", "blocks": []},
    ):
        if evidence["kind"] != "trusted":
            with pytest.raises(CertificateError):
                check(layer, too_high, evidence)


def changes(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place of a document with a changed value for it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from changes(value, (*path, key))
            if value is not None:
                yield (*path, key), None
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from changes(value, (*path, i))
    elif isinstance(node, bool):
        yield path, not node
    elif isinstance(node, int):
        yield path, node + 1
    elif isinstance(node, str):
        number = node.partition("/")
        if number[0].isdecimal():
            yield path, "/".join([str(int(number[0]) + 1), *filter(None, number[2:])])
        yield path, node + "x"
    elif node is None:
        yield path, 1


def changed(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    result = copy.deepcopy(document)
    holder = result
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return result


@pytest.mark.parametrize("instance", [PUBLISHED, NODES, ZIPF], ids=["published", "nodes", "zipf"])
def test_every_changed_field_is_refused(instance: Instance) -> None:
    document = certificate(instance, time_limit=3)
    for path, value in changes(document):
        with pytest.raises(CertificateError):
            verify_document(changed(document, path, value))


@pytest.mark.parametrize("name", ["published", "nodes", "mean_optimal", "cvar_fixed"])
def test_stored_certificates_stay_valid(name: str) -> None:
    """Written by an earlier version; a change of format or digest must not go unnoticed."""
    document = json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text())
    assert verdicts(document) == [Trust.VERIFIED]
    with pytest.raises(CertificateError, match="was changed: its content does not fit sha256"):
        verify_document(document | {"layers": []})


def test_what_only_the_sum_under_even_dispatch_proves_is_refused_for_others() -> None:
    document = certificate(PUBLISHED)
    for name, other in (("objective", "mean"), ("dispatch", "optimal")):
        changed = copy.deepcopy(document)
        changed["instance"][name] = other
        (verdict,) = verify_document(sign(changed))
        assert verdict.trust is None


def test_evidence_of_groups_without_groups() -> None:
    with pytest.raises(CertificateError, match="'groups' is for the hierarchical rule only"):
        check(PUBLISHED.layer(0), Fraction(1), {"kind": "groups", "blocks": []})


HARMLESS = {
    ("instance", "source"),  # a name
    ("instance", "num_nodes"),  # the global rule has no nodes and no groups
    ("instance", "num_groups"),
    ("layers", 0, "layer"),  # a number for reports
    ("instance", "num_steps"),  # whose sum the loads are
    ("interrupted",),  # whether layers are missing
    ("sha256",),  # computed again
}


@pytest.mark.parametrize("instance", [PUBLISHED, NODES], ids=["published", "nodes"])
def test_a_change_with_a_new_digest_passes_only_if_every_claim_is_still_true(
    instance: Instance,
) -> None:
    document = certificate(instance)
    for path, value in changes(document):
        tampered = sign(changed(document, path, value))
        try:
            (verdict,) = verify_document(tampered)
        except CertificateError:
            continue
        if verdict.trust is not Trust.VERIFIED or path in HARMLESS:
            continue
        # Other loads or another restriction, of which the same is true; another placement of the
        # same value; or other evidence that proves the same bound.
        assert {"loads", "spread_replicas", "phy2log", "evidence"} & set(path), path
        loads = [float(Fraction(w)) for w in tampered["layers"][0]["loads"]]
        spread = tampered["instance"]["spread_replicas"]
        truth = Instance([loads], instance.topology, instance.rule, spread_replicas=spread)
        assert verdict.lower_bound <= solve(truth.layer(0), time_limit=20).objective


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"schema": "eplb-opt/gap/1"},
        {"schema": "eplb-opt/certificate/1"},
        sign({"schema": "eplb-opt/certificate/1", "instance": {}, "layers": {}}),
        sign({"schema": "eplb-opt/certificate/1", "instance": {"num_layers": 2}, "layers": []}),
    ],
)
def test_no_certificate(document: Any) -> None:
    with pytest.raises(CertificateError):
        verify_document(document)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda x: st.lists(x, max_size=3) | st.dictionaries(
                        st.sampled_from(["kind", "blocks", "groups", "bound", "levels"]), x,
                        max_size=3)))  # fmt: skip
def test_made_up_evidence_is_one_line(evidence: Any) -> None:
    with pytest.raises(CertificateError) as caught:
        check(NODES.layer(0), Fraction(10**9), evidence)
    assert "\n" not in str(caught.value)
