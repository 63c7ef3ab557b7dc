"""Mutation testing on a seeded sample: which changes of the code do the tests not notice?

    pip install mutmut
    python benchmarks/mutants.py domain --sample 300 --out mutants-domain.jsonl

Operators are those of mutmut, without those for strings (the wording of messages). For each mutant
one file of a copy of the project is changed and the tests of its package run in a forked process.
``NUMBA`` keeps compiled code of the other files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {
    "domain": [
        "eplb_opt/problem/validity.py",
        "eplb_opt/bounds/closed_form.py",
        "eplb_opt/certificate",
    ],
    "heuristics": ["heuristics"],
    "solvers": ["solvers"],
}
ORACLE = "tests/solvers/test_against_brute_force.py"
TESTS = {
    "eplb_opt/problem/validity.py": [
        "tests/eplb_opt/problem/test_placement.py",
        "tests/eplb_opt/policies/test_names.py",
    ],
    "eplb_opt/bounds/closed_form.py": [
        "tests/eplb_opt/bounds",
        "tests/eplb_opt/certificate",
        ORACLE,
    ],
    "eplb_opt/certificate": ["tests/eplb_opt/certificate"],
    "heuristics": ["tests/heuristics"],
    "solvers/tree_search": ["tests/solvers/tree_search", ORACLE],
    "solvers/column_generation": [
        "tests/solvers/column_generation",
        "tests/solvers/test_portfolio.py",
    ],
    "solvers/local_search": ["tests/solvers/local_search", "tests/solvers/test_portfolio.py"],
    "solvers/formulations": ["tests/solvers/formulations", ORACLE, "tests/solvers/test_stages.py"],
    "solvers/migration": ["tests/solvers/migration"],
    "solvers/engines/mip.py": ["tests/solvers/engines", ORACLE],
    "solvers": [ORACLE, "tests/solvers/test_stages.py"],
}
MORE_TESTS = ["tests/eplb_opt/bounds", "tests/eplb_opt/certificate"]
ALL_TESTS = {
    "domain": [*MORE_TESTS, "tests/eplb_opt/problem/test_placement.py", ORACLE],
    "heuristics": ["tests/heuristics"],
    "solvers": ["tests/solvers", *MORE_TESTS],
}
"""Slower; for those that survived."""
PRELOAD = "torch numpy scipy.optimize ortools.sat.python.cp_model pulp hypothesis pytest numba"


@dataclass(frozen=True)
class Mutant:
    """One changed line of one file; ``status`` is killed, timeout or survived."""

    file: str
    line: int
    before: str
    after: str
    status: str = ""
    seconds: float = 0.0


def mutations_of(path: Path) -> list[tuple[Path, Any, Any]]:
    """All mutations inside functions of a file: path, syntax tree, and what changes in it."""
    from mutmut.mutation import mutators

    operators = [(t, f) for t, f in mutators.mutation_operators if "string" not in f.__name__]
    mutators.mutation_operators[:] = operators
    from mutmut.mutation.file_mutation import create_mutations

    module, mutations, *_ = create_mutations(str(path), path.read_text())
    inside = [m for m in mutations if m.contained_by_top_level_function is not None]
    return [(path, module, mutation) for mutation in inside]


def mutated(path: Path, module: Any, mutation: Any) -> tuple[Mutant, str]:
    """The first line that changes, and the whole source."""
    code = module.deep_replace(mutation.original_node, mutation.mutated_node).code
    pairs = enumerate(zip(path.read_text().splitlines(), code.splitlines(), strict=False), 1)
    line, (before, after) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    return Mutant(str(path.relative_to(ROOT)), line, before.strip(), after.strip()), code


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells mutants apart."""
    return tuple(row[name] for name in ("file", "line", "before", "after"))


def tests_of(file: str) -> list[str]:
    """Of the longest prefix in ``TESTS``."""
    prefix = max((p for p in TESTS if file.startswith(p)), key=len)
    return TESTS[prefix]


def run(tree: Path, tests: list[str], limit: float) -> tuple[str, float]:
    """Run tests in a forked process, which has loaded what all of them need."""
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setsid()
        sink = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(sink, fd)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        os._exit(int(pytest.main([*options, *tests])))
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() - start > limit:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout", time.monotonic() - start
        time.sleep(0.05)
    return "survived" if done[1] == 0 else "killed", time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--again", type=Path, help="Those that survived in this, all tests.")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    os.chdir(ROOT)  # where mutmut looks for its settings
    files = [
        file
        for name in GROUPS[arguments.group]
        for file in ([ROOT / name] if name.endswith(".py") else sorted((ROOT / name).rglob("*.py")))
    ]
    every = [mutation for file in files for mutation in mutations_of(file)]
    sample = random.Random(arguments.seed).sample(every, min(arguments.sample, len(every)))
    survivors = None
    if arguments.again:
        rows = map(json.loads, arguments.again.read_text().splitlines())
        survivors = {key(row) for row in rows if row["status"] == "survived"}
    for name in PRELOAD.split():
        __import__(name)
    with tempfile.TemporaryDirectory() as folder, arguments.out.open("a") as out:
        tree = Path(folder, "tree")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", ".*_cache"))
        usual = {}
        for mutation in sample:
            mutant, code = mutated(*mutation)
            if survivors is not None and key(asdict(mutant)) not in survivors:
                continue
            tests = ALL_TESTS[arguments.group] if survivors else tests_of(mutant.file)
            if str(tests) not in usual:
                run(tree, tests, 900)  # compiles
                status, usual[str(tests)] = run(tree, tests, 900)
                if status != "survived":
                    sys.exit(f"{' '.join(tests)} fails without any change")
            target = tree / mutant.file
            original = ROOT / mutant.file
            target.write_text(code)
            status, seconds = run(tree, tests, 3 * usual[str(tests)] + 30)
            shutil.copy2(original, target)
            row = asdict(mutant) | {"status": status, "seconds": round(seconds, 1)}
            print(json.dumps(row | {"of": len(every)}), file=out, flush=True)


if __name__ == "__main__":
    main()
