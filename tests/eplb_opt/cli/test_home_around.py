"""Under the rule home: from a placement to an engine's file, to a few transfers, to a replay."""

import json
from pathlib import Path

import numpy as np
import pytest

from eplb_opt import Instance, Topology
from eplb_opt.io import read_placements
from eplb_opt.problem.homes import traffic
from eplb_opt.report.page import percent, render
from eplb_opt.report.replays import describe
from tests.command_line import eplb_opt

STEPS = np.array([[[6, 2, 1, 1], [3, 3, 2, 2]]] * 4 + [[[1, 2, 7, 1], [3, 9, 2, 2]]] * 4)
MACHINE = ("--redundant", 2, "--gpus", 2, "--nodes", 2, "--groups", 2)
HOME = (*MACHINE, "--rule", "home", "--traffic", "0.2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    np.save(folder / "trace.npy", STEPS)
    command = ("gap", "trace.npy", "--steps", ":4", *HOME, "--time-limit", 0)
    done = eplb_opt(*command, "--policy", "refined", "--placements", "old.npz", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_a_placement_becomes_an_engine_s_file(folder: Path) -> None:
    done = eplb_opt("convert", "old.npz", "init.json", "--to", "sglang", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((folder / "init.json").read_text())["physical_to_logical_map"]
    assert written == read_placements(folder / "old.npz")["refined"].tolist()


def test_a_few_transfers_keep_the_limit(folder: Path) -> None:
    command = ("migrate", "old.npz", "trace.npy", "--steps", "4:", *HOME, "--budget", 2)
    done = eplb_opt(*command, "--json", "plan.json", "-o", "new.npz", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "traffic after" in done.stdout
    assert "OLD is above" not in done.stdout
    layers = json.loads((folder / "plan.json").read_text())["layers"]
    machine = Topology(6, 2, 2, 2)
    now = Instance(STEPS[4:], machine, "home", traffic_limit=0.2)
    for layer, row in zip(now.layers(), layers, strict=True):
        assert row["after"]["traffic"] == float(traffic(layer, row["after"]["phy2log"])) <= 0.2
    wrong = eplb_opt("migrate", "initial", *command[2:], cwd=folder)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "break the rule 'home'" in wrong.stderr
    wrong = eplb_opt(*command[:5], *MACHINE, "--rule", "hierarchical", cwd=folder)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "rule=home, not hierarchical" in wrong.stderr


def test_a_placement_above_the_limit_is_not_under_the_bound(folder: Path) -> None:
    command = ("migrate", "old.npz", "trace.npy", *HOME[:-1], "0.01", "--budget", 4)
    done = eplb_opt(*command, cwd=folder)
    assert "OLD is above --traffic 0.01 in 2 of 2 layers (0, 1): 'now' may be" in done.stdout


def test_a_replay_shows_traffic(folder: Path) -> None:
    command = ("replay", "trace.npy", *HOME, "--policy", "refined", "--interval", 2)
    done = eplb_opt(*command, "--json", "replay.json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "home rule, traffic up to 0.2" in done.stdout
    document = json.loads((folder / "replay.json").read_text())
    assert document["instance"]["traffic_limit"] == 0.2
    pytest.importorskip("matplotlib")
    html = render("replay.html.j2", [], describe(document))
    assert "2 nodes, 2 groups at home, traffic up to 0.2" in html
    assert "--traffic 0.2" in html
    assert f"<td>{percent(document['policies'][0]['traffic'])}</td>" in html
    (refined,) = document["policies"]
    assert 0 < refined["traffic"] < 1
    assert all(0 <= i["traffic"] <= 1 for i in refined["intervals"] if i["served"] is not None)
