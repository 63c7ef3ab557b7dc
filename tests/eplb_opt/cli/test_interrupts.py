"""Being stopped by real signals: what is done is kept, written and marked; exit 130 and 143."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eplb_opt.io import read_placed_for, read_placements
from tests.command_line import PROGRAM, eplb_opt, heed_interrupts

MACHINE = ["--redundant", "8", "--gpus", "8"]
LONG = ["--tolerance", "0", "--time-limit", "60"]
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
ENDLESS = """
import pathlib

def rebalance_experts(*_):
    pathlib.Path(__file__).with_name("called").touch()
    while True:
        pass
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of other systems")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    chance = np.random.default_rng(0)
    np.save(tmp_path / "loads.npy", chance.lognormal(0, 1, (3, 40)))
    np.save(tmp_path / "trace.npy", chance.integers(1, 1000, (60, 3, 16)))
    (tmp_path / "endless.py").write_text(ENDLESS)
    return tmp_path


TALKATIVE = """
from eplb_opt.cli import main, output

output.SPEAK_EVERY = 0.05
main()
"""


class Stopped:
    """A command that got a signal once it had come as far as asked for."""

    def __init__(
        self, folder: Path, arguments: list[str], number: int, *, after: float = 60, said: str = ""
    ) -> None:
        """The signal comes a second after the command has said this on stderr, once the endless
        policy is called, or ``after`` seconds.
        """
        program = [sys.executable, "-c", TALKATIVE] if said else PROGRAM
        errors = folder / "errors"
        with errors.open("w") as stream:
            process = subprocess.Popen(
                [*program, *arguments],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                preexec_fn=heed_interrupts,
            )
        deadline = time.monotonic() + after
        while time.monotonic() < deadline and not (folder / "called").exists():
            if said and said in errors.read_text():
                time.sleep(1)
                break
            time.sleep(0.02)
        process.send_signal(number)
        self.output, _ = process.communicate(timeout=60)
        self.code, self.errors = process.returncode, errors.read_text()
        assert "Traceback" not in self.errors


def document(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text())
    assert found["interrupted"] is True
    return found


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_stopped_solve_writes_every_output_that_was_asked_for(folder, number, code) -> None:
    """Ctrl-C with --placements ended in an error and lost all outputs; SIGTERM lost them always."""
    outputs = ["--placements", "p.npz", "--certificate", "c.json", "--json", "o.json"]
    found = Stopped(
        folder, ["solve", "loads.npy", *MACHINE, *LONG, *outputs], number, said="layer 0"
    )
    assert found.code == code
    assert found.errors.endswith("eplb-opt: interrupted: 0 of 3 layers are done, one is begun\n")
    assert "layer" in found.output
    (layer,) = document(folder / "o.json")["layers"]
    assert layer["limit"] == "interrupt"
    assert layer["objective"] >= layer["lower_bound"] > 0
    assert read_placements(folder / "p.npz")["exact"].tolist() == [layer["phy2log"]]
    placed_for = read_placed_for(folder / "p.npz")
    assert placed_for is not None
    assert placed_for.layers == (0,)
    document(folder / "c.json")
    assert eplb_opt("verify", "c.json", cwd=folder).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_an_interrupt_ends_gap_and_not_one_policy(folder, number, code) -> None:
    policies = ["deepseek", "endless.py", "refined"]
    options = [word for name in policies for word in ("--policy", name)]
    outputs = ["--placements", "p.json", "--json", "o.json"]
    found = Stopped(folder, ["gap", "loads.npy", *MACHINE, *options, *outputs], number)
    assert found.code == code
    assert "eplb-opt: interrupted: 1 of 3 policies are measured" in found.errors
    report = document(folder / "o.json")
    assert [p["status"] for p in report["policies"]] == ["ok", "error", "error"]
    assert [p["message"] for p in report["policies"]] == ["", "interrupted", "interrupted"]
    assert [r["status"] for r in report["reference"]] == ["bound"] * 3
    assert list(read_placements(folder / "p.json")) == ["deepseek"]


def test_outputs_without_content_are_named(folder) -> None:
    command = ["gap", "loads.npy", *MACHINE, "--policy", "endless.py", "--placements", "p.npz"]
    found = Stopped(folder, command, signal.SIGINT)
    assert found.code == 130
    assert "--placements p.npz is not written: no policy has a placement" in found.errors
    assert not (folder / "p.npz").exists()


@pytest.mark.slow
def test_stopped_replay_keeps_the_steps_until_then(folder) -> None:
    options = ["--redundant", "16", "--gpus", "8", "--policy", "endless.py", "--interval", "4"]
    command = ["replay", "trace.npy", *options, "--json", "o.json"]
    found = Stopped(folder, command, signal.SIGTERM)
    assert found.code == 143
    (policy,) = document(folder / "o.json")["policies"]
    assert len(policy["steps"]["balancedness"]) >= 1


def test_stopped_check_writes_junit(folder) -> None:
    found = Stopped(folder, ["check", "endless.py", "--junit", "j.xml"], signal.SIGINT)
    assert found.code == 130
    assert "eplb-opt: interrupted: 0 checks are done, others are not" in found.errors
    assert 'message="interrupted"' in (folder / "j.xml").read_text()


@pytest.mark.parametrize(
    ("number", "after"), [(signal.SIGINT, 0.4), (signal.SIGTERM, 0.9), (signal.SIGINT, 1.4)]
)
def test_a_signal_while_modules_are_imported_is_one_line(folder, number, after) -> None:
    """torch aborted the process, numpy printed a traceback and went on."""
    found = Stopped(folder, ["gap", "loads.npy", *MACHINE, "--explain"], number, after=after)
    assert found.code == 128 + number
    assert found.errors.strip().startswith("eplb-opt: interrupted: ")


ATTACK = ["attack", "deepseek", "--experts", "8", "--redundant", "8", "--gpus", "8"]
ATTACK += ["--seconds", "60", "-o", "t.py", "--certificate", "c.json"]


def check_attack(folder: Path, found: Stopped) -> None:
    assert found.code == 130
    assert "eplb-opt: interrupted: " in found.errors
    if "ratio" in found.output:
        document(folder / "c.json")
        assert "def test_" in (folder / "t.py").read_text()


@pytest.mark.slow
def test_an_interrupt_ends_an_attack(folder) -> None:
    """The search took what Ctrl-C cut off for a layer without proof, and went on to the next."""
    found = Stopped(folder, ATTACK, signal.SIGINT, said="worst 1.")
    assert "ratio" in found.output
    check_attack(folder, found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_attacks_end_at_random_moments(folder) -> None:
    chance = random.Random(0)
    for _ in range(20):
        after = chance.uniform(0.3, 9.0)
        check_attack(folder, Stopped(folder, ATTACK, signal.SIGINT, after=after))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", ["solve", "bound", "gap", "migrate"])
def test_outputs_are_whole_at_random_moments(folder, command) -> None:
    chance = random.Random(1)
    first = ["migrate", "initial"] if command == "migrate" else [command]
    options = ["--prove", "5"] if command == "migrate" else []
    for _ in range(12):
        (folder / "o.json").unlink(missing_ok=True)
        arguments = [*first, "loads.npy", *MACHINE, *options, "--json", "o.json"]
        number, code = chance.choice(SIGNALS)
        found = Stopped(folder, arguments, number, after=chance.uniform(0.3, 7.0))
        if found.code:
            assert found.code == code
        if (folder / "o.json").exists():
            assert json.loads((folder / "o.json").read_text())["interrupted"] == bool(found.code)


def test_an_interrupt_of_a_search_that_just_ended_is_told(monkeypatch) -> None:
    """It was proven as Ctrl-C came, the result said nothing of that, and attacks ran on."""
    from eplb_opt import Instance, Topology
    from solvers import solve
    from solvers.options import Budget

    monkeypatch.setattr(Budget, "interrupted", True)
    result = solve(Instance([[4, 3, 2, 1]], Topology(4, 2)).layer(0), stage="packing")
    assert (result.status, result.limit) == ("optimal", "interrupt")
