"""--tolerance, --time-limit, --time-budget, and what is said meanwhile."""

import json
import time
from fractions import Fraction
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from eplb_opt.cli import cli, output
from eplb_opt.cli.solve import LayerTimes
from eplb_opt.io import write_loads
from eplb_opt.io.synthetic import generate
from solvers.tree_search import count_vectors


@pytest.fixture
def many(tmp_path: Path) -> str:
    """Twelve layers that no search proves in a tenth of a second."""
    path = tmp_path / "many.npy"
    write_loads(path, generate("lognormal", num_layers=12, num_experts=48, tokens=10**6, seed=0))
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


def layers(*arguments: str) -> list[dict[str, object]]:
    result = run(*arguments, "--json", "-")
    assert result.return_value == 0, result.exception
    found: list[dict[str, object]] = json.loads(result.stdout)["layers"]
    return found


def test_each_layer_has_a_share_of_what_is_left() -> None:
    times = LayerTimes.of(None, 10.0, 60.0)
    assert [times.share(0, 5), times.share(4, 3), times.share(11, 2)] == [2, 2, 0]
    assert LayerTimes.of(1.5, 10.0, 60.0).share(0, 5) == 1.5
    assert LayerTimes.of(1.5, None, 60.0).share(100, 5) == 1.5
    assert LayerTimes.of(None, None, 60.0).share(0, 6) == 10


@pytest.mark.parametrize("command", ["solve", "bound"])
def test_a_time_budget_is_for_all_layers_and_the_table_says_so(many: str, command: str) -> None:
    """Without one, a bound of 58 layers ran 300 s without a word."""
    machine = [many, "--physical", "72", "--gpus", "24", "--tolerance", "0"]
    found = layers(command, *machine, "--time-budget", "0.6")
    assert len(found) == 12
    assert {layer["limit"] for layer in found} == {"time"}
    table = run(command, *machine, "--time-budget", "0.3").stdout
    assert "limit" in table
    assert table.count("time") >= 12


def test_a_tolerance_of_a_tenth_of_a_thousandth_is_usual_beyond_24_slots(many: str) -> None:
    machine = [many, "--physical", "50", "--gpus", "5", "--time-limit", "60"]
    for layer in layers("solve", *machine):
        assert layer["limit"] == ("tolerance" if layer["gap"] else None)
        assert layer["gap"] <= 1e-4
    loose = layers("solve", *machine, "--tolerance", "0.2")
    assert max(layer["gap"] for layer in loose) > 1e-4


def test_up_to_24_slots_a_full_proof_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "small.npy"
    write_loads(path, generate("lognormal", num_layers=2, num_experts=16, tokens=10**6, seed=0))
    for layer in layers("solve", str(path), "--physical", "24", "--gpus", "6"):
        exact = [Fraction(str(layer[f"{x}_exact"])) for x in ("objective", "lower_bound")]
        assert (layer["status"], layer["limit"]) == ("optimal", None)
        assert exact[0] == exact[1]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tolerance", "-1"),
        ("--tolerance", "nan"),
        ("--time-budget", "-1"),
        ("--time-budget", "nan"),
    ],
)
def test_limits_that_are_no_limits_are_refused(many: str, option: str, value: str) -> None:
    result = run("solve", many, "--physical", "72", "--gpus", "24", option, value)
    assert isinstance(result.exception, click.BadParameter)
    assert option in result.exception.format_message()


def test_progress_is_said_every_few_seconds_where_stderr_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "SPEAK_EVERY", 0.02)
    with output.progress_bar() as progress:
        progress("layer 7", 3, 58)
        time.sleep(0.5)
    said = capsys.readouterr().err.splitlines()
    assert set(said) == {"eplb-opt: layer 7, 3 of 58 done"}
    assert len(said) > 3


def test_compiling_before_the_first_layer_is_said(
    many: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 28 s on a fresh machine passed without a word."""
    monkeypatch.setattr(output, "SPEAK_EVERY", 0.02)
    monkeypatch.setattr(count_vectors, "compile_searches", lambda: time.sleep(0.5))
    result = run("bound", many, "--physical", "48", "--gpus", "4", "--tolerance", "0.5")
    assert "compiling the searches" in result.stderr


@pytest.mark.parametrize("how", [["--explain"], ["--serve-on", "many.npy"]])
def test_the_split_of_a_loss_waits_for_compilation(
    how: list[str], many: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a fresh machine a loss of 0.67 to 0.69 was said to be 0.00 to 0.69."""
    compiled: list[int] = []
    monkeypatch.setattr(count_vectors, "compile_searches", lambda: compiled.append(1))
    how = [many if word == "many.npy" else word for word in how]
    run("gap", many, "--physical", "48", "--gpus", "4", "--policy", "deepseek", *how)
    assert compiled == [1]


def test_a_quick_command_says_nothing(many: str) -> None:
    result = run("bound", many, "--physical", "48", "--gpus", "4", "--time-limit", "0")
    assert result.stderr == ""


def test_recorded_loads_end_by_themselves(recorded: Path) -> None:
    source = next((recorded / "deepseek_v3").glob("prefill_in2048.json"))
    found = layers("bound", str(source), "--redundant", "32", "--gpus", "32", "--layers", "3-12")
    assert {layer["limit"] for layer in found} <= {None, "tolerance"}
