"""The engines' own tests with policies of this project in the place of the engine's.

    python benchmarks/engine_tests.py --vllm DIR --sglang DIR --tensorrt-llm DIR

A folder is an engine's source tree as published, outside this repository. Each engine's tests of
placement run in a pytest of their own, once with the engine's own policy and once for each of
``--policies``, which comes in as in an engine, by its plugins (``EPLB_OPT_POLICY``). So do the
files of ``engine_drives/``: they drive the engine's code around the policy, on a CPU.

Run it with an interpreter that has the engines' packages. What is missing there or needs GPUs is
skipped or fails, and the table says why. Printed is a table, test by policy; tests that differ in
their parameters alone and come out the same share a row.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
ROOT = HERE.parent
POLICY = "EPLB_OPT_POLICY"  # what our plugins read
ENGINE = "EPLB_OPT_ENGINE_TESTS_ENGINE"
FOLDER = "EPLB_OPT_ENGINE_TESTS_FOLDER"
OWN = "the engine's own"


@dataclass(frozen=True)
class Engine:
    """What to run of an engine's source tree.

    Attributes:
        packages: folders of the tree, for imports.
        tests: patterns of the test files that concern placement.
        drive: our file in ``engine_drives/``.
        environment: what says that there is no accelerator and no network.
    """

    packages: Sequence[str]
    tests: Sequence[str]
    drive: str
    environment: Mapping[str, str] = field(default_factory=dict)


ENGINES = {
    "vllm": Engine(
        ["."],
        ["tests/distributed/test_eplb_*.py", "tests/v1/worker/test_gpu_model_runner_v2_eplb.py"],
        "vllm_rearrange.py",
        {"VLLM_TARGET_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"},
    ),
    "sglang": Engine(
        ["python"],
        ["test/registered/unit/eplb/test_*.py"],
        "sglang_locations.py",
    ),
    "tensorrt-llm": Engine([], [], "trtllm_tables.py"),
}


@dataclass(frozen=True)
class Outcome:
    """How a test ended: ``passed``, ``failed``, ``error`` or ``skipped``, and why, one line."""

    status: str
    reason: str = ""


def outcomes(junit: str) -> dict[str, Outcome]:
    """By ``file::test``, from the text of a junit report (family ``xunit1``, which has files)."""
    found = {}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        name, of_class = case.get("name", ""), case.get("classname", "").rpartition(".")[2]
        if case.find("error[@message='collection failure']") is not None:
            test = name.rpartition(".")[2]  # a file that could not be imported
        else:
            test = f"{Path(case.get('file', '')).stem}::{name}"
            if of_class.startswith("Test"):
                test = test.replace("::", f"::{of_class}::")
        found[test] = outcome(case)
    return found


def outcome(case: ElementTree.Element) -> Outcome:
    for tag, status in {"failure": "failed", "error": "error", "skipped": "skipped"}.items():
        if (why := case.find(tag)) is not None:
            return Outcome(status, first_line(why.get("message", ""), why.text or ""))
    return Outcome("passed")


def first_line(message: str, text: str) -> str:
    """Of the reason; of a failure to import the last line of its traceback, which names it."""
    if message == "collection failure":
        errors = [line[1:] for line in text.splitlines() if line.startswith("E ")]
        message = errors[-1] if errors else message
    lines = message.strip().splitlines()
    return " ".join(lines[0].split()) if lines else ""


@dataclass
class Row:
    """Tests of one name whose outcomes are the same under every policy."""

    name: str
    by_policy: tuple[Outcome, ...]
    cases: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The test, or how many cases of it."""
        many = f" ({len(self.cases)} cases)" if len(self.cases) > 1 else ""
        return (self.cases[0] if len(self.cases) == 1 else self.name) + many


def rows(by_policy: Mapping[str, Mapping[str, Outcome]]) -> list[Row]:
    """In the order of the tests; one that a run lacks is an error there."""
    lacking = Outcome("error", "not in the report")
    found: dict[tuple[str, tuple[Outcome, ...]], Row] = {}
    for test in dict.fromkeys(test for of in by_policy.values() for test in of):
        name, came_out = test.partition("[")[0], tuple(of.get(test, lacking)
                                                       for of in by_policy.values())  # fmt: skip
        found.setdefault((name, came_out), Row(name, came_out)).cases.append(test)
    return list(found.values())


def table(by_policy: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Markdown: test by policy, then the reasons by number."""
    reasons: dict[str, int] = {}

    def cell(of: Outcome) -> str:
        if not of.reason:
            return of.status
        return f"{of.status} ({reasons.setdefault(of.reason, len(reasons) + 1)})"

    lines = [f"| test | {' | '.join(by_policy)} |", "|---|" + "---|" * len(by_policy)]
    lines += [f"| `{row.title}` | {' | '.join(map(cell, row.by_policy))} |"
              for row in rows(by_policy)]  # fmt: skip
    numbered = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, *(["", *numbered] if numbered else [])])


def test_files(engine: Engine, folder: Path) -> list[Path]:
    own = [path for pattern in engine.tests for path in sorted(folder.glob(pattern))]
    return [*own, HERE / "engine_drives" / engine.drive]


def install(folder: Path) -> None:
    """A distribution with the entry points of this tree, for plugins to be found."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    distribution = folder / "eplb_opt-0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: eplb-opt\nVersion: 0\n")
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (distribution / "entry_points.txt").write_text("\n".join(lines) + "\n")


def run(name: str, folder: Path, policy: str, timeout: float, only: str = "") -> dict[str, Outcome]:
    """The outcome of each test of an engine under a policy, ``""`` for the engine's own."""
    engine = ENGINES[name]
    with tempfile.TemporaryDirectory() as scratch:
        install(Path(scratch))
        packages = [scratch, HERE, ROOT, *(folder / path for path in engine.packages)]
        environment = {**os.environ, **engine.environment,
                       "PYTHONPATH": os.pathsep.join(map(str, packages)),
                       POLICY: policy, ENGINE: name, FOLDER: str(folder)}  # fmt: skip
        settings, report = Path(scratch, "pytest.ini"), Path(scratch, "report.xml")
        settings.write_text("[pytest]\n")
        command = [sys.executable, "-m", "pytest", "-q", "-p", Path(__file__).stem, "--noconftest",
                   "-p", "no:cacheprovider", "-c", settings, "--rootdir", folder, "-k", only,
                   "--continue-on-collection-errors", "-o", "junit_family=xunit1",
                   "--junit-xml", report, *test_files(engine, folder)]  # fmt: skip
        ended = subprocess.run(command, cwd=folder, env=environment, timeout=timeout,
                               capture_output=True, text=True)  # fmt: skip
        if not report.exists():
            raise RuntimeError(f"pytest in {folder} wrote no report:\n{ended.stdout}{ended.stderr}")
        return outcomes(report.read_text())


def pytest_configure() -> None:
    """In the subprocess: the engine's plugins are loaded before tests are imported."""
    if os.environ.get("EPLB_OPT_POLICY"):
        {"vllm": into_vllm, "sglang": into_sglang}.get(os.environ[ENGINE], lambda: None)()


def pytest_unconfigure() -> None:
    """In the subprocess, once the report is written: threads of failed tests may wait for ever."""
    if ENGINE in os.environ:
        os._exit(0)


def into_vllm() -> None:
    """By vLLM's plugins; its tests name the class that the plugin leaves as it is."""
    from vllm.distributed.eplb import policy
    from vllm.distributed.eplb.policy import default
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    default.DefaultEplbPolicy = policy.DefaultEplbPolicy = policy.EPLB_POLICIES["default"]


def into_sglang() -> None:
    from sglang.srt.eplb import eplb_algorithms
    from sglang.srt.plugins import load_plugins

    own = eplb_algorithms.rebalance_experts
    load_plugins()
    if eplb_algorithms.rebalance_experts is own:
        raise RuntimeError("SGLang's plugins did not put a policy in")


def main(arguments: Iterable[str] | None = None) -> None:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    for name in ENGINES:
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help="its source tree")
    parser.add_argument("--policies", nargs="+", default=["refined", "deepseek", "robust"])
    parser.add_argument("--only", default="", help="tests whose names hold this, as pytest's -k")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for each pytest")
    options = parser.parse_args(None if arguments is None else list(arguments))
    for name in ENGINES:
        folder = getattr(options, name.replace("-", "_"))
        if folder is not None:
            by_policy = {
                policy or OWN: run(name, folder.resolve(), policy, options.timeout, options.only)
                for policy in ["", *options.policies]
            }
            print(f"\n## {name}\n\n{table(by_policy)}", flush=True)


if __name__ == "__main__":
    main()
