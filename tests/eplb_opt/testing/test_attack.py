from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest

from eplb_opt import Instance, Layer, Result, Topology
from eplb_opt.gap import measure_gap
from eplb_opt.problem.result import Limit
from eplb_opt.problem.validity import over_limit
from eplb_opt.testing.attack import as_test, hunt
from solvers import solve
from tests.command_line import eplb_opt

# Found by `eplb-opt attack`: policy, machine, loads, makespan over optimum
KNOWN = [
    ("deepseek", Topology(8, 4), [57, 17, 1, 1, 1], "57/40"),
    ("deepseek", Topology(8, 4), [224, 56, 1, 1, 1], "336/227"),
    ("waterfill-diverse", Topology(8, 4), [138, 35, 1, 1, 1], "69/47"),
    ("waterfill-diverse", Topology(12, 4), [333, 333, 1, 1, 1, 1, 1, 1], "111/56"),
    ("apportion-zigzag", Topology(8, 4), [141, 36, 1, 1, 1], "47/32"),
    ("vectorized-swap", Topology(8, 4), [40, 2, 1, 160, 1], "240/163"),
    ("replica-refine", Topology(8, 4), [165, 42, 1, 1, 1], "165/112"),
    ("refined", Topology(12, 4), [1, 1, 1, 4, 1, 1, 24, 25], "33/29"),
    ("refined", Topology(16, 8), [1, 1, 205, 1, 22, 1, 22, 1], "205/156"),
    *(
        (policy, *case)
        for policy in ("deepseek", "apportion-zigzag", "vectorized-swap", "replica-refine")
        for case in (
            (Topology(12, 4), [350, 1, 1, 1, 1, 1, 1, 1], "282/179"),
            (Topology(16, 8), [440, 1, 1, 1, 1, 1, 1, 1], "110/63"),
        )
    ),
]


@pytest.mark.parametrize(("policy", "machine", "loads", "ratio"), KNOWN)
def test_known_worst_cases_have_not_become_worse(policy, machine, loads, ratio) -> None:
    report = measure_gap(Instance([loads], machine), [policy])
    (reference,), (layer,) = report.reference, report.policies[0].layers
    assert reference.status == "optimal"
    assert layer.makespan / reference.incumbent <= Fraction(ratio)


@pytest.fixture
def second_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that counts: the same steps on every machine."""
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr("eplb_opt.testing.search.time", clock)


@pytest.mark.usefixtures("second_a_step")
def test_attack_finds_loads_on_which_the_baseline_is_far_off() -> None:
    worst = hunt("deepseek", 5, Topology(8, 4), seconds=60, seed=1).worst
    assert worst is not None
    assert worst.result.status == "optimal"
    assert worst.ratio > Fraction(13, 10)
    assert min(worst.loads) >= 1
    best = measure_gap(Instance([worst.loads], Topology(8, 4)), ["deepseek"]).reference[0]
    assert best.incumbent == worst.result.objective


@pytest.mark.usefixtures("second_a_step")
def test_a_policy_for_a_dispatcher_is_attacked_under_one(tmp_path: Path) -> None:
    machine = ["--experts", "8", "--physical", "12", "--gpus", "4"]
    options = [*machine, "--seconds", "2", "-o", "test_worst.py"]
    result = eplb_opt("attack", "lplb-graph:ring", *options, cwd=tmp_path)
    assert "of lplb-graph:ring under optimal dispatch" in result.stdout, result
    assert (tmp_path / "test_worst.py").read_text().count('dispatch="optimal"') == 2


@pytest.mark.usefixtures("second_a_step")
def test_nothing_is_found_where_the_policy_is_optimal() -> None:
    worst = hunt("deepseek", 4, Topology(4, 4), seconds=12).worst
    assert worst is None or worst.ratio == 1


@pytest.mark.slow
@pytest.mark.usefixtures("second_a_step")
def test_the_command_writes_a_test_and_a_certificate(tmp_path: Path) -> None:
    machine = ["--experts", "5", "--physical", "8", "--gpus", "4"]
    outputs = ["-o", "test_worst.py", "--certificate", "worst.json"]
    result = eplb_opt("attack", "deepseek", *machine, "--seconds", 12, *outputs, cwd=tmp_path)
    assert result.returncode == 0
    assert "ratio    1." in result.stdout
    assert json.loads((tmp_path / "worst.json").read_text())["layers"][0]["status"] == "optimal"
    assert eplb_opt("verify", "worst.json", cwd=tmp_path).returncode == 0
    written = [sys.executable, "-m", "pytest", "-q", "test_worst.py"]
    subprocess.run(written, cwd=tmp_path, check=True, capture_output=True)


def test_an_interrupted_exact_search_ends_the_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken for a layer without proof, and the attack ran on."""
    calls: list[int] = []

    def interrupted(layer: Layer, **_: object) -> Result:
        calls.append(1)
        return replace(solve(layer), limit=Limit.INTERRUPT)

    monkeypatch.setattr("eplb_opt.testing.attack.solve", interrupted)
    found = hunt("deepseek", 5, Topology(8, 4), seconds=60)
    assert (found.interrupted, found.worst, len(calls)) == (True, None, 1)


def test_an_attack_tells_failures_of_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "fails.py"
    path.write_text("def rebalance_experts(*_):\n    raise OSError('no luck')\n")
    found = hunt(str(path), 5, Topology(8, 4), seconds=0.05)
    assert found.worst is None
    assert found.failed == found.batches > 0
    assert found.message == "OSError: no luck (fails.py, line 2)"


@pytest.mark.slow
@pytest.mark.usefixtures("second_a_step")
def test_attack_under_the_rule_home() -> None:
    """A policy that places hierarchically is far off where copies may leave their node."""
    machine, limit = Topology(6, 2, 2, 2), Fraction(1, 2)
    home = {"rule": "home", "traffic_limit": limit}
    worst = hunt("deepseek", 4, machine, seconds=4, seed=1, **home).worst
    assert worst is not None
    assert worst.ratio > Fraction(5, 4)
    shape = Instance([worst.loads], machine, **home)
    assert over_limit(shape.layer(0), worst.result.placement) is None
    text = as_test(worst, "deepseek", shape)
    assert 'rule="home", traffic_limit="1/2")' in text
    namespace: dict = {}
    exec(text, namespace)
    namespace["test_worst_case_of_the_policy"]()
