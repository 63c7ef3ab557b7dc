"""What every JSON document has in common."""

import json

import numpy as np
import pytest

from eplb_opt import Instance, Topology, documents, measure_gap, replay, solve
from eplb_opt.migration import plan_migration
from eplb_opt.serving.state_machine import Settings

TRACE = Instance(np.arange(24).reshape(3, 1, 8) % 7, Topology(12, 4))


def every_document() -> dict[str, documents.Document]:
    results = [solve(layer) for layer in TRACE.layers()]
    start = np.arange(12)[None] % 8
    return {
        "gap": documents.gap(measure_gap(TRACE)),
        "solve": documents.solve(TRACE, results, interrupted=False),
        "certificate": documents.certificate(TRACE, results, interrupted=False),
        "migrate": documents.migrate(plan_migration(TRACE, start, budget=2), "initial", 2, None),
        "replay": documents.replay(replay(TRACE, ["deepseek"], Settings(2, 2))),
    }


@pytest.fixture(scope="module")
def made() -> dict[str, documents.Document]:
    return every_document()


@pytest.mark.parametrize("name", ["gap", "solve", "certificate", "migrate", "replay"])
def test_schema_instance_and_interrupted_are_in_each(made, name: str) -> None:
    document = json.loads(json.dumps(made[name], allow_nan=False))
    assert document["schema"] == f"eplb-opt/{name}/1"
    assert document["interrupted"] is False
    instance = document["instance"]
    assert instance["dispatch"] == "even"
    assert (instance["num_steps"], instance["num_layers"], instance["num_ranks"]) == (3, 1, 4)
    if name != "replay":
        assert instance["objective"] == "sum"


def test_a_bound_as_a_float_is_never_above_the_bound() -> None:
    result = solve(Instance([[590, 1, 1]], Topology(6, 3)).layer(0))
    document = documents.solve(TRACE, [result], interrupted=True)
    numerator, denominator = document["layers"][0]["lower_bound_exact"].split("/")
    assert document["layers"][0]["lower_bound"] <= int(numerator) / int(denominator)
    assert document["interrupted"] is True


def test_the_dispatch_that_was_solved_is_said() -> None:
    instance = Instance([[6, 2, 1]], Topology(4, 2))
    result = solve(instance.layer(0), dispatch="optimal")
    for write in (documents.solve, documents.certificate):
        document = write(instance, [result], interrupted=False)
        assert document["instance"]["dispatch"] == "optimal"


def test_a_gap_under_optimal_dispatch() -> None:
    report = measure_gap(TRACE, dispatch="optimal", time_limit=5)
    (reference,), (layer,) = report.reference, report.policies[0].layers
    assert layer.makespan <= measure_gap(TRACE).policies[0].layers[0].makespan
    assert reference.lower_bound == solve(TRACE.layer(0), dispatch="optimal").objective
    document = documents.gap(report)
    assert document["instance"]["dispatch"] == "optimal"
    assert document["policies"][0]["rank_loads"] is None
