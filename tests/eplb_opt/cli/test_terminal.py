"""What names and messages print: no sequence that steers a terminal, no byte that is no text."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.command_line import PROGRAM, eplb_opt

MACHINE = ["--redundant", "2", "--gpus", "3"]
NAME = b"loads\xff\x1b[31m.json"
SHOWN = rb"loads\udcff\x1b[31m.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    try:
        (tmp_path / os.fsdecode(NAME)).write_text("[[4, 3, 2, 1]]")
    except OSError:
        pytest.skip("no such names here")
    return tmp_path


def run(folder: Path, *arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    command = [*PROGRAM, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False)


def test_names_are_escaped_in_tables_and_errors(folder):
    done = run(folder, "gap", NAME, *MACHINE, "--json", NAME + b".gap")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(SHOWN + b": 1 layer, 4 experts")
    assert b"\x1b" not in done.stdout
    wrong = run(folder, "gap", NAME, "--redundant", "3", "--gpus", "3")
    assert (wrong.returncode, wrong.stderr.count(b"\n")) == (2, 1)
    assert wrong.stderr.startswith(b"eplb-opt: error: " + SHOWN)


def test_a_page_about_such_a_file_is_made(folder):
    pytest.importorskip("matplotlib")
    name = os.fsdecode(NAME)
    assert eplb_opt("gap", name, *MACHINE, "--json", "gap.json", cwd=folder).returncode == 0
    assert eplb_opt("report", "gap.json", "-o", f"{name}.html", cwd=folder).returncode == 0
    assert rb"loads\udcff" in (folder / f"{name}.html").read_bytes()
