"""Policies for steps from the command line: from a trace to the file that SGLang serves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from heuristics.policies import NAMED
from heuristics.steps import dispatch_aware
from tests.command_line import eplb_opt

MACHINE = ("--redundant", 4, "--gpus", 4)
SERVED = ("--objective", "mean", "--dispatch", "optimal", "--time-limit", 0)
POLICIES = ("deepseek", "dispatch-aware:fast", "dispatch-aware:fast:3")
STEPS = np.random.default_rng(2).poisson(np.geomspace(20, 2, 8), (12, 2, 8))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    np.save(tmp_path / "trace.npy", STEPS)
    return tmp_path / "trace.npy"


def test_from_a_trace_to_the_file_that_an_engine_serves(trace: Path, tmp_path: Path) -> None:
    asked = [word for policy in POLICIES for word in ("--policy", policy)]
    written = ("--placements", "p.npz", "--json", "-")
    gap = eplb_opt("gap", trace, *MACHINE, *SERVED, *asked, *written, cwd=tmp_path)
    assert gap.returncode == 0, gap.stderr
    measured = {p["policy"]: p for p in json.loads(gap.stdout)["policies"]}
    assert list(measured) == list(POLICIES)
    baseline, ours = ([row["makespan"] for row in measured[p]["layers"]] for p in POLICIES[:2])
    assert np.all(np.array(ours) <= np.array(baseline) * (1 + 1e-6))
    to_sglang = ("init.json", "--to", "sglang", "--policy", POLICIES[1])
    converted = eplb_opt("convert", "p.npz", *to_sglang, cwd=tmp_path)
    assert converted.returncode == 0, converted.stderr
    served = json.loads((tmp_path / "init.json").read_text())["physical_to_logical_map"]
    placed = dispatch_aware(torch.tensor(STEPS).float(), 12, 1, 1, 4, effort="fast")
    assert served == placed.tolist()


def test_replay_gives_it_the_window_and_the_placement_until_now(trace: Path) -> None:
    policy = ("--policy", "dispatch-aware:fast:40", "--interval", 4)
    result = eplb_opt("replay", trace, *MACHINE, *policy, "--json", "-")
    assert result.returncode == 0, result.stderr
    (replayed,) = json.loads(result.stdout)["policies"]
    assert [interval["message"] for interval in replayed["intervals"]] == [""] * 4


def test_a_policy_ranked_by_another_cost_is_told(trace: Path, tmp_path: Path) -> None:
    """It was said by nothing: a policy for steps looked worse than those for their sum."""
    asked = ("--time-limit", 0, "--policy", "robust:fast:worst", "--policy", "deepseek")
    told = "is made for another cost than it is ranked by: give"
    by_sum = eplb_opt("gap", trace, *MACHINE, *asked, "--json", "-")
    assert by_sum.stderr.count("is made for") == 1
    assert f"robust:fast:worst {told} --objective worst" in by_sum.stderr
    json.loads(by_sum.stdout)
    by_mean = eplb_opt("gap", trace, *MACHINE, *asked, "--objective", "mean")
    assert "is made for" not in by_mean.stderr
    timed = eplb_opt("bench", trace, *MACHINE, "--policy", "lplb-graph:ring", "--repeat", 1)
    assert f"lplb-graph:ring {told} --dispatch optimal" in timed.stderr
    np.save(tmp_path / "loads.npy", STEPS.sum(0))
    single = eplb_opt("gap", tmp_path / "loads.npy", *MACHINE, *asked)
    assert "robust:fast:worst is made for several steps, and " in single.stderr
    replayed = eplb_opt("replay", trace, *MACHINE, "--policy", "robust:fast", "--interval", 6)
    assert "robust:fast is made for several steps, and replay gives the sum" in replayed.stderr


def test_the_list_names_it() -> None:
    said = eplb_opt("policies").stdout
    assert all(name in said for name in NAMED)
