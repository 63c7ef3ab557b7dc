"""All methods on the same instances: they must agree, and their certificates must hold."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from eplb_opt import Instance, Layer, Topology, documents
from eplb_opt.certificate import Trust, verify_document
from solvers import solve

MACHINES = [
    (4, Topology(6, 2)),
    (4, Topology(6, 3)),
    (5, Topology(8, 4)),
    (5, Topology(6, 2)),
    (4, Topology(8, 4, 2, 2)),
    (6, Topology(8, 4, 2, 2)),
]
BACKENDS = ("portfolio", "cp-sat", "scipy", "scip")


def random_instance(rng: np.random.Generator) -> Instance:
    experts, machine = MACHINES[rng.integers(len(MACHINES))]
    kind = rng.integers(4)
    if kind == 0:
        loads = rng.integers(0, 20, experts)
    elif kind == 1:
        loads = 2 ** rng.integers(0, 10, experts)
    elif kind == 2:
        loads = 1000 + rng.integers(0, 3, experts)
    else:
        loads = rng.choice([0, 1, 1, 5], experts)
    return Instance(loads[None], machine)


def check(instance: Instance, backends: tuple[str, ...]) -> None:
    layer: Layer = instance.layer(0)
    best = solve(layer, backend="brute-force")
    assert best.status == "optimal"
    for backend in backends:
        result = solve(layer, backend=backend, time_limit=60)
        name = (backend, instance.loads.tolist(), instance.topology)
        assert result.lower_bound <= best.objective <= result.objective, name
        if result.status == "optimal":
            assert result.objective == best.objective, name
        else:  # floating point may leave a proof open, never a wrong value
            assert result.objective <= best.objective * (1 + Fraction(1, 10**6)), name
        document = documents.certificate(instance, [result], interrupted=False)
        (verdict,) = verify_document(document)
        assert verdict.trust in tuple(Trust), (name, verdict.reason)


def test_all_backends_agree() -> None:
    rng = np.random.default_rng(7)
    for _ in range(60):
        check(random_instance(rng), BACKENDS)


@pytest.mark.slow
def test_all_backends_agree_on_thousands() -> None:
    rng = np.random.default_rng(11)
    for i in range(3000):
        check(random_instance(rng), BACKENDS if i % 5 == 0 else ("portfolio", "cp-sat"))
