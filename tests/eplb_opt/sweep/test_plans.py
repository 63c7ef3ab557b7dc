"""What a specification asks for, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eplb_opt.sweep import SpecError, read_spec
from eplb_opt.sweep.spec import Spec
from eplb_opt.sweep.tasks import left, tasks
from eplb_opt.sweep.work import run_task
from tests.command_line import eplb_opt
from tests.eplb_opt.sweep.results import SMALL, spec_file


def test_all_errors_of_a_spec_at_once(tmp_path: Path) -> None:
    text = """
blocks:
  - instances: [{file: none.json}, {family: lognormal, layers: 0, experts: 12, seeds: [1]}]
    machines: [{gpus: 4}, {redundant: 1, gpus: 0}]
    rules: [best]
    policies: [deepsek]
sed: 1
"""
    with pytest.raises(SpecError) as caught:
        read_spec(spec_file(tmp_path, text))
    lines = str(caught.value).splitlines()
    for part in ("layers: ", "one of redundant and physical", "gpus: ", "rules", "sed: "):
        assert any(part in line and "spec.yaml" in line for line in lines), (part, lines)
    assert all(len(line) < 300 for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blocks: [", "not YAML"),
        ("3", "the document"),
        (SMALL.replace("deepseek, refined", "deepsek"), "unknown policy 'deepsek'"),
        (SMALL.replace("{time_limit: 120}", "{time_limit: 1, backend: cplex}"), "'cplex' is not"),
        (SMALL.replace("deepseek, refined", "missing.py"), "no such file: .*missing.py"),
        (SMALL.replace("policies", "objective: cvar:2\n    policies"), r"with a share in \(0, 1\]"),
        (SMALL.replace("policies", "dispatch: best\n    policies"), "dispatch='best' is not one"),
    ],
)
def test_bad_specs(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_spec(spec_file(tmp_path, text))


def test_a_large_plan_is_not_held_in_memory() -> None:
    import tracemalloc

    seeds = list(range(10_000))
    spec = Spec.model_validate(
        {
            "blocks": [
                {
                    "instances": [{"family": "gamma", "layers": 1, "experts": 8, "seeds": seeds}],
                    "machines": [{"redundant": 0, "gpus": 2}],
                    "policies": ["deepseek", "refined"],
                }
            ]
        }
    )
    tracemalloc.start()
    assert sum(len(task.units) for task in left(spec, set())) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6  # the keys of all units, and nothing else


def test_plan_on_the_command_line(tmp_path: Path) -> None:
    result = eplb_opt("sweep", spec_file(tmp_path), "--dry-run")
    assert result.returncode == 0
    assert "24 units in 8 tasks: 4 loads, 2 machines, 1 rules, 3 policies" in result.stdout
    assert "... and 14 more" in result.stdout


def test_the_smoke_sweep_is_a_valid_plan() -> None:
    path = Path(__file__).parents[3] / "benchmarks" / "smoke.yaml"
    units = [unit for task in tasks(read_spec(path)) for unit in task.units]
    assert len(units) == len(set(units)) > 50


def test_objective_and_dispatch_of_a_block(tmp_path: Path) -> None:
    """They are part of a unit's key; loads without steps are an error of their unit."""
    np.save(tmp_path / "trace.npy", np.arange(24).reshape(3, 2, 4))
    np.save(tmp_path / "sum.npy", np.arange(8).reshape(2, 4))
    text = """
blocks:
  - instances: [{file: trace.npy}, {file: sum.npy}]
    machines: [{redundant: 2, gpus: 3}]
    objective: mean
    dispatch: optimal
    policies: [deepseek]
    solvers: [{time_limit: 1}]
"""
    spec = read_spec(spec_file(tmp_path, text))
    measured, solved, *refused = [row for task in tasks(spec) for row in run_task(task, spec)]
    assert measured["unit"].endswith("+2 on 3 | auto | mean, optimal | deepseek")
    assert (measured["instance"]["objective"], measured["instance"]["num_steps"]) == ("mean", 3)
    assert measured["loss_mean"] >= 0
    assert solved["status"] == "ok"
    assert sum(solved["layer_makespans"]) <= sum(measured["layer_makespans"])
    assert {row["status"] for row in refused} == {"error"}
    assert "holds [layers, experts], and steps are needed" in refused[0]["message"]


@pytest.mark.slow
def test_limits_of_traffic_are_units_of_the_rule_home(tmp_path: Path) -> None:
    text = """
blocks:
  - instances: [{family: lognormal, layers: 1, experts: 8, seeds: [1]}]
    machines: [{redundant: 4, gpus: 4, nodes: 2, groups: 4}]
    rules: [hierarchical, home]
    traffic: [0.1, 1]
    policies: [refined]
"""
    spec = read_spec(spec_file(tmp_path, text))
    planned = list(tasks(spec))
    units = [unit.split(" | ")[2] for task in planned for unit in task.units]
    assert units == ["hierarchical", "home 0.1", "home"]
    rows = [row for task in planned for row in run_task(task, spec)]
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert [row["instance"]["traffic_limit"] for row in rows] == [1, 0.1, 1]
    assert rows[0]["traffic"] == 0 < rows[1]["traffic"] <= 0.1
    with pytest.raises(SpecError, match="name it in rules"):
        read_spec(spec_file(tmp_path, text.replace(", home", "")))
