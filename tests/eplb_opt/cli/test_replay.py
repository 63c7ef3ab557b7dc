"""``eplb-opt replay`` as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.command_line import eplb_opt
from tests.eplb_opt.serving.replay.test_replay import drifting

MACHINE = ("--redundant", 2, "--gpus", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "trace.npy", drifting(20))
    (tmp_path / "flat.json").write_text("[[1, 2, 3, 4, 5, 6]]")
    return tmp_path


def test_table_json_and_page(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    command = ("replay", "trace.npy", *MACHINE, "--interval", 5, "--cost", "1e-5", "--async")
    policies = ("--policy", "deepseek", "--policy", "refined")
    result = eplb_opt(*command, *policies, "--json", "replay.json", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    for word in ("deepseek", "refined", "staleness", "moving", "asynchronous"):
        assert word in result.stdout
    document = json.loads((folder / "replay.json").read_text())
    assert document["schema"] == "eplb-opt/replay/1"
    for policy in document["policies"]:
        assert f"{100 * policy['loss']:.2f} %" in result.stdout
        assert len(policy["steps"]["makespan"]) == 20
        top, mean = (np.sum(policy["steps"][name]) for name in ("makespan", "mean_load"))
        assert policy["loss"] == pytest.approx(top / mean - 1, rel=1e-4)
    assert eplb_opt("report", "replay.json", "-o", "page.html", cwd=folder).returncode == 0
    page = (folder / "page.html").read_text()
    assert page.count("<svg") == 5
    assert "--interval 5 --window 5 --async" in page


def test_failures_are_told(folder: Path) -> None:
    (folder / "fails.py").write_text("def rebalance_experts(*_):\n    raise ValueError('lost')\n")
    result = eplb_opt("replay", "trace.npy", *MACHINE, "--policy", "fails.py", cwd=folder)
    assert result.returncode == 1
    assert "fails.py failed 1 times and the placement stayed; first after step 4: " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("flat.json",), "flat.json: a replay needs a trace"),
        (("trace.npy", "--scale", "now"), "'now' is not of the form STEP:GPUS"),
        (("trace.npy", "--scale", "9:1"), "leaves 2 slots for 6 experts"),
        (("trace.npy", "--also", "flat.json"), "flat.json: a replay needs a trace"),
        (("trace.npy", "--policy", "nonsense"), "unknown policy 'nonsense'"),
        (("trace.npy", "--policy", "refined:some"), "refined[:N|:relabel]"),
    ],
)
def test_bad_input(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    result = eplb_opt("replay", *arguments, *MACHINE, cwd=folder)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
