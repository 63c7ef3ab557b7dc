"""Placements written, read back, and in the form that serving engines take."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import yaml

from eplb_opt import Instance, Placement, Rule, Topology
from eplb_opt.io import (
    FormatError,
    PlacedFor,
    read_placed_for,
    read_placements,
    write_placements,
    write_sglang_placement,
    write_trtllm_placement,
)

PLACEMENT = Placement([[0, 1, 0, 2], [2, 1, 1, 0]], num_logical_experts=3)
OTHER = Placement([[2, 1, 0, 2], [2, 1, 0, 0]], num_logical_experts=3)


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_placements_of_all_policies_are_read_back(suffix, tmp_path):
    path = tmp_path / f"placements{suffix}"
    given = {"refined": PLACEMENT, "folder/my.py:file": OTHER, "file": OTHER}
    write_placements(path, given)
    back = read_placements(path)
    assert list(back) == list(given)
    for policy, phy2log in back.items():
        assert phy2log.dtype == np.int64
        np.testing.assert_array_equal(phy2log, given[policy].phy2log)


def test_numpy_reads_the_npz_too(tmp_path):
    write_placements(tmp_path / "a.npz", {"refined": PLACEMENT})
    with np.load(tmp_path / "a.npz") as archive:
        np.testing.assert_array_equal(archive["refined"], PLACEMENT.phy2log)


def test_sglang_takes_the_one_key_and_no_other(tmp_path):
    path = tmp_path / "placement.json"
    write_sglang_placement(path, PLACEMENT)
    assert json.loads(path.read_text()) == {"physical_to_logical_map": [[0, 1, 0, 2], [2, 1, 1, 0]]}
    with pytest.raises(ValueError, match=r"reads placements from .json only, not '.pt'"):
        write_sglang_placement(tmp_path / "placement.pt", PLACEMENT)


@pytest.mark.parametrize(("layers", "keys"), [(None, [0, 1]), ((3, 4), [3, 4])])
def test_tensorrt_llm_takes_slots_by_layer_number(layers, keys, tmp_path):
    path = tmp_path / "moe_load_balancer.yaml"
    write_trtllm_placement(path, PLACEMENT, layers=layers)
    config = yaml.safe_load(path.read_text())
    assert config == {
        "num_slots": 4,
        "initial_global_assignments": dict(zip(keys, [[0, 1, 0, 2], [2, 1, 1, 0]], strict=True)),
        "layer_updates_per_iter": 0,
    }
    assert len(path.read_text().splitlines()) == 5


@pytest.mark.parametrize("layers", [(3,), (3, 3), (3, 4, 5)])
def test_layer_numbers_must_match_the_rows(layers, tmp_path):
    with pytest.raises(ValueError, match="must be 2 different layer numbers, one per row"):
        write_trtllm_placement(tmp_path / "a.yaml", PLACEMENT, layers=layers)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            b'{"logical_count": [[0]]}',
            "expected schema 'eplb-opt/placements/1'",
        ),
        ("a.json", b'{"schema": "eplb-opt/placements/1", "phy2log": 3}', "is not a mapping"),
        (
            "a.json",
            b'{"schema": "eplb-opt/placements/1", "phy2log": {"x": [[0.5]]}}',
            r"phy2log of 'x' is float64 \(1, 1\), expected integers",
        ),
        (
            "a.json",
            b'{"schema": "eplb-opt/placements/1", "phy2log": {"x": [[0], [1, 2]]}}',
            "phy2log of 'x' is ragged",
        ),
        ("a.npz", b"PK\x03\x04", "not a readable .npz"),
        ("a.npz", b"", "not a readable JSON"),
    ],
)
def test_what_holds_no_placements_is_refused(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_placements(path)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"suffix '.yaml' is not one of .json, .npz"):
        write_placements(tmp_path / "a.yaml", {"refined": PLACEMENT})


def test_sglang_s_placement_is_read_back(tmp_path):
    placement = Placement([[0, 1, 2, 0], [2, 1, 0, 1]], 3)
    write_sglang_placement(tmp_path / "p.json", placement)
    maps = read_placements(tmp_path / "p.json")
    assert list(maps) == ["sglang"]
    assert maps["sglang"].tolist() == placement.phy2log.tolist()


INSTANCE = Instance([[3, 1, 2], [0, 5, 4], [1, 1, 1]], Topology(4, 2)).select([2, 0])


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_machine_and_layers_stand_beside_the_placements(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    write_placements(path, {"refined": PLACEMENT}, placed_for=PlacedFor.of(INSTANCE))
    placed_for = read_placed_for(path)
    assert placed_for == PlacedFor(3, Topology(4, 2), Rule.GLOBAL, (2, 0))
    assert list(read_placements(path)) == ["refined"]
    placed_for.require(path, INSTANCE)
    placed_for.require(
        path, Instance(INSTANCE.loads, Topology(4, 2, 2, 3))
    )  # no rule looks at them
    with pytest.raises(FormatError, match=r"for num_ranks=2, not 1: give the machine and rule"):
        placed_for.require(path, Instance(INSTANCE.loads, Topology(4, 1)))
    rows = placed_for.rows(path, PLACEMENT.phy2log, [0])
    np.testing.assert_array_equal(rows, PLACEMENT.phy2log[1:])
    np.testing.assert_array_equal(placed_for.rows(path, rows, [0]), rows)
    with pytest.raises(FormatError, match=r"no placement of layer 1, but of \[2, 0\]"):
        placed_for.rows(path, PLACEMENT.phy2log, [0, 2, 1])


@pytest.mark.parametrize("name", ["a.json", "a.npz"])
def test_the_rule_home_and_its_limit_are_remembered(name, tmp_path):
    machine, loads = Topology(6, 2, 2, 2), [[5, 3, 2, 1]]
    home = Instance(loads, machine, "home", traffic_limit="1/3")
    placement = Placement([[0, 1, 2, 2, 3, 0]], num_logical_experts=4)
    write_placements(tmp_path / name, {"refined": placement}, placed_for=PlacedFor.of(home))
    found = read_placed_for(tmp_path / name)
    assert found == PlacedFor.of(home)
    assert (found.rule, found.traffic_limit) == (Rule.HOME, Fraction(1, 3))
    found.require(tmp_path / name, Instance(loads, machine, "home", traffic_limit=0.1))
    with pytest.raises(FormatError, match="rule=home, not hierarchical"):
        found.require(tmp_path / name, Instance(loads, machine))
    PlacedFor.of(Instance(loads, machine)).require(tmp_path / name, home)  # it follows the rule


def test_numpy_sees_placements_and_nothing_else_in_an_npz(tmp_path):
    path = tmp_path / "a.npz"
    write_placements(path, {"refined": PLACEMENT}, placed_for=PlacedFor.of(INSTANCE))
    with np.load(path) as archive:
        assert archive.files == ["refined"]
    np.savez(path, refined=PLACEMENT.phy2log)
    assert read_placed_for(path) is None


def test_files_that_do_not_name_a_machine_are_read_as_before(tmp_path):
    write_placements(tmp_path / "a.json", {"refined": PLACEMENT})
    write_sglang_placement(tmp_path / "b.json", PLACEMENT)
    many = replace(PlacedFor.of(INSTANCE), layers=tuple(range(10**5)))
    write_placements(tmp_path / "c.npz", {"refined": PLACEMENT}, placed_for=many)  # too long for it
    for name in ("a.json", "b.json", "c.npz"):
        assert read_placed_for(tmp_path / name) is None
        assert len(read_placements(tmp_path / name)) == 1


@pytest.mark.parametrize("damage", ["{}", "3", '{"num_ranks": 2}'])
def test_a_damaged_machine_is_refused(damage, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(f'{{"schema": "eplb-opt/placements/1", "phy2log": {{}}, "instance": {damage}}}')
    with pytest.raises(FormatError, match="instance is damaged"):
        read_placed_for(path)
