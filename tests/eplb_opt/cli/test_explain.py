"""``gap --explain`` and ``gap --serve-on`` as a user runs them."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from eplb_opt import Instance, Topology, documents
from eplb_opt.cli.loss_tables import how_to_read
from eplb_opt.gap import measure_gap
from tests.command_line import eplb_opt
from tests.eplb_opt.cli.test_cli import MACHINE

LOADS = [[600, 560, 120, 120, 20, 10, 10, 10], [3, 1, 4, 1, 5, 9, 2, 6]]
NODES = ("--nodes", 2, "--groups", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loads.json").write_text(json.dumps(LOADS))
    (tmp_path / "other.json").write_text(json.dumps([row[::-1] for row in LOADS]))
    np.save(tmp_path / "trace.npy", [LOADS, LOADS[::-1], LOADS])
    return tmp_path


def test_explain(folder: Path) -> None:
    policies = ("--policy", "deepseek", "--policy", "refined")
    command = ("gap", "loads.json", *MACHINE, *NODES, *policies, "--explain")
    result = eplb_opt(*command, "--json", "gap.json", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    for word in ("granularity", "rule", "groups", "counts", "packing", "= own"):
        assert word in result.stdout
    document = json.loads((folder / "gap.json").read_text())
    assert document["schema"] == "eplb-opt/gap/1"
    for policy, gap in zip(document["attribution"], document["policies"], strict=True):
        assert policy["policy"] == gap["policy"]
        for split, layer, loads in zip(policy["layers"], gap["layers"], LOADS, strict=True):
            assert split["total"] == pytest.approx(layer["makespan"] * 8 / sum(loads) - 1)
            shown = [Fraction(term["shown_exact"]) for term in split["terms"].values()]
            assert sum(shown) == Fraction(split["total_exact"])
        total = f"{100 * policy['mean']['total']:.2f}"
        assert total in result.stdout
    plain = json.loads(eplb_opt("gap", "loads.json", *MACHINE, "--json", "-", cwd=folder).stdout)
    assert (plain["attribution"], plain["staleness"]) == ([], [])


def test_serve_on_another_recording(folder: Path) -> None:
    command = ("gap", "loads.json", *MACHINE, "--layers", "1", "--json", "-", "--serve-on")
    same = json.loads(eplb_opt(*command, "loads.json", cwd=folder).stdout)
    (layer,) = same["staleness"][0]["layers"]
    assert layer["layer"] == 1
    assert layer["terms"]["staleness"]["high_exact"] == "0/1"
    other = json.loads(eplb_opt(*command, "other.json", cwd=folder).stdout)
    (layer,) = other["staleness"][0]["layers"]
    assert (other["instance"]["source"], other["placed_on"]) == ("other.json", "loads.json")
    assert Fraction(layer["terms"]["staleness"]["low_exact"]) > 0
    (rank_loads,) = other["policies"][0]["rank_loads"]  # of the layer asked for, not of layer 0
    assert sum(rank_loads) == pytest.approx(sum(LOADS[1]))
    table = eplb_opt(*command[:-3], "--serve-on", "other.json", "--explain", cwd=folder).stdout
    assert "placed on loads.json, served other.json" in table
    for word in ("hindsight", "optimality", "staleness", "= regret", "= own"):
        assert word in table


def test_intervals_are_not_broken_and_windows_are_said(folder: Path) -> None:
    command = ("gap", "trace.npy", "--physical", 10, "--gpus", 5, "--objective", "mean",
               "--time-limit", 0, "--serve-on", "next", "--explain")  # fmt: skip
    lines = eplb_opt(*command, cwd=folder).stdout.splitlines()
    assert "2 windows x 2 layers, counted from 0: layer 2 w + i is row i of window w" in lines
    (row,) = (line for line in lines if line.startswith(" deepseek"))
    assert row.count(" .. ") >= 4


def test_serve_on_the_next_step(folder: Path) -> None:
    command = ("gap", "trace.npy", *MACHINE, "--serve-on", "next", "--json", "-")
    document = json.loads(eplb_opt(*command, cwd=folder).stdout)
    reference = document["reference"]
    assert [r["mean_load"] * 8 for r in reference] == [31, 1450, 1450, 31]
    assert [layer["layer"] for layer in document["staleness"][0]["layers"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("loads", "other", "message"),
    [
        ("loads.json", "next", "needs a trace of at least two steps"),
        ("loads.json", "missing.json", "missing.json"),
        ("loads.json", "short.csv", "num_layers=1"),
        ("loads.json", "narrow.csv", "narrow.csv: it has 2 experts a layer, but loads.json has 8"),
    ],
)
def test_loads_that_cannot_be_served(folder: Path, loads: str, other: str, message: str) -> None:
    (folder / "short.csv").write_text("1,2,3,4,5,6,7,8\n")
    (folder / "narrow.csv").write_text("1,2\n3,4\n")
    result = eplb_opt("gap", loads, *MACHINE, "--serve-on", other, cwd=folder)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_an_interrupted_split_says_over_how_many_layers_its_mean_is() -> None:
    """A mean over one layer was shown as if it were the whole."""

    def stop_at_the_second(what: str, done: int, _total: int) -> None:
        if (what, done) == ("attribution", 1):
            raise KeyboardInterrupt

    instance = Instance([[3, 1, 1], [0, 0, 0], [5, 2, 1], [4, 1, 1]], Topology(4, 2))
    report = measure_gap(instance, explain=True, progress=stop_at_the_second)
    assert report.interrupted
    assert "mean over only 1 of the 3 layers with load" in how_to_read(report.attribution, 3)
    whole = measure_gap(instance, explain=True)
    assert "mean over 3 layers with load" in how_to_read(whole.attribution, 3)
    document = documents.gap(report)
    assert document["interrupted"]
    assert document["attribution"][0]["num_layers"] == 1


def test_the_served_loss_of_a_trace(folder: Path) -> None:
    trace = [[LOADS[0], LOADS[1]], [LOADS[1], LOADS[0]], [[0] * 8, LOADS[1]], [[0] * 8, [0] * 8]]
    np.save(folder / "steps.npy", trace)
    command = ("gap", "steps.npy", *MACHINE, "--objective", "mean", "--dispatch", "optimal",
               "--time-limit", 0, "--explain", "--json", "gap.json")  # fmt: skip
    result = eplb_opt(*command, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    line = "objective mean, optimal dispatch, 4 steps; 1 to 2 of them without load, which cost 0"
    for word in (line, "served loss", "constancy", "EVPI", "vss"):
        assert word in result.stdout
    document = json.loads((folder / "gap.json").read_text())
    assert document["instance"]["num_steps"] == 4
    (policy,), (split,) = document["policies"], document["attribution"]
    assert f"{100 * policy['loss_mean']:.3f} %" in result.stdout
    assert f"{100 * split['mean']['total']:.2f}" in result.stdout
    assert [layer["mean_load"] for layer in document["reference"]] == [1481 / 32, 1512 / 32]


def test_shares_that_fit_the_steps_seen(folder: Path) -> None:
    """Two ranks hold the expert. Seen was load beside it on one, served is load on the other."""
    (folder / "place.py").write_text("rebalance_experts = lambda *_: [[0, 1, 0, 2]]")
    np.save(folder / "seen.npy", [[[4, 4, 0]], [[4, 4, 0]]])
    np.save(folder / "served.npy", [[[4, 0, 4]]])
    command = ("gap", "seen.npy", "--redundant", 1, "--gpus", 2, "--policy", "place.py", "--json",
               "-", "--objective", "mean", "--dispatch", "fixed", "--serve-on")  # fmt: skip
    for steps, makespan in (("seen.npy", 4), ("served.npy", 8)):
        done = eplb_opt(*command, steps, cwd=folder)
        document = json.loads(done.stdout)
        assert document["policies"][0]["layers"][0]["makespan"] == makespan
    (split,) = document["attribution"]
    assert split["mean"]["terms"]["dispatch"]["low_exact"] == "1/1"
    assert split["mean"]["sums"]["placement"]["high_exact"] == "0/1"
