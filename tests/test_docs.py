"""Documentation that is true: links, commands and code of the pages, and what they say of JSON."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import runpy
import shlex
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from eplb_opt import Instance, Topology, bounds, documents
from eplb_opt.cli import COMMANDS, cli
from eplb_opt.io import read_loads
from eplb_opt.problem.evidence import (
    BlockBound,
    Blocks,
    Cuts,
    Evidence,
    Exhaustive,
    Groups,
    LimitedCuts,
    Pattern,
    Prices,
    SameRank,
    StepBlock,
    Trusted,
    ValueEvidence,
)
from eplb_opt.problem.objective import Cost
from eplb_opt.problem.result import Result, Stage
from eplb_opt.testing import assert_valid
from heuristics.policies import NAMED
from solvers.dispatch import value
from tests.command_line import eplb_opt

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
EXAMPLES = [name for name in NAMES if name == "README.md" or name.startswith("docs/guide/")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
LONGEST = 235
"""Lines of a page."""


def text(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(text(name)) if kind == language]


def commands(name: str) -> list[list[str]]:
    """Arguments of every ``eplb-opt ...`` in the fenced blocks of a page, comments left out."""
    lines = "".join(blocks(name, "")).replace("\\\n", " ").splitlines()
    lines = [line.removeprefix("$ ") for line in lines]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("eplb-opt ")]


def anchors(page: Path) -> Iterator[str]:
    """Of the headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        yield slug + (f"-{seen[slug]}" if seen[slug] else "")
        seen[slug] += 1


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_short_and_in_the_index(name: str) -> None:
    assert len(text(name).splitlines()) <= LONGEST or name == "CHANGELOG.md"
    folder = Path(name).parent
    index = "docs/results/README.md" if folder.name == "results" else "docs/README.md"
    found = [(ROOT / index).parent / link.partition("#")[0] for link in LINK.findall(text(index))]
    listed = {path.resolve() for path in found} | {ROOT / "README.md", ROOT / index}
    assert ROOT / name in listed


def test_paths_of_pages_in_code_exist() -> None:
    """``docs/...`` in docstrings, comments and scripts."""
    files = [p for folder in ("eplb_opt", "heuristics", "solvers", "benchmarks", "notebooks")
             for p in (ROOT / folder).rglob("*.py")]  # fmt: skip
    for file in [*files, ROOT / "Makefile", *PAGES]:
        for path in re.findall(r"\bdocs/[\w/]+\.(?:md|py|png|svg)", file.read_text()):
            assert (ROOT / path).exists(), (file, path)


@pytest.mark.parametrize("name", [*EXAMPLES, *(n for n in NAMES if n.startswith("docs/theory/"))])
def test_commands_of_examples_parse(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Each has a command, options and arguments that click accepts; none is run."""
    monkeypatch.chdir(tmp_path)
    for first, *arguments in commands(name):
        if first.startswith("-"):
            continue
        assert first in COMMANDS, first
        command = cli.get_command(click.Context(cli), first)
        assert command is not None
        if "--help" not in arguments:
            command.make_context(first, arguments)


@pytest.mark.parametrize("name", EXAMPLES)
def test_files_of_examples_are_made_before_they_are_used(name: str) -> None:
    """A file that a command reads was written by a line or a block of the page before."""
    made = {"next", "initial", "loads"}
    page = text(name)
    for block in FENCE.findall(page):
        for line in block[1].replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if "eplb-opt" in line or ">" in line else []
            for word in words:
                if re.fullmatch(r"[\w./]+\.(npy|npz|json|jsonl|yaml)", word):
                    place = words.index(word)
                    writes = words[place - 1] in ("-o", "--output", "--json", "--placements", ">",
                                                  "--certificate", "--baseline")  # fmt: skip
                    writes |= "convert" in words and word == words[words.index("convert") + 2]
                    introduced = f"`{word}`" in page[: page.index(line)]
                    assert writes or word in made or introduced, (word, line)
                    made.add(word)


@pytest.mark.parametrize("name", NAMES)
def test_python_of_examples_compiles_and_its_imports_exist(name: str) -> None:
    for source in blocks(name, "python"):
        for node in ast.walk(ast.parse(source)):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.split(".")[0] in ("eplb_opt", "heuristics", "solvers"):
                for alias in node.names:  # type: ignore[union-attr]
                    assert exists(f"{module}.{alias.name}"), alias.name


@pytest.mark.parametrize("name", ["docs/guide/first_gap.md", "docs/reference/python.md"])
def test_the_first_python_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks(name, "python")[0], {})
    assert "590/3" in capsys.readouterr().out


def test_the_policy_of_the_guide_is_valid() -> None:
    scope: dict[str, Any] = {}
    exec(blocks("docs/guide/your_policy.md", "python")[0], scope)
    for nodes, groups in ((1, 1), (2, 4)):
        loads = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3, 2]] * 2)
        placed = scope["rebalance_experts"](loads, 12, groups, nodes, 4)
        assert_valid(placed, Instance(loads.numpy(), Topology(12, 4, nodes, groups)))


def test_the_dispatcher_of_the_guide_meets_its_counts() -> None:
    scope: dict[str, Any] = {}
    (example,) = [b for b in blocks("docs/guide/dispatch.md", "python") if "topk_ids" in b]
    exec(example, scope)
    tokens, before = scope["tokens"][0], scope["tokens_before"](scope["counts"])
    sent = [
        scope["physical_ids"](ids, scope["phy2log"][0], tokens, before=known)
        for ids, known in zip(scope["topk_ids"], before, strict=True)
    ]
    assert torch.stack(sent).flatten().bincount(minlength=12).equal(tokens)


def test_the_losses_on_a_trace_of_the_guide(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (generate, *_) = commands("docs/guide/dispatch.md")
    assert eplb_opt(*generate, cwd=tmp_path).returncode == 0
    (example,) = [b for b in blocks("docs/guide/dispatch.md", "python") if "trace.npy" in b]
    exec(example, {})
    (shown,) = [b for b in blocks("docs/guide/dispatch.md", "") if b.startswith("deepseek  even")]
    assert capsys.readouterr().out == shown


def test_the_page_of_commands_is_what_click_says() -> None:
    page = runpy.run_path(str(ROOT / "docs/reference/commands.py"))["page"]()
    assert page == text("docs/reference/commands.md"), "run `make docs`"


def exists(name: str) -> bool:
    """Whether ``name`` is a module, or what a module or a class of one holds."""
    module, _, attribute = name.rpartition(".")
    found = pkgutil.resolve_name(module)
    return hasattr(found, attribute) or (hasattr(found, "__path__") and find_spec(name) is not None)


def test_the_page_of_python_has_every_public_name() -> None:
    page = text("docs/reference/python.md")
    sections = re.split(r"^## ([\w.]+)$", page, flags=re.MULTILINE)[1:]
    for module, body in zip(sections[::2], sections[1::2], strict=True):
        rows = [line.split("|")[1] for line in body.splitlines() if line.startswith("| `")]
        named = set(re.findall(r"`(\w+)`", "".join(rows)))
        public = set(getattr(importlib.import_module(module), "__all__", ()))
        assert named == public, module


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_python_names_in_prose_exist(name: str) -> None:
    pattern = r"`((?:eplb_opt|solvers|heuristics)(?:\.\w+)+)[`(]"
    for found in re.findall(pattern, FENCE.sub("", text(name))):
        assert exists(found), found


def test_counts_of_slots_become_counts_of_experts(tmp_path: Path, monkeypatch: Any) -> None:
    """The example for vLLM."""
    monkeypatch.chdir(tmp_path)
    (source,) = [block for block in blocks("docs/guide/engines.md", "python") if "einsum" in block]
    exec(source, {})
    assert read_loads("recording.npy").loads.tolist() == [[[60, 20, 20, 20]]]


def test_every_policy_is_described() -> None:
    page = text("docs/theory/heuristics.md")
    assert [name for name in NAMED if f"| `{name}` |" not in page] == []


# What the JSON page says of fields. A path is written as on the page: `layers[].front[].budget`.

COMMON = "In every document"
PARTS = {"SPLIT": "A split", "MOVE": "A move"}


JSON_PAGES = text("docs/reference/json.md") + text("docs/reference/json_over_time.md")


def body(section: str) -> str:
    """What the pages of JSON say in a section."""
    after = JSON_PAGES.partition(f"# {section}\n")[2]
    return re.split(r"^##", after, flags=re.MULTILINE)[0]


def documented(section: str) -> set[str]:
    """The paths in a section of the pages of JSON; parts such as MOVE replaced by their fields."""
    rows = [line.split("|")[1] for line in body(section).splitlines() if line.startswith("| `")]
    found = set()
    for path in re.findall(r"`([^`]+)`", "".join(rows)):
        stem, _, part = path.rpartition(".")
        if part in PARTS:
            found |= {f"{stem}.{field}" for field in documented(PARTS[part])}
        else:
            found.add(path)
    return found


def paths(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all leaves of a document."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from paths(child, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for child in value:
            yield from paths(child, f"{path}[]")
    elif value not in ([], {}):
        yield path


def assert_documented(section: str, *found: Any, all_seen: bool = True) -> None:
    """Every field is on the page and, unless told otherwise, every field of the page is there."""
    known = documented(section)
    patterns = {p: re.compile(re.escape(p).replace(r"\*", "[^.]+")) for p in known}
    common = [re.compile(re.escape(p).replace(r"\*", "[^.]+")) for p in documented(COMMON)]
    seen = {path for document in found for path in paths(document)}
    lacking = "".join(re.findall(r"`instance` lacks ([^.]*)\.", body(section)))
    absent = {f"instance.{field}" for field in re.findall(r"`(\w+)`", lacking)}
    assert {path for path in documented(COMMON) if path.startswith("instance.")} - seen == absent
    own = {path for path in seen if not any(p.fullmatch(path) for p in common)}
    assert {p for p in own if not any(q.fullmatch(p) for q in patterns.values())} == set()
    if all_seen:
        assert {p for p, q in patterns.items() if not any(map(q.fullmatch, own))} == set()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs")
    (path / "small.json").write_text("[[600, 560, 120, 120, 20, 10, 10, 10]]")
    (path / "trace.json").write_text("[[[4, 1, 1, 1]], [[1, 4, 1, 1]], [[1, 1, 4, 1]]]")
    (path / "sweep.yaml").write_text(
        "blocks: [{instances: [{file: small.json}], machines: [{redundant: 8, gpus: 8}],"
        " policies: [deepseek]}]\ntime_limit: 0"
    )
    return path


def run(folder: Path, *arguments: str, output: str = "out.json") -> Any:
    """What a command writes as JSON, in this process."""
    (folder / output).unlink(missing_ok=True)
    done = eplb_opt(*arguments, output, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / output).read_text())


MACHINE = ("small.json", "--physical", "16", "--gpus", "8", "--time-limit", "5")
HOME = ("--physical", "10", "--gpus", "2", "--nodes", "2", "--groups", "2", "--rule", "home")
HOME += ("--time-limit", "0")


def test_fields_of_a_gap(folder: Path) -> None:
    extra = ("--explain", "--serve-on", "small.json")
    of_sum = run(folder, "gap", *MACHINE, *extra, "--json")
    trace = ("trace.json", "--redundant", "2", "--gpus", "3", "--time-limit", "0")
    steps = run(folder, "gap", *trace, "--objective", "mean", "--serve-on", "next", "--json")
    assert steps["attribution"][0]["layers"][0]["sums"].keys() == {"placement"}
    whole = run(folder, "gap", *trace, "--objective", "mean", "--explain", "--json")
    assert whole["attribution"][0]["mean"]["beside"].keys() == {"vss"}
    home = run(folder, "gap", "small.json", *HOME, "--travel", "8,7168,400,0.2", "--json")
    assert_documented("gap", of_sum, steps, whole, home)


def test_fields_of_a_frontier(folder: Path) -> None:
    found = run(folder, "gap", "small.json", *HOME, "--traffic", "0.1,0.2", "--json")
    reports = found["reports"]
    assert [report["instance"]["traffic_limit"] for report in reports] == [1, 0.1, 0.2, 1, 1]
    assert_documented("gap", *reports, all_seen=False)
    assert {path.partition(".")[0] for path in paths(found)} == {
        "schema", "command", "interrupted", "versions", "reports[]"
    }  # fmt: skip


def test_fields_of_a_solve_and_its_example(folder: Path) -> None:
    solved = run(folder, "solve", *MACHINE, "--json")
    assert_documented("solve", solved)
    bounds = run(folder, "bound", *MACHINE, "--json")
    assert_documented("solve", bounds)
    assert bounds["layers"][0]["objective"] is None
    (shown,) = [json.loads(block) for block in blocks("docs/reference/json.md", "json")]
    (layer,) = solved["layers"]
    for varying in ("runtime_s", "phy2log", "counts"):
        assert len(str(shown.pop(varying))) > 0
        assert layer.pop(varying) is not None
    assert shown == layer


def evidence(found: Evidence) -> dict[str, Any]:
    return {"layers": [{"evidence": documents.evidence(found)}]}


def value_evidence(found: ValueEvidence | Trusted) -> dict[str, Any]:
    return {"layers": [{"value_evidence": documents.evidence(found)}]}


def placed_over_steps(dispatch: str) -> tuple[Instance, list[Result]]:
    """A placement with its value and a bound, of the mean over two steps."""
    instance = Instance([[[4, 1, 1]], [[1, 4, 2]]], Topology(4, 2))
    layer, cost = instance.layer(0), Cost.of("mean", dispatch)
    found, bound = value(layer, (0, 1, 2, 0), *cost), bounds.of(layer, *cost)
    result = Result(
        Stage.JOINT,
        "by hand",
        bound.value,
        found.value,
        found.phy2log,
        certificate=bound.evidence,
        cost=cost,
        shares=found.shares,
    )
    return instance, [result]


def test_fields_of_a_certificate(folder: Path) -> None:
    kinds = [
        Trusted("cp-sat"),
        Pattern(Fraction(1), 4, 1, ((1, 1),)),
        Groups((BlockBound((0,), Fraction(1), Exhaustive()),)),
        Blocks((StepBlock((0,), Fraction(1), Exhaustive()),)),
        SameRank((1,), (((0, 1),),), (Fraction(1),), ((1,),)),
    ]
    values = [
        Cuts(((0,),)),
        LimitedCuts(((1,),), (1,)),
        Prices(1, ((1,),), Fraction(1), 1),
        Trusted("cp-sat"),
    ]
    fixed = documents.certificate(*placed_over_steps("fixed"), interrupted=False)
    written = run(folder, "solve", *MACHINE, "--certificate")
    assert_documented(
        "certificate", written, fixed, *map(evidence, kinds), *map(value_evidence, values)
    )


def test_fields_of_a_migration(folder: Path) -> None:
    machine = ("initial", "small.json", "--physical", "16", "--gpus", "8")
    assert_documented("migrate", run(folder, "migrate", *machine, "--json"))


def test_fields_of_a_replay(folder: Path) -> None:
    machine = ("trace.json", "--redundant", "2", "--gpus", "3", "--interval", "1")
    assert_documented("replay", run(folder, "replay", *machine, "--scale", "2:2", "--json"))


def test_fields_of_a_sweep_and_of_placements(folder: Path) -> None:
    assert_documented("sweep", run(folder, "sweep", "sweep.yaml", "-o", output="rows.jsonl"))
    placed = run(folder, "gap", *MACHINE[:-2], "--time-limit", "0", "--placements")
    assert_documented("placements", placed)
