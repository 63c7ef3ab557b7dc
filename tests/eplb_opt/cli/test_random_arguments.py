"""Whatever the arguments, the answer is an exit code and at most one line of error."""

from __future__ import annotations

import json
import os
import random

import pytest

from tests.command_line import eplb_opt

COMMANDS = [
    "gap", "solve", "bound", "verify", "convert", "generate", "policies", "export", "report",
    "sweep", "check", "attack", "replay", "migrate",
]  # fmt: skip
WORDS = [
    "loads.json", "none.json", "out.json", "out.html", "spec.yaml", ".", "-", "--", "", "é",
    "\n", "0", "1", "2", "3", "-1", "1e9", "nan", "inf", "99999999999999999999", "a:b", "0:1",
    "0-3", "deepseek", "refined", "a + b", "x.py", "x.py:", "lognormal", "zipf", "global",
    "hierarchical", "home", "0.1", "0.05,0.1", "8,7168,400,0.2", "joint", "packing",
    "scip", "4GB", "-4GB", "tcp://",
]  # fmt: skip
OPTIONS = [
    "--redundant", "--physical", "--gpus", "--nodes", "--groups", "--rule", "--layers",
    "--steps", "--policy", "--json", "--placements", "--fail-above", "--seed", "--format",
    "--stage", "--backend", "--spread-replicas", "--explain", "--serve-on", "--policy-timeout",
    "--policy-memory", "-o", "--tokens", "--experts", "--steps", "--phi", "--dry-run", "--help",
    "--strict", "--what", "--budget", "--within", "--dispatcher", "--traffic", "--travel",
]  # fmt: skip


def random_arguments(chance: random.Random) -> list[str]:
    words = [chance.choice([*COMMANDS, *WORDS[:3]])] if chance.random() < 0.95 else []
    if chance.random() < 0.6:
        words += ["loads.json", "--redundant", "2", "--gpus", "3"]
    for _ in range(chance.randint(0, 5)):
        words.append(chance.choice([*OPTIONS, *OPTIONS, *WORDS]))
    if words[:1] in (["gap"], ["solve"]):
        words += ["--time-limit", "0.2"]
    if words[:1] == ["sweep"]:
        words += ["--dry-run"]
    if words[:1] in (["check"], ["attack"]):
        words += ["--no-such-option"]  # they take long: parsing is what is tried
    return words


def try_some(count: int, seed: int) -> None:
    chance, codes = random.Random(seed), []
    with open("loads.json", "w") as file:  # noqa: PTH123
        json.dump({"logical_count": [[4, 3, 2, 1]]}, file)
    for _ in range(count):
        arguments = random_arguments(chance)
        done = eplb_opt(*arguments)
        code, errors = done.returncode, done.stderr
        assert code in (0, 1, 2, 130, None), (arguments, code)
        assert "Traceback" not in errors, arguments
        if code == 2:
            assert errors.strip() or not arguments, arguments  # without any: help, on stdout
        codes.append(code)
    assert {0, 2} <= {code or 0 for code in codes}


def test_random_arguments(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    try_some(150, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_random_arguments(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    try_some(int(os.environ.get("EPLB_FUZZ_CALLS", "3000")), 2)
