"""The runner of the engines' tests reads what pytest reports."""

import importlib.util
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

RUNNER = Path(__file__).parents[1] / "benchmarks" / "engine_tests.py"

REPORT = """<?xml version="1.0"?><testsuites><testsuite name="pytest">
<testcase classname="" name="tests.distributed.test_broken"><error message="collection failure"
>tests/distributed/test_broken.py:3: in &lt;module&gt;
E   ModuleNotFoundError: No module named 'lm_eval'</error></testcase>
<testcase classname="tests.test_algo" name="test_basic" file="tests/test_algo.py" />
<testcase classname="tests.test_algo" name="test_slots[a]" file="tests/test_algo.py"><failure
message="AssertionError: 3 == 4&#10;  more">trace</failure></testcase>
<testcase classname="tests.test_algo.TestDevices" name="test_device" file="tests/test_algo.py"
><skipped message="Need at least 2 GPUs to run the test" /></testcase>
<testcase classname="tests.test_algo" name="test_slots[b]" file="tests/test_algo.py"><failure
message="AssertionError: 3 == 4" /></testcase>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("engine_tests_runner", RUNNER)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_outcomes_of_a_report(runner):
    assert runner.outcomes(REPORT) == {
        "test_broken": runner.Outcome("error", "ModuleNotFoundError: No module named 'lm_eval'"),
        "test_algo::test_basic": runner.Outcome("passed"),
        "test_algo::test_slots[a]": runner.Outcome("failed", "AssertionError: 3 == 4"),
        "test_algo::TestDevices::test_device": runner.Outcome(
            "skipped", "Need at least 2 GPUs to run the test"
        ),
        "test_algo::test_slots[b]": runner.Outcome("failed", "AssertionError: 3 == 4"),
    }


def test_a_row_holds_the_cases_that_come_out_the_same(runner):
    theirs = runner.outcomes(REPORT)
    ours = {**theirs, "test_algo::test_slots[b]": runner.Outcome("passed")}
    alike, apart = runner.table({"own": theirs}), runner.table({"own": theirs, "refined": ours})
    assert "| `test_algo::test_slots (2 cases)` | failed (2) |" in alike
    assert "| `test_algo::test_slots[a]` | failed (2) | failed (2) |" in apart
    assert "| `test_algo::test_slots[b]` | failed (2) | passed |" in apart
    assert "2. AssertionError: 3 == 4" in apart
    assert apart.count("AssertionError") == 1


def test_a_test_that_did_not_run_is_an_error(runner):
    ran = {"test_algo::test_basic": runner.Outcome("passed")}
    assert "| passed | error (1) |" in runner.table({"own": ran, "refined": {}})


def test_plugins_are_found_as_if_installed(runner, tmp_path):
    runner.install(tmp_path)
    (installed,) = distributions(path=[str(tmp_path)])
    assert "sglang.srt.plugins" in {point.group for point in installed.entry_points}
