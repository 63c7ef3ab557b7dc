"""``--rule home`` and ``--traffic`` as a user gives them."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from eplb_opt import Instance, Topology
from eplb_opt.cli import output
from eplb_opt.cli.frontier_table import frontier_tables
from eplb_opt.cli.gap import _failures, _progress
from eplb_opt.gap import measure_frontier
from eplb_opt.gap.travel import Travel
from eplb_opt.io import read_placements
from tests.command_line import eplb_opt

LOADS = [[6, 2, 1, 1], [3, 3, 2, 2]]
MACHINE = ("--redundant", 2, "--gpus", 2, "--nodes", 2, "--groups", 2)
HOME = (*MACHINE, "--rule", "home")
QUICK = ("--time-limit", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loads.json").write_text(json.dumps(LOADS))
    np.save(tmp_path / "trace.npy", [LOADS, LOADS[::-1], LOADS])
    return tmp_path


def test_one_limit_is_a_report_of_that_limit(folder: Path) -> None:
    command = ("gap", "loads.json", *HOME, *QUICK, "--traffic", "0.1,0.10", "--policy", "refined")
    done = eplb_opt(*command, "--json", "gap.json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "home rule, traffic up to 0.1" in done.stdout
    assert "largest" in done.stdout
    document = json.loads((folder / "gap.json").read_text())
    assert (document["schema"], document["instance"]["rule"]) == ("eplb-opt/gap/1", "home")
    assert document["instance"]["traffic_limit"] == 0.1
    (refined,) = document["policies"]
    assert refined["traffic"] == np.mean([layer["traffic"] for layer in refined["layers"]])
    assert all(layer["traffic"] <= 0.1 for layer in refined["layers"])


def test_several_limits_are_a_frontier(folder: Path) -> None:
    limits = ("--traffic", "0.25", "--traffic", "0.1")
    command = ("gap", "loads.json", *HOME, *QUICK, *limits, "--policy", "deepseek", "--policy")
    outputs = ("--json", "frontier.json", "--placements", "placed.npz")
    done = eplb_opt(*command, "refined", *outputs, cwd=folder)
    assert (done.returncode, done.stderr.count("deepseek is not told of the rule home")) == (0, 1)
    rows = [line.strip().split("  ")[0] for line in done.stdout.splitlines()]
    names = ["hierarchical", "home 0.1", "home 0.25", "home", "global"]
    assert [row for row in rows if row in names] == names
    assert "means over 2 layers with load" in done.stdout
    document = json.loads((folder / "frontier.json").read_text())
    assert (document["schema"], document["interrupted"]) == ("eplb-opt/frontier/1", False)
    assert [report["instance"]["rule"] for report in document["reports"]] == [
        name.split()[0] for name in names
    ]
    bounds = [[r["lower_bound"] for r in report["reference"]] for report in document["reports"]]
    assert np.all(np.diff(bounds, axis=0) <= 0)
    placed = read_placements(folder / "placed.npz")
    both = ("deepseek", "refined")
    assert [*placed] == [f"{policy} {name}" for name in names for policy in both]
    assert {report["schema"] for report in document["reports"]} == {"eplb-opt/gap/1"}


@pytest.mark.parametrize(("width", "tables", "figures"), [(160, 1, 9), (80, 2, 5)])
def test_no_number_of_a_frontier_is_broken(
    width: int,
    tables: int,
    figures: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(output, "FILE_WIDTH", width)
    policies = ["deepseek", "replica-refine"]
    instance = Instance(LOADS, Topology(6, 2, num_nodes=2, num_groups=2))
    for travel in [None] + [Travel(8, 7168, 400, 2e-7)] * (width == 80):
        found = measure_frontier(instance, [0.25], policies, travel=travel, time_limit=0)
        output.show(*frontier_tables(found))
        shown = capsys.readouterr().out
        rows = [line for line in shown.splitlines() if line.strip().startswith("home 0.25")]
        numbers = figures + 2 * (travel is not None)
        assert [len(re.findall(r"[0-9]\.[0-9]{3} %", row)) for row in rows] == [numbers] * tables
        assert all(name in shown for name in policies)


def test_a_frontier_can_fail_explain_and_serve_other_steps(folder: Path) -> None:
    command = ("gap", "trace.npy", *HOME, *QUICK, "--traffic", "0.1,0.2")
    done = eplb_opt(*command, "--fail-above", 0, "--json", "-", cwd=folder)
    assert done.returncode == 1
    assert "eplb-opt: home 0.1: deepseek: layer" in done.stderr
    served = ("--serve-on", "next", "--objective", "mean", "--dispatch", "fixed", "--explain")
    done = eplb_opt(*command, *served, cwd=folder)
    assert done.returncode == 0
    assert "home 0.2: why, over the steps served" in done.stdout
    assert "those of the rule home without a limit" in done.stdout
    timed = eplb_opt(*command, "--travel", "8,7168,400,0.2", cwd=folder).stdout
    assert ("time" in timed, "time" in done.stdout) == (True, False)
    assert "trace.npy, steps 1 to 2: 4 layers" in done.stdout


def test_why_a_policy_failed_is_told_beside_the_table_alone() -> None:
    def broken(weight: torch.Tensor, *_sizes: int) -> torch.Tensor:
        return torch.zeros(len(weight), 6)

    instance = Instance(LOADS, Topology(6, 2, num_nodes=2, num_groups=2))
    found = measure_frontier(instance, [0.25], broken, time_limit=0)
    (line,) = _failures(found.reports[1], None)
    assert "invalid: " in line
    assert not any(line in part for part in frontier_tables(found) if isinstance(part, str))


def test_an_interrupted_frontier_says_how_far_it_came() -> None:
    instance = Instance(LOADS, Topology(6, 2, num_nodes=2, num_groups=2))
    found = measure_frontier(instance, [0.25], "deepseek", time_limit=0)
    reports = {"hierarchical: ": found.reports[0]}
    done = _progress(reports, instance, (Fraction(1, 4), Fraction(1, 2)))
    assert done == "rule 1 of 5, hierarchical: 1 of 1 policies are measured"


def test_home_on_one_node_is_told_to_be_the_global_rule(folder: Path) -> None:
    machine = ("--redundant", 2, "--gpus", 2, "--groups", 2, "--rule", "home", "--traffic", "0.1")
    done = eplb_opt("gap", "loads.json", *machine, *QUICK, "--policy", "refined", cwd=folder)
    assert done.returncode == 0
    assert done.stderr.startswith("eplb-opt: --rule home with --nodes 1 is the global rule")
    assert len(done.stderr.splitlines()) == 1


BAD = {
    "limit without the rule": (
        ["gap", *MACHINE, "--traffic", "0.1"],
        "--traffic limits what is served off home: give --rule home, too",
    ),
    "several limits": (
        ["bound", *HOME, "--traffic", "0.1", "--traffic", "0.2"],
        "--traffic: give one limit; only gap takes several",
    ),
    "above 1": (["gap", *HOME, "--traffic", "1.5"], "'1.5' is not a decimal from 0 to 1"),
    "no decimal": (["gap", *HOME, "--traffic", "0.1,1/3"], "'1/3' is not a decimal from 0 to 1"),
    "nothing": (["gap", *HOME, "--traffic", ""], "'' is not a decimal from 0 to 1"),
    "half a time": (["gap", *HOME, "--travel", "8,7168"], "is not of the form K,H,GB/s,US"),
    "no speed": (
        ["gap", *HOME, "--travel", "8,7168,0,1"],
        "(link=0.0 must be positive and finite)",
    ),
    "time of what is not told": (
        ["gap", *HOME, "--travel", "8,7168,400,1", "--dispatch", "optimal"],
        "--travel: objective='sum', dispatch='optimal': a time needs objective 'sum' or 'mean'",
    ),
    "K over N": (
        ["gap", *MACHINE[:-1], 1, "--rule", "home"],
        "--rule home: every node is home to as many groups, and --groups 1 is no multiple of "
        "--nodes 2: give",
    ),
    "E over K": (
        ["gap", *MACHINE[:-1], 8, "--rule", "home"],
        "num_logical_experts=4 is not a multiple of num_groups=8",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_understood_is_one_line(name: str, folder: Path) -> None:
    (command, *options), message = BAD[name]
    done = eplb_opt(command, "loads.json", *options, cwd=folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert message in done.stderr


def test_solve_and_bound_say_the_traffic_of_what_is_placed(folder: Path) -> None:
    limit = ("loads.json", *HOME, "--traffic", "0.2", "--json", "out.json")
    done = eplb_opt("solve", *limit, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "traffic" in done.stdout
    solved = json.loads((folder / "out.json").read_text())
    assert solved["instance"]["traffic_limit"] == 0.2
    assert [layer["status"] for layer in solved["layers"]] == ["optimal"] * 2
    assert all(0 < layer["traffic"] <= 0.2 for layer in solved["layers"])
    assert eplb_opt("bound", *limit, cwd=folder).returncode == 0
    bounds = json.loads((folder / "out.json").read_text())["layers"]
    assert [layer["traffic"] for layer in bounds] == [None, None]
    assert [b["lower_bound_exact"] for b in bounds] == [
        layer["objective_exact"] for layer in solved["layers"]
    ]


def test_an_infeasible_layer_is_left_out_of_the_certificate(tmp_path: Path) -> None:
    """With replicas spread a limit may leave no placement to a layer; the proofs of others stay."""
    (tmp_path / "loads.json").write_text("[[1, 9, 0, 0], [1, 1, 1, 1]]")
    machine = [
        "--physical",
        "6",
        "--gpus",
        "2",
        "--nodes",
        "2",
        "--groups",
        "2",
        "--rule",
        "home",
        "--traffic",
        "0.1",
    ]
    command = ["solve", "loads.json", *machine, "--spread-replicas", "--certificate", "c.json"]
    done = eplb_opt(*command, cwd=tmp_path)
    assert "infeasible, are layers 1" in done.stderr
    verified = eplb_opt("verify", "c.json", cwd=tmp_path).stdout
    assert "rule home, traffic up to 1/10" in verified
    assert "verified" in verified
