"""``eplb-opt migrate`` as a user runs it, and what it says of bad input."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml

from eplb_opt import Instance, Placement, Topology, bounds
from eplb_opt.certificate import needs_transfers
from eplb_opt.io import (
    PlacedFor,
    read_placed_for,
    read_placements,
    write_placements,
    write_sglang_placement,
)
from eplb_opt.problem.transfer import count_copies, count_transfers
from eplb_opt.problem.validity import find_violations
from solvers.dispatch import value
from tests.command_line import eplb_opt

MACHINE = ["--redundant", "4", "--gpus", "4"]
EXPERTS, SLOTS = 12, 16


def run(*arguments: str) -> tuple[object, str, str]:
    done = eplb_opt(*arguments)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loads = np.random.default_rng(0).integers(1, 100, (3, EXPERTS))
    loads[1] = 0
    np.save("loads.npy", loads)
    old = np.tile(np.arange(SLOTS) % EXPERTS, (3, 1))
    old[2] = old[2][::-1]
    write_placements("old.npz", {"a": Placement(old, EXPERTS)})
    write_placements("two.json", {x: Placement(old, EXPERTS) for x in "ab"})
    write_sglang_placement("sglang.json", Placement(old, EXPERTS))
    write_placements("short.npz", {"a": Placement(old[:2], EXPERTS)})
    write_placements("narrow.npz", {"a": Placement(old[:, :12], EXPERTS)})
    write_placements("other.npz", {"a": Placement(old + 4, EXPERTS + 4)})
    write_placements("missing.npz", {"a": Placement(np.zeros_like(old), EXPERTS)})


def instance() -> Instance:
    return Instance(np.load("loads.npy"), Topology(SLOTS, 4))


@pytest.mark.parametrize("budget", [0, 3, 8])
def test_json_says_what_the_placement_is(budget: int) -> None:
    arguments = ["migrate", "old.npz", "loads.npy", *MACHINE, "--budget", str(budget)]
    code, output, errors = run(*arguments, "--json", "-", "-o", "new.npz")
    assert (code, errors) == (0, "")
    document = json.loads(output)
    assert document["schema"] == "eplb-opt/migrate/1"
    old, new = read_placements("old.npz")["a"], read_placements("new.npz")["migrated"]
    assert find_violations(Placement(new, EXPERTS), instance()) == []
    assert count_transfers(old, new, 4).sum(1).max() <= budget
    for layer, row in zip(instance().layers(), document["layers"], strict=True):
        i = layer.index
        assert row["after"]["phy2log"] == new[i].tolist()
        makespan = value(layer, new[i].tolist()).incumbent
        assert Fraction(row["after"]["makespan_exact"]) == makespan
        assert Fraction(row["before"]["makespan_exact"]) >= makespan
        assert Fraction(row["lower_bound_exact"]) == bounds.of(layer).value
        assert row["after"]["received"] == count_transfers(old, new, 4)[i].sum()
        assert row["after"]["copied"] == count_copies(old, new, 4)[i].sum()
        front = [Fraction(point["makespan_exact"]) for point in row["front"]]
        assert front == sorted(front, reverse=True)
    assert [row["status"] for row in document["layers"]] == ["ok", "no-load", "ok"]
    assert document["layers"][1]["after"]["above"] is None
    steps = [step for step in (0, 5) if step < budget]
    assert [row["budget"] for row in document["front"]] == [*steps, budget]


def test_tables() -> None:
    code, output, _ = run("migrate", "sglang.json", "loads.npy", *MACHINE)
    assert code == 0
    assert "lower bound" in output
    assert "transfers at most" in output


def test_within_transfers_no_more_than_it_needs() -> None:
    transfers = []
    for ratio in ("0.0", "0.2", "9"):
        arguments = ["migrate", "initial", "loads.npy", *MACHINE, "--within", ratio, "--json", "-"]
        code, output, _ = run(*arguments)
        assert code == 0
        transfers.append(sum(row["after"]["received"] for row in json.loads(output)["layers"]))
    assert transfers == sorted(transfers, reverse=True)
    assert transfers[2] == 0


def test_a_ratio_that_is_missed_is_said() -> None:
    arguments = ["migrate", "initial", "loads.npy", *MACHINE, "--budget", "1", "--within"]
    _, output, _ = run(*arguments, "0.01")
    assert "--within 0.01 is missed in 2 of 3 layers (0, 2)" in output
    assert "transfers needed" not in output
    _, output, _ = run(*arguments, "0.01", "--prove", "5")
    assert "'transfers needed' are those for no larger a makespan" in " ".join(output.split())
    assert "missed" not in run(*arguments, "99")[1]


@pytest.mark.parametrize("ratio", ["0.05", "0.3"])
def test_prove_says_how_many_it_takes(ratio: str) -> None:
    arguments = ["migrate", "old.npz", "loads.npy", *MACHINE, "--within", ratio]
    _, output, _ = run(*arguments, "--json", "-")
    heuristic = [row["after"]["received"] for row in json.loads(output)["layers"]]
    code, output, _ = run(*arguments, "--prove", "20", "--json", "-")
    assert code == 0
    old = read_placements("old.npz")["a"]
    for row, least, layer in zip(
        json.loads(output)["layers"], heuristic, instance().layers(), strict=True
    ):
        after, slots = row["after"], tuple(old[layer.index].tolist())
        makespan = value(layer, after["phy2log"]).incumbent
        assert makespan <= (1 + Fraction(float(ratio))) * bounds.of(layer).value
        assert row["received_at_least"] == after["received"] <= least
        assert after["received"] == count_transfers([slots], [after["phy2log"]], SLOTS // 4).sum()
        assert needs_transfers(layer, slots, makespan, row["received_at_least"])
    _, output, _ = run(*arguments, "--prove", "20")
    assert "transfers needed" in output
    assert ", proven" in output


@pytest.mark.parametrize("old", ["old.npz", "short.npz"])
def test_layers_are_found_by_number(old: str) -> None:
    chosen = [1, 0]
    arguments = ["migrate", old, "loads.npy", *MACHINE, "--layers", "1,0", "--budget", "0"]
    code, output, _ = run(*arguments, "--json", "-")
    assert code == 0
    rows = read_placements(old)["a"][chosen]
    layers = json.loads(output)["layers"]
    assert [row["layer"] for row in layers] == chosen
    for row, before in zip(layers, rows, strict=True):
        assert count_transfers(before[None], [row["after"]["phy2log"]], 4).sum() == 0


BAD = {
    "missing": (["none.npz"], "none.npz"),
    "loads for placements": (["loads.npy"], "loads.npy"),
    "which": (["two.json"], "two.json holds a, b: choose one with --policy"),
    "unknown": (["old.npz", "--policy", "x"], "old.npz has no placement of 'x', but a"),
    "short": (["short.npz"], "short.npz: 2 layers of placements do not go with the layers 0..2"),
    "narrow": (["narrow.npz"], "narrow.npz: phy2log has shape (3, 12), expected (3, 16)"),
    "experts": (["other.npz"], "layer 0, slot 8 holds expert 12, which is not in 0..11"),
    "no expert": (["missing.npz"], "missing.npz: layer 0: expert 1 has no replica"),
    "budget": (["old.npz", "--budget", "-1"], "--budget"),
    "within": (["old.npz", "--within", "-1"], "--within"),
    "target": (["old.npz", "-o", "x.txt"], "suffix '.txt'"),
    "spread": (["old.npz", "--spread-replicas"], "--spread-replicas: migrate does not keep"),
    "rule": (
        ["old.npz", "--nodes", "2", "--groups", "2"],
        "old.npz: layer 0: group 0 has replicas on nodes [0, 1]",
    ),
    "initial": (["initial", "--nodes", "2", "--groups", "2"], "OLD initial: slots in order break"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str) -> None:
    arguments, message = BAD[case]
    old, *options = arguments
    code, output, errors = run("migrate", old, "loads.npy", *MACHINE, *options)
    assert code == 2
    assert output == ""
    assert errors.startswith("eplb-opt: error: ")
    assert errors.count("\n") == 1
    assert message in errors


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_a_placement_of_another_machine_is_refused_by_what_differs(
    suffix: str,
) -> None:
    gap = ["gap", "loads.npy", *MACHINE, "--nodes", "2", "--groups", "2", "--layers", "0,2"]
    assert run(*gap, "--placements", f"placed{suffix}")[0] == 0
    migrate = ["migrate", f"placed{suffix}", "loads.npy", "--redundant", "4"]
    same = [*migrate, "--gpus", "4", "--nodes", "2", "--groups", "2"]
    assert run(*same, "--layers", "2", "-o", f"new{suffix}")[0] == 0
    code, _, errors = run(*same, "--layers", "1")
    assert (code, errors.count("\n")) == (2, 1)
    assert f"placed{suffix}: has no placement of layer 1, but of [0, 2]: see --layers" in errors
    code, _, errors = run(*migrate, "--gpus", "8")
    assert (code, errors.count("\n")) == (2, 1)
    assert f"placed{suffix}: was placed for num_ranks=4, not 8; num_nodes=2, not 1; " in errors
    assert "num_groups=2, not 1; rule=hierarchical, not global: give the machine" in errors
    chained = [*same, "--layers", "2"]
    chained[1] = f"new{suffix}"
    assert run(*chained)[0] == 0
    chained[1] = "old.npz"
    assert "group 0 has replicas on nodes" in run(*chained)[2]


def layers_of(path: str) -> list[int]:
    return list(yaml.safe_load(Path(path).read_text())["initial_global_assignments"])


def test_conversion_keeps_machine_and_layers() -> None:
    gap = ["gap", "loads.npy", *MACHINE, "--layers", "1,2", "--placements", "p.npz"]
    assert run(*gap)[0] == 0
    for target in ("p.json", "back.npz"):
        assert run("convert", "p.npz", target, "--to", "placements")[0] == 0
        assert read_placed_for(target) == PlacedFor.of(instance().select([1, 2]))
    assert run("convert", "p.json", "p.yaml", "--to", "trtllm")[0] == 0
    assert layers_of("p.yaml") == [1, 2]
    code, _, errors = run("convert", "p.npz", "s.json", "--to", "sglang")
    assert (code, errors.count("\n")) == (2, 1)
    assert "--to sglang: rows are all layers of the model, but these are of [1, 2]" in errors
    assert not Path("s.json").exists()
    assert run("convert", "old.npz", "o.yaml", "--to", "trtllm")[0] == 0
    assert list(yaml.safe_load(Path("o.yaml").read_text())["initial_global_assignments"]) == [
        0,
        1,
        2,
    ]
