"""Published programs as user policies, where they are at hand: they run as they are."""

import os
from pathlib import Path

import pytest

from eplb_opt import Instance, Topology
from eplb_opt.gap import measure_gap
from eplb_opt.io.synthetic import generate

MACHINE = Topology(288, 32, num_nodes=4, num_groups=8)


@pytest.fixture
def programs(tmp_path: Path) -> list[str]:
    default = Path(__file__).parents[4] / "shared" / "seeds"
    folder = Path(os.environ.get("EPLB_PUBLISHED_PROGRAMS", default))
    found = sorted(folder.glob("00[01]_*.txt"))
    if len(found) != 2:
        pytest.skip(f"no published programs in {folder}: set EPLB_PUBLISHED_PROGRAMS")
    for path in found:
        (tmp_path / f"{path.stem}.py").write_text(path.read_text())
    return [str(tmp_path / f"{path.stem}.py") for path in found]


def test_mild_loads(programs: list[str]) -> None:
    loads = generate("lognormal", num_layers=2, num_experts=256, tokens=10**6, seed=0, shape=0.5)
    report = measure_gap(Instance(loads, MACHINE), ["deepseek", *programs])
    assert [policy.status for policy in report.policies] == ["ok"] * 3


def test_crash_on_skewed_loads_is_the_policy_s_and_the_others_run(programs: list[str]) -> None:
    loads = generate("zipf", num_layers=2, num_experts=256, tokens=10**6, seed=0)
    report = measure_gap(Instance(loads, MACHINE), [*programs, "deepseek"])
    water_filling, apportionment, baseline = report.policies
    assert (apportionment.status, baseline.status) == ("error", "ok")
    assert "RuntimeError" in apportionment.message
    assert water_filling.gap_mean > 10 * baseline.gap_mean
