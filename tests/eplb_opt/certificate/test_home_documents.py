"""Documents under the rule ``home``: whole, changed, and made up."""

from fractions import Fraction
from typing import Any

import pytest

from eplb_opt import Instance, Layer, Topology
from eplb_opt.certificate import CertificateError, CheckBudget, Trust, verify_document
from eplb_opt.certificate.document import sign
from tests.eplb_opt.certificate.documents import CLOSED_FORM, EXHAUSTIVE, of_one, of_steps
from tests.eplb_opt.certificate.test_certificate import changed, changes
from tests.oracles.homes import even_makespan, even_optimum, homes

LOADS = [7, 2, 1, 2]
AT_HOME = [0, 1, 0, 1, 2, 2, 3, 3]
SPREAD = [0, 1, 0, 1, 0, 2, 2, 3]
"""A third of the tokens of expert 0, 7/3 of 12, is served off home."""
RULE: dict[str, Any] = {
    "num_nodes": 2, "num_groups": 2, "rule": "home",
    "traffic_limit": 0.2, "traffic_limit_exact": "1/5",
}  # fmt: skip


def home_document(**fields: Any) -> dict[str, Any]:
    rules = RULE | fields.pop("rules", {})
    rules = {name: value for name, value in rules.items() if value is not None}
    return of_one(LOADS, 8, 4, rules=rules, **fields)


def placed(slots: list[int], worth: str, status: str = "optimal", **fields: Any) -> dict[str, Any]:
    claimed = {"phy2log": slots, "objective_exact": worth, "bound": worth, "status": status}
    return home_document(**(claimed | {"evidence": EXHAUSTIVE} | fields))


def reason(document: dict[str, Any]) -> str:
    try:
        (verdict,) = verify_document(document)
    except CertificateError as error:
        return str(error)
    return "" if verdict.trust is Trust.VERIFIED else verdict.reason


def test_an_optimum_within_the_limit_is_verified() -> None:
    assert reason(placed(SPREAD, "10/3")) == ""
    assert reason(placed(AT_HOME, "9/2", "feasible", bound="33/10", evidence=CLOSED_FORM)) == ""
    assert "there is a placement below" in reason(placed(AT_HOME, "9/2"))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"traffic_limit": 0.1}, "is not that of traffic_limit_exact"),
        ({"traffic_limit": True}, "is not that of traffic_limit_exact"),
        ({"traffic_limit": "0.2"}, "is not that of traffic_limit_exact"),
        ({"traffic_limit_exact": None}, "is not that of traffic_limit_exact"),
        ({"traffic_limit_exact": 0.2}, "must be a string"),
        ({"traffic_limit_exact": "-1/5"}, "must be a string"),
        ({"traffic_limit_exact": "6/5", "traffic_limit": 1.2}, "is no limit"),
        ({"traffic_limit_exact": "9" * 2000, "traffic_limit": 1e300}, "is no limit"),
        ({"rule": "global"}, "is no limit under the rule 'global'"),
        ({"rule": "hierarchical"}, "is no limit under the rule 'hierarchical'"),
        ({"num_groups": 3}, "do not divide"),
        ({"traffic_limit_exact": "7/36", "traffic_limit": 7 / 36}, ""),
        ({"traffic_limit_exact": "6/36", "traffic_limit": 1 / 6}, "are served off home"),
        ({"traffic_limit_exact": "0", "traffic_limit": 0}, "are served off home"),
    ],
)
def test_the_limit_of_a_document(fields: dict[str, Any], why: str) -> None:
    found = reason(placed(SPREAD, "10/3", rules=fields))
    assert (why in found) if why else found == ""


def test_a_placement_without_homes_is_refused() -> None:
    assert "no homes of the groups" in reason(placed([0, 2, 0, 2, 1, 3, 1, 3], "4"))


def test_shares_above_the_limit_are_refused() -> None:
    """As a whole, over all steps; the third of expert 0 that the limit allows is not."""
    rows = [[[7, 2, 1, 2]], [[7, 2, 1, 2]]]
    rule = RULE | {"objective": "mean", "dispatch": "fixed"}

    def served(away: str, at_home: str, worth: str) -> str:
        shares = [at_home, "1/2", "0", "1/2", away, "1/2", "1/2", "1"]
        claim = {"phy2log": SPREAD, "shares": shares, "objective_exact": worth}
        status = {"status": "feasible", "lower_bound_exact": "3"}
        return reason(of_steps(rows, 8, 4, rule, **claim, **status))

    assert served("1/3", "2/3", "17/3") == ""
    assert "are served off home" in served("2/3", "1/3", "31/6")


def test_homes_of_many_groups_are_on_the_budget() -> None:
    experts = 2000
    rules = RULE | {"num_groups": experts}
    slots = list(range(experts))
    claim = {"phy2log": slots, "objective_exact": "500", "status": "optimal"}
    document = of_one([1] * experts, experts, 4, "500", rules=rules, **claim)
    (verdict,) = verify_document(document, CheckBudget(10**6))
    assert verdict.trust is Trust.TOO_LARGE


HARMLESS = {("instance", "source"), ("layers", 0, "layer"), ("interrupted",), ("sha256",)}


def truth(document: dict[str, Any]) -> Layer:
    machine = document["instance"]
    names = ("physical_experts", "ranks", "nodes", "groups")
    topology = Topology(*(machine[f"num_{name}"] for name in names))
    loads = [[float(Fraction(w)) for w in document["layers"][0]["loads"]]]
    limit = Fraction(machine["traffic_limit_exact"])
    spread = machine["spread_replicas"]
    rule = machine["rule"]
    return Instance(loads, topology, rule, spread_replicas=spread, traffic_limit=limit).layer(0)


def test_a_changed_field_is_refused_or_all_is_still_true() -> None:
    document, passed = placed(SPREAD, "10/3"), 0
    for path, value in changes(document):
        tampered = sign(changed(document, path, value))
        try:
            (verdict,) = verify_document(tampered)
        except CertificateError:
            continue
        if verdict.trust is not Trust.VERIFIED or path in HARMLESS:
            continue
        passed += 1
        layer, slots = truth(tampered), tampered["layers"][0]["phy2log"]
        ranks = tuple(tuple(slots[i : i + 2]) for i in range(0, 8, 2))
        found = homes(layer, ranks)
        assert found is not None
        assert found[1] <= layer.traffic_limit * sum(layer.loads)
        assert verdict.objective == even_makespan(layer.loads, ranks) * layer.unit
        assert verdict.lower_bound <= even_optimum(layer) * layer.unit
    assert 0 < passed < 12
