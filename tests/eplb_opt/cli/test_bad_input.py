"""Bad input: exit code 2 and one line on stderr that names what is wrong; never a traceback."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.command_line import eplb_opt

MACHINE = ["--redundant", "2", "--gpus", "3"]
GAP = ["gap", "good.json"]
STEPS = ["gap", "trace.npy", *MACHINE]

BAD = {
    "no such command": (["gapp"], "No such command 'gapp'"),
    "no such option": ([*GAP, *MACHINE, "--plicy", "deepseek"], "No such option '--plicy'"),
    "no loads": (["gap", *MACHINE], "Missing argument 'LOADS'"),
    "no ranks": ([*GAP, "--redundant", "2"], "Missing option '--gpus'"),
    "no slots": ([*GAP, "--gpus", "3"], "--redundant and --physical"),
    "slots twice": ([*GAP, *MACHINE, "--physical", "6"], "--redundant and --physical"),
    "ranks no number": ([*GAP, "--redundant", "2", "--gpus", "x"], "'x' is not a valid integer"),
    "no ranks at all": (
        [*GAP, "--redundant", "2", "--gpus", "0"],
        "num_ranks=0 must be a positive",
    ),
    "too few slots": ([*GAP, "--physical", "3", "--gpus", "3"], "num_physical_experts=3 is less"),
    "negative redundancy": ([*GAP, "--redundant", "-1", "--gpus", "3"], "num_physical_experts=3"),
    "P over G": ([*GAP, "--redundant", "3", "--gpus", "3"], "7 is not a multiple of num_ranks=3"),
    "G over N": ([*GAP, *MACHINE, "--nodes", "2"], "num_ranks=3 is not a multiple of num_nodes=2"),
    "K over N": (
        [*GAP, *MACHINE, "--nodes", "3", "--groups", "4", "--rule", "hierarchical"],
        "num_groups=4 is not a multiple of num_nodes=3",
    ),
    "E over K": (
        [*GAP, *MACHINE, "--nodes", "3", "--groups", "3"],
        "num_logical_experts=4 is not a multiple of num_groups=3",
    ),
    "no such graph": (
        [*GAP, *MACHINE, "--policy", "deepseek", "--policy", "lplb-graph:torus"],
        "lplb-graph:torus: a torus needs m n ranks with m and n at least 2, not 3",
    ),
    "memory of nothing": ([*GAP, *MACHINE, "--policy-memory", "4"], "'4' is not a size such as"),
    "no time for policies": ([*GAP, *MACHINE, "--policy-timeout", "0"], "--policy-timeout"),
    "unknown rule": ([*GAP, *MACHINE, "--rule", "best"], "'best' is not one of"),
    "missing file": (["gap", "none.json", *MACHINE], "none.json"),
    "directory": (["gap", ".", *MACHINE], "."),
    "empty file": (["gap", "empty.json", *MACHINE], "empty.json: the file is empty"),
    "broken json": (["gap", "broken.json", *MACHINE], "broken.json"),
    "ragged": (["gap", "ragged.json", *MACHINE], "ragged.json"),
    "negative load": (["gap", "negative.json", *MACHINE], "layer 0, expert 1 is -1: negative"),
    "NaN load": (["gap", "nan.npy", *MACHINE], "layer 0, expert 0 is nan: not finite"),
    "words": (["gap", "words.csv", *MACHINE], "words.csv"),
    "objects": (["gap", "objects.npy", *MACHINE], "objects.npy"),
    "wrong axes": (["gap", "flat.npy", *MACHINE], "flat.npy"),
    "wrong format": ([*GAP, *MACHINE, "--format", "npy"], "good.json"),
    "unknown format": ([*GAP, *MACHINE, "--format", "xls"], "'xls' is not one of"),
    "two arrays": (["gap", "two.npz", *MACHINE], "two.npz"),
    "huge header": (["gap", "huge.npy", *MACHINE], "huge.npy"),
    "no time axis": ([*GAP, *MACHINE, "--steps", "0:1"], "needs a time axis"),
    "bad steps": ([*GAP, *MACHINE, "--steps", "3"], "'3' is not of the form a:b"),
    "steps beyond": (["gap", "trace.npy", *MACHINE, "--steps", "0:9"], "reaches beyond the 2"),
    "bad layers": ([*GAP, *MACHINE, "--layers", "a-b"], "'a-b' is not of the form 0-9,12"),
    "no such layer": ([*GAP, *MACHINE, "--layers", "0-3"], "layers [1, 2, 3] are not among the 1"),
    "negative limit": ([*GAP, *MACHINE, "--time-limit", "-1"], "--time-limit -1.0 must not be neg"),
    "NaN limit": ([*GAP, *MACHINE, "--time-limit", "nan"], "--time-limit nan must not be negative"),
    "no workers": ([*GAP, *MACHINE, "--workers", "0"], "--workers 0 must be at least 1"),
    "placements suffix": ([*GAP, *MACHINE, "--placements", "p.txt"], "suffix '.txt'"),
    "target folder": ([*GAP, *MACHINE, "--json", "none/out.json"], "none"),
    "more slots than can be counted": (
        ["solve", "good.json", "--physical", "100000000000000000000", "--gpus", "8"],
        "num_physical_experts=100000000000000000000 is more than 2147483647",
    ),
    "unknown backend": (["solve", "good.json", *MACHINE, "--backend", "gurobi"], "'gurobi'"),
    "stage of rule": (
        ["solve", "good.json", *MACHINE, "--stage", "groups"],
        "stage='groups' needs",
    ),
    "no placement": (
        ["solve", "good.json", *MACHINE, "--stage", "counts", "--placements", "p.npz"],
        "--placements p.npz: --stage counts makes no placement, give --stage joint or packing",
    ),
    "no evidence": (
        ["solve", "good.json", *MACHINE, "--stage", "groups", "--certificate", "c.json"],
        "--certificate c.json: --stage groups makes no placement",
    ),
    "one file for two outputs": (
        ["solve", "good.json", *MACHINE, "--json", "x.json", "--certificate", "./x.json"],
        "x.json is the file of --json, too",
    ),
    "output over its input": ([*GAP, *MACHINE, "--json", "good.json"], "good.json is the file of"),
    "output over a policy": (
        [*GAP, *MACHINE, "--policy", "policy.py:f", "--json", "policy.py"],
        "policy.py is the file of --policy, too",
    ),
    "conversion over its source": (["convert", "good.json", "good.json"], "the file of SOURCE"),
    "placements to stdout": ([*GAP, *MACHINE, "--placements", "-"], "suffix ''"),
    "certificate to stdout": (
        ["solve", "good.json", *MACHINE, "--certificate", "-"],
        "only --json writes to standard output",
    ),
    "output is a folder": ([*GAP, *MACHINE, "--json", "."], ".: is a folder, give a file"),
    "unknown policy": ([*GAP, *MACHINE, "--policy", "nope"], "unknown policy 'nope': give one of"),
    "mistyped policy": (
        ["bench", "good.json", *MACHINE, "--policy", "refind"],
        "unknown policy 'refind' (did you mean refined?): give one of deepseek,",
    ),
    "mistyped stage": ([*GAP, *MACHINE, "--policy", "greedy + best"], "packing 'best' is not one"),
    "a digit of another script": ([*GAP, *MACHINE, "--policy", "refined:٣"], "is not refined[:N"),
    "missing policy file": ([*GAP, *MACHINE, "--policy", "none.py"], "no such file: none.py"),
    "file without the function": (
        ["check", "policy.py:nothing"],
        "policy.py has no 'nothing'",
    ),
    "no policy": (
        ["replay", "trace.npy", *MACHINE, "--policy", "deepseek", "--policy", "policy.py:VALUE"],
        "'VALUE' of policy.py is not a function",
    ),
    "policy that cannot be imported": (
        ["attack", "broken.py", "--experts", "4", *MACHINE],
        "importing broken.py failed: ZeroDivisionError",
    ),
    "policy of a sweep": (["sweep", "spec.yaml", "-o", "r.jsonl"], "policy.py has no 'nothing'"),
    "policy to compare with": (["check", "deepseek", "--never-worse-than", "x"], "policy 'x'"),
    "limit NaN": ([*GAP, *MACHINE, "--fail-above", "nan"], "'nan' is not a finite number"),
    "limit infinite": ([*GAP, *MACHINE, "--fail-above", "inf"], "'inf' is not a finite number"),
    "limit negative": ([*GAP, *MACHINE, "--fail-above", "-0.1"], "-0.1 is not in the range x>=0"),
    "gap NaN": (["check", "deepseek", "--gap-below", "nan"], "'nan' is not a finite number"),
    "ratio NaN": (
        ["migrate", "initial", "good.json", *MACHINE, "--within", "nan"],
        "'nan' is not a finite number",
    ),
    "policy of no file": (
        ["migrate", "initial", "good.json", *MACHINE, "--policy", "refined"],
        "--policy refined chooses from a file of placements, OLD is initial",
    ),
    "seed negative": ([*GAP, *MACHINE, "--seed", "-1"], "-1 is not in the range 0<=x<=2147483647"),
    "seed of 40 bits": (
        ["solve", "good.json", *MACHINE, "--seed", "1099511627776"],
        "1099511627776 is not in the range 0<=x<=2147483647",
    ),
    "seed of loads": (["demo", "--seed", "-1"], "-1 is not in the range 0<=x<=2147483647"),
    "layers without end": ([*GAP, *MACHINE, "--layers", "0-99999999999999999999"], "more than"),
    "apart in an attack": (
        ["attack", "deepseek", "--experts", "4", *MACHINE, "--spread-replicas"],
        "attack does not keep replicas apart",
    ),
    "synchronous steps": (
        ["replay", "trace.npy", *MACHINE, "--layer-steps", "2"],
        "--layer-steps 2 needs --async",
    ),
    "two kinds of workers": (
        ["sweep", "spec.yaml", "-o", "r.jsonl", "--workers", "2", "--dask", "tcp://x:1"],
        "--workers 2 are local ones",
    ),
    "policy of loads": (
        ["convert", "good.json", "x.json", "--policy", "refined"],
        "--policy refined chooses a placement, but --to is loads",
    ),
    "sum of placements": (
        ["convert", "good.json", "x.json", "--to", "sglang", "--sum"],
        "--sum, --format and --steps are about loads, but --to is sglang",
    ),
    "unknown family": (["generate", "normal", "-o", "x.npy"], "family='normal' is not one of"),
    "no tokens": (["generate", "zipf", "-o", "x.npy", "--tokens", "0"], "tokens=0 must be a pos"),
    "more loads than fit": (
        ["generate", "zipf", "-o", "x.npy", "--experts", "99999999999999999"],
        "loads are more than 1073741824: make fewer layers or steps",
    ),
    "drift of nothing": (["generate", "zipf", "-o", "x.npy", "--phi", "0.5"], "needs steps"),
    "bad drift": (["generate", "zipf", "-o", "x.npy", "--phi", "2", "--steps", "2"], "0<=x<1"),
    "unknown suffix": (["convert", "good.json", "x.xls"], "suffix '.xls' is not one of"),
    "no steps for an objective": (
        [*GAP, *MACHINE, "--objective", "mean"],
        "objective='mean': good.json holds [layers, experts], and steps are needed",
    ),
    "unknown objective": (
        [*STEPS, "--objective", "median"],
        "objective='median' is not one of sum, mean, worst, cvar:SHARE",
    ),
    "share of nothing": ([*STEPS, "--objective", "cvar:0"], "with a share in (0, 1]"),
    "share beyond all": ([*STEPS, "--objective", "cvar:1.5"], "with a share in (0, 1]"),
    "no share": ([*STEPS, "--objective", "cvar"], "objective='cvar' is not one of"),
    "unknown dispatch": ([*STEPS, "--dispatch", "drawn"], "'drawn' is not one of"),
    "no steps in the file": (["gap", "none.npy", *MACHINE], "none.npy: the array has shape (0, 1,"),
    "none of the steps": ([*STEPS, "--steps", "1:1"], "steps=1:1 holds none of the 2 steps"),
    "a sum to serve": (
        [*STEPS, "--objective", "mean", "--serve-on", "good.json"],
        "objective='mean': good.json holds [layers, experts], and steps are needed",
    ),
    "steps of other experts": (
        [*STEPS, "--objective", "mean", "--serve-on", "wide.npy"],
        "it has 5 experts a layer, but trace.npy has 4",
    ),
    "windows beyond the trace": (
        [*STEPS, "--objective", "mean", "--serve-on", "next:2"],
        "needs a trace of at least 4 steps, but the loads are [2 step",
    ),
    "windows of nothing": ([*STEPS, "--serve-on", "next:0"], "next:0 has no steps"),
    "windows of a word": ([*STEPS, "--serve-on", "next:x"], "next:x"),
    "no target": (["convert", "good.json"], "give SOURCE and TARGET, or sources and -o TARGET"),
    "many without -o": (
        ["convert", "good.json", "trace.npy", "x.npy"],
        "or sources and -o TARGET, not 3 files alone",
    ),
    "recordings of other shapes": (
        ["convert", "good.json", "trace.npy", "five.npy", "-o", "x.npy"],
        "five.npy: has 1 layers of 5 experts, but good.json has 1 layers of 4 experts",
    ),
    "joined placements": (
        ["convert", "good.json", "good.json", "-o", "x.json", "--to", "sglang"],
        "2 files are joined as steps of loads, but --to is sglang",
    ),
    "a source as output": (
        ["convert", "trace.npy", "good.json", "-o", "good.json"],
        "good.json is the file of SOURCE, too",
    ),
    "no such array": (["gap", "two.npz:c", *MACHINE], "choose one as two.npz:a"),
    "an array as output": (
        ["gap", "two.npz:a", *MACHINE, "--json", "two.npz"],
        "two.npz is the file of --json, too",
    ),
    "no steps to normalise": (
        [*GAP, *MACHINE, "--normalize-steps"],
        "--normalize-steps: good.json holds [layers, experts]",
    ),
    "no placements": (
        ["convert", "good.json", "x.json", "--to", "sglang"],
        "no file of placements",
    ),
    "no certificate": (["verify", "good.json"], "good.json: is no certificate"),
    "broken certificate": (["verify", "broken.json"], "broken.json: no JSON"),
    "no repeats": (
        ["bench", "good.json", *MACHINE, "--repeat", "0"],
        "--repeat 0 must be at least",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad")
    texts = {
        "good.json": json.dumps([[4, 3, 2, 1]]),
        "empty.json": "",
        "broken.json": "[[1, 2",
        "ragged.json": "[[1, 2], [3]]",
        "negative.json": "[[1, -1, 2, 3]]",
        "words.csv": "1,2,3\n4,five,6\n",
        "policy.py": "VALUE = 1\n",
        "broken.py": "1 / 0\n",
        "spec.yaml": "blocks: [{instances: [{file: good.json}], machines: [{redundant: 2, gpus: 3}]"
        ", policies: ['policy.py:nothing']}]\n",
    }
    for name, text in texts.items():
        (path / name).write_text(text)
    np.save(path / "nan.npy", [[np.nan, 1.0, 2.0, 3.0]])
    np.save(path / "flat.npy", [1, 2, 3])
    np.save(path / "trace.npy", np.ones((2, 1, 4)))
    np.save(path / "five.npy", np.ones((1, 5)))
    np.save(path / "wide.npy", np.ones((3, 1, 5)))
    np.save(path / "none.npy", np.ones((0, 1, 4)))
    np.save(path / "objects.npy", np.array([[{}, []]], dtype=object))
    np.savez(path / "two.npz", a=np.ones((1, 4)), b=np.ones((1, 4)))
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    padded = header.ljust(117) + b"\n"
    (path / "huge.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded
    )
    return path


@pytest.mark.parametrize("name", BAD)
def test_bad_input(folder: Path, name: str) -> None:
    arguments, message = BAD[name]
    result = eplb_opt(*arguments, cwd=folder)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("eplb-opt: error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
