from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eplb_opt import Instance, Topology
from eplb_opt.testing import contracts, suite, traces
from eplb_opt.testing.contracts import CONTRACTS
from eplb_opt.testing.suite import run_suite
from heuristics import POLICIES
from tests.command_line import Done, eplb_opt

FILE = Path(__file__).parents[1] / "broken_policies.py"


def check(*arguments: str) -> Done:
    return eplb_opt("check", *arguments)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_here_passes(policy: str) -> None:
    assert [finding for finding in run_suite(policy) if finding.message] == []


def test_a_policy_for_steps_is_judged_by_what_it_minimizes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its contracts are those of all, with steps; here the cheapest of them."""
    machines = (Topology(12, 4), Topology(12, 4, 2, 4))
    few = [
        Instance([[57, 17, 9, 9, 5, 1, 1, 1]], machine, source=f"{machine}") for machine in machines
    ]
    monkeypatch.setattr(suite, "small_instances", lambda: few)
    monkeypatch.setattr(suite, "full_scale_instances", list)
    monkeypatch.setattr(traces, "LAYERS", 1)
    two = traces.small_traces()[:2]
    for module in (suite, traces):
        monkeypatch.setattr(module, "small_traces", lambda: two)
    monkeypatch.setattr(contracts, "STEP_CONTRACTS", {"one rank": CONTRACTS["one rank"]})
    asked = {"never_worse_than": "deepseek", "gap_below": 0.5, "baseline": tmp_path / "gaps.json"}
    found = list(run_suite("dispatch-aware:fast", **asked))
    assert [finding for finding in found if finding.message] == []
    judged = " (objective='mean', dispatch='optimal')"
    assert [finding.check for finding in found][-7:] == [
        f"opposite steps placed better than their sum{judged}",
        f"steps in another order placed as well{judged}",
        f"small traces beside their optima{judged}",
        f"never worse than deepseek{judged}",
        f"gap at most 50.0000%{judged}",
        f"gaps have not risen{judged}",
        "one rank, of 3 steps",
    ]
    assert "of 2 layers optimal, 2 optima proven" in found[-5].figure
    assert all("8 drawn steps" in source for source in json.loads(asked["baseline"].read_text()))


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gaps of the published algorithm, as a user's file, which passes every check."""
    folder = tmp_path_factory.mktemp("check")
    options = ["--never-worse-than", "deepseek", "--junit", "junit.xml", "--baseline", "gaps.json"]
    result = eplb_opt("check", f"{FILE}:deepseek", *options, cwd=folder)
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert failed == []
    assert result.returncode == 0
    suite = ElementTree.parse(folder / "junit.xml").getroot()
    assert suite.get("failures") == "0"
    assert len(suite) == int(suite.get("tests", "0")) > 30
    return folder / "gaps.json"


@pytest.mark.slow
def test_the_published_algorithm_as_a_users_file_passes_again(gaps: Path) -> None:
    kept = gaps.read_text()
    assert len(json.loads(kept)) > 15
    assert check(f"{FILE}:deepseek", "--baseline", str(gaps)).returncode == 0
    assert gaps.read_text() == kept


@pytest.mark.parametrize(
    ("function", "faults"),
    [
        ("off_by_one_count", {"valid": "logcnt is not the number of replicas"}),
        ("duplicate_slot", {"valid": "has no replica|log2phy"}),
        ("nondeterministic", {"deterministic": "different placements"}),
        ("input_mutated", {"valid": "wrote into its input"}),
        pytest.param(
            "one_percent_worse",
            {"never worse than deepseek": "is worse than the", "gaps have not risen": ""},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_each_fault_is_found_and_named(
    function: str, faults: dict[str, str], gaps: Path, tmp_path: Path
) -> None:
    junit, kept = tmp_path / "junit.xml", gaps.read_text()
    options = ["--never-worse-than", "deepseek", "--baseline", str(gaps), "--junit", str(junit)]
    result = check(f"{FILE}:{function}", *options)
    assert result.returncode == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    for name, message in faults.items():
        assert any(name in line and re.search(message, line) for line in failed), failed
    assert int(ElementTree.parse(junit).getroot().get("failures", "0")) == len(failed)
    assert gaps.read_text() == kept


@pytest.mark.slow
def test_gap_limit_and_bad_names() -> None:
    assert check("refined", "--gap-below", "100").returncode == 0
    result = check("deepseek", "--gap-below", "0.001")
    assert result.returncode == 1
    assert "above the proven bound" in result.stdout
    result = check("deepsek")
    assert result.returncode == 2
    assert "unknown policy 'deepsek'" in result.stderr


OUTSIDE = """import pytest
from my_policy import place
from eplb_opt.testing import assert_drop_in, assert_never_worse

def test_policy(full_scale_instances):
    assert_drop_in(place), assert_never_worse(place, "deepseek", on=full_scale_instances)
"""


@pytest.mark.slow
def test_an_outside_repository_with_one_short_test_file(tmp_path: Path) -> None:
    (tmp_path / "my_policy.py").write_text(
        "from heuristics import POLICIES\nplace = rebalance_experts = POLICIES['deepseek']\n"
    )
    (tmp_path / "test_policy.py").write_text(OUTSIDE)
    (tmp_path / "test_optimal.py").write_text(
        "def test_optimum(optimal, small_instances):\n"
        "    assert optimal(small_instances[2])[0] == 590 / 3\n"
    )
    options = ["--eplb-policy", "my_policy.py", "--eplb-never-worse-than", "deepseek"]

    def pytest_says(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-q", *arguments]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return run.returncode, run.stdout

    code, said = pytest_says(*options)
    assert (code, "3 passed" in said) == (0, True), said
    code, said = pytest_says("test_optimal.py")  # with the optimum from the cache
    assert (code, "1 passed" in said) == (0, True), said
    assert list((tmp_path / ".pytest_cache" / "v" / "eplb-opt" / "optimal").iterdir())
    (tmp_path / "my_policy.py").write_text(
        FILE.read_text() + "\nplace = rebalance_experts = duplicate_slot\n"
    )
    code, said = pytest_says(*options, "test_optimal.py")
    assert (code, "valid: " in said) == (1, True), said
