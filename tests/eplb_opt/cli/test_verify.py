"""``eplb-opt verify``: what is shown, and its exit codes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eplb_opt import certificate
from eplb_opt.certificate import CheckBudget, writing
from eplb_opt.cli import cli
from eplb_opt.cli.errors import InputError
from tests.eplb_opt.certificate.documents import EXHAUSTIVE, of_one, of_steps

DATA = Path(__file__).parents[1] / "certificate" / "data"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "certificate.json"


def verify(file: Path, document: dict[str, Any] | None = None, *options: str) -> Result:
    if document is not None:
        file.write_text(json.dumps(document))
    return CliRunner().invoke(cli, ["verify", str(file), *options], standalone_mode=False)


def test_a_bound_for_given_counts_is_shown_as_such(file: Path) -> None:
    counts = {"stage": "packing", "counts": [9, 1, 1, 1]}
    found = verify(file, of_one([100, 1, 1, 1], 12, 4, "103/4", **counts))
    assert found.return_value == 0
    assert "packing, counts given" in found.output
    assert "joint" in verify(file, of_one([100, 1, 1, 1], 12, 4, "103/4")).output


def test_too_large_is_a_verdict_and_exit_code_1(file: Path) -> None:
    found = verify(file, of_one([1] * 1500, 3000, 2, "751", EXHAUSTIVE))
    assert found.return_value == 1
    assert "too large to check" in found.output
    trusted = of_one([1, 1], 2, 2, "1", {"kind": "trusted", "solver": "x"})
    assert verify(file, trusted).return_value == 0
    assert verify(file, trusted, "--strict").return_value == 1


def test_values_beyond_the_range_of_floats_are_shown(file: Path) -> None:
    found = verify(file, of_one([10**400, 1], 2, 2, str(10**400)))
    assert found.return_value == 0
    assert "1.000e+400" in found.output


def test_a_pipe_is_not_waited_for(file: Path) -> None:
    os.mkfifo(file)
    found = verify(file)
    assert isinstance(found.exception, InputError)
    assert "is no regular file" in str(found.exception)


def test_solve_says_for_which_layers_the_proof_is_too_large(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = tmp_path / "loads.json"
    loads.write_text(json.dumps([[600, 560, 120, 120, 20, 10, 10, 10], [1] * 8]))
    command = ["solve", str(loads), "--physical", "16", "--gpus", "8", "--certificate", str(file)]
    monkeypatch.setattr(writing, "CheckBudget", lambda: CheckBudget(1500))
    found = CliRunner().invoke(cli, command, standalone_mode=False)
    assert found.return_value == 0
    assert "the proof is too large to check again, and left out, for layers 0\n" in found.stderr
    assert [v.trust.name for v in certificate.verify_document(json.loads(file.read_text()))] == [
        "TRUSTED",
        "VERIFIED",
    ]
    assert verify(file, None).return_value == 0
    assert verify(file, None, "--strict").return_value == 1


TRACE = [[[4, 1, 1, 3]], [[1, 4, 2, 1]], [[1, 1, 5, 0]]]


def test_objective_dispatch_and_steps_are_shown(file: Path) -> None:
    found = verify(file, of_steps(TRACE, 6, 3, instance={"objective": "cvar:1/2"}))
    assert found.return_value == 0
    assert "objective cvar:0.5 over 3 steps, dispatch optimal" in found.output
    assert "objective" not in verify(file, of_one([1, 1], 2, 2)).output.partition("layer")[0]


def test_what_other_shares_could_cost_is_shown(file: Path) -> None:
    document = certificate.parse_document((DATA / "cvar_fixed.json").read_bytes())
    found = verify(file, document)
    assert found.return_value == 0
    assert "any shares" in found.output
    assert "3.864" in found.output


def test_a_value_on_trust_is_shown_as_such(file: Path) -> None:
    placed = {"phy2log": [0, 1, 2, 3, 0, 2], "objective_exact": "9", "status": "feasible",
              "value_evidence": {"kind": "trusted", "solver": "x"}}  # fmt: skip
    found = verify(file, of_steps(TRACE, 6, 3, **placed))
    assert found.return_value == 0
    assert "value trusted, not verified" in found.output
    assert verify(file, None, "--strict").return_value == 1
