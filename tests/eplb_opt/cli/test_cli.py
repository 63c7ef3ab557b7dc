"""The command line as a user runs it."""

import json
import os
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from eplb_opt.cli import COMMANDS
from tests.command_line import PROGRAM, eplb_opt, eplb_opt_process

POLICIES = Path(__file__).parents[1] / "policies" / "user_programs.py"
LOADS = [[600, 560, 120, 120, 20, 10, 10, 10]]


@pytest.fixture
def loads(tmp_path: Path) -> Path:
    path = tmp_path / "loads.json"
    path.write_text(json.dumps(LOADS))
    return path


MACHINE = ("--redundant", 8, "--gpus", 8)


def test_help_names_every_command() -> None:
    result = eplb_opt("--help")
    assert result.returncode == 0
    for name in COMMANDS:
        assert name in result.stdout
        assert eplb_opt(name, "--help").returncode == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['eplb-opt', 'gap', '--help']\n"
        "from eplb_opt.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'ortools', 'scipy', 'rich', 'pulp'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stderr == "set()\n"


def test_gap_on_the_published_example(loads: Path) -> None:
    result = eplb_opt("gap", loads, *MACHINE)
    assert result.returncode == 0
    assert "1 proven optimal" in result.stdout
    assert "17.966 %" in result.stdout
    assert result.stderr == ""


def test_gap_json_and_placements(loads: Path, tmp_path: Path) -> None:
    target = tmp_path / "placements.npz"
    result = eplb_opt("gap", loads, *MACHINE, "--json", "-", "--placements", target)
    document = json.loads(result.stdout)
    assert document["policies"][0]["layers"][0]["makespan"] == 232.0
    assert np.load(target)["deepseek"].shape == (1, 16)


def test_fail_above_is_the_exit_code_and_names_policy_layer_and_limit(loads: Path) -> None:
    gap = ("gap", loads, *MACHINE, "--time-limit", 0)
    assert eplb_opt(*gap, "--fail-above", 0.3).returncode == 0
    failed = eplb_opt(*gap, "--fail-above", 0.2, "--policy", "deepseek", "--policy", "refined")
    assert failed.returncode == 1
    assert failed.stderr == (
        "eplb-opt: deepseek: layer 0: the gap is 28.000 %, above --fail-above 0.2 (20.000 %)\n"
    )


@pytest.mark.parametrize("command", ["gap", "bench"])
def test_a_policy_without_a_result_is_exit_1_after_the_others(loads: Path, command: str) -> None:
    broken = ("--policy", f"{POLICIES}:raises", "--policy", "deepseek")
    options = ("--time-limit", 0) if command == "gap" else ("--repeat", 1)
    result = eplb_opt(command, loads, *MACHINE, *options, *broken)
    assert result.returncode == 1
    assert "error: RuntimeError: shape mismatch" in result.stdout
    assert "28.000 %" in result.stdout


@pytest.mark.slow
def test_user_policies_in_one_table(loads: Path) -> None:
    names = (f"{POLICIES}:noisy", f"{POLICIES}:raises", f"{POLICIES}:wrong_counts")
    options = [word for name in names for word in ("--policy", name)]
    result = eplb_opt("gap", loads, *MACHINE, *options, "--json", "-")
    statuses = [policy["status"] for policy in json.loads(result.stdout)["policies"]]
    assert statuses == ["ok", "error", "invalid"]
    assert "progress: 100 %" not in result.stdout


def test_solve_every_stage(loads: Path, tmp_path: Path) -> None:
    target = tmp_path / "exact.json"
    result = eplb_opt("solve", loads, *MACHINE, "--json", "-", "--placements", target)
    (layer,) = json.loads(result.stdout)["layers"]
    assert (layer["status"], layer["objective_exact"]) == ("optimal", "590/3")
    assert layer["lower_bound_exact"] == "590/3"
    assert Fraction(layer["lower_bound"]) <= Fraction(590, 3) < Fraction(layer["objective"]) + 1
    assert json.loads(target.read_text())["phy2log"]["exact"] == [layer["phy2log"]]
    nodes = ("--nodes", 2, "--groups", 4)
    for stage in ("groups", "counts", "packing", "joint"):
        result = eplb_opt("solve", loads, *MACHINE, *nodes, "--stage", stage, "--json", "-")
        document = json.loads(result.stdout)
        assert document["instance"]["rule"] == "hierarchical"
        assert document["layers"][0]["status"] == "optimal", stage
        assert (document["layers"][0]["phy2log"] is None) == (stage in ("groups", "counts"))


def test_certificate_is_written_and_verified(loads: Path, tmp_path: Path) -> None:
    target = tmp_path / "certificate.json"
    eplb_opt("solve", loads, *MACHINE, "--certificate", target)
    result = eplb_opt("verify", target, "--strict")
    assert (result.returncode, "verified" in result.stdout) == (0, True)
    eplb_opt("solve", loads, *MACHINE, "--backend", "cp-sat", "--certificate", target)
    trusted = eplb_opt("verify", target)
    assert (trusted.returncode, "trusted, not verified" in trusted.stdout) == (0, True)
    assert eplb_opt("verify", target, "--strict").returncode == 1
    target.write_text(target.read_text().replace("600/1", "601/1"))
    changed = eplb_opt("verify", target)
    assert changed.returncode == 2
    assert "was changed" in changed.stderr


def test_bound_is_a_solve_document_without_objective(loads: Path) -> None:
    document = json.loads(eplb_opt("bound", loads, *MACHINE, "--json", "-").stdout)
    (layer,) = document["layers"]
    assert layer["objective"] is None
    assert Fraction(layer["lower_bound_exact"]) <= Fraction(590, 3)
    assert "tokens on the fullest rank" in eplb_opt("bound", loads, *MACHINE).stdout


def test_generate_convert_and_serve(tmp_path: Path) -> None:
    sizes = ("--layers", 3, "--experts", 16, "--tokens", 1000, "--steps", 4)
    assert (
        eplb_opt_process("generate", "lognormal", "-o", "t.npy", *sizes, cwd=tmp_path).returncode
        == 0
    )
    assert np.load(tmp_path / "t.npy").shape == (4, 3, 16)
    steps = ("--steps", "1:3")
    eplb_opt_process("convert", "t.npy", "t.json", *steps, "--sum", cwd=tmp_path)
    summed = json.loads((tmp_path / "t.json").read_text())["logical_count"]
    assert np.array_equal(summed, np.load(tmp_path / "t.npy")[1:3].sum(axis=0))
    machine = ("--redundant", 4, "--gpus", 5, "--time-limit", 0, *steps)
    eplb_opt("gap", "t.npy", *machine, "--placements", "p.npz", cwd=tmp_path)
    assert eplb_opt("convert", "p.npz", "s.json", "--to", "sglang", cwd=tmp_path).returncode == 0
    served = json.loads((tmp_path / "s.json").read_text())
    assert np.shape(served["physical_to_logical_map"]) == (3, 20)
    assert eplb_opt("convert", "p.npz", "t.yaml", "--to", "trtllm", cwd=tmp_path).returncode == 0
    assert "num_slots: 20" in (tmp_path / "t.yaml").read_text()


def test_layers_are_selected(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("1,2\n3,4\n0,0\n5,6\n")
    result = eplb_opt("gap", "l.csv", "--physical", 4, "--gpus", 2, "--layers", "1-2,0", "--json",
                      "-", cwd=tmp_path)  # fmt: skip
    reference = json.loads(result.stdout)["reference"]
    assert [(r["layer"], r["mean_load"]) for r in reference] == [(1, 3.5), (2, 0.0), (0, 1.5)]


def test_policies_and_bench(loads: Path) -> None:
    assert "deepseek" in eplb_opt("policies").stdout
    policies = ("--policy", "deepseek", "--policy", f"{POLICIES}:raises")
    result = eplb_opt_process("bench", loads, *MACHINE, "--repeat", 2, *policies)
    assert result.returncode == 1
    assert "1.00" in result.stdout
    assert "error: RuntimeError" in result.stdout


@pytest.mark.slow
def test_demo() -> None:
    result = eplb_opt_process("demo")
    assert result.returncode == 0
    for figure in ("232.000", "196.667 = 590/3", "hierarchical rule", "global rule"):
        assert figure in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_closed_pipe_is_no_traceback(loads: Path) -> None:
    arguments = map(str, ("gap", loads, *MACHINE, "--json", "-"))
    line = f"{shlex.join([*PROGRAM, *arguments])} | true"
    result = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
