from __future__ import annotations

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

from eplb_opt.sweep import SpecError, Store, StoreError, export, load, read_spec, rows, run_sweep
from eplb_opt.sweep.spec import Spec
from eplb_opt.sweep.tasks import left, tasks
from tests.command_line import PROGRAM, eplb_opt, heed_interrupts

SMALL = """
time_limit: 120
blocks:
  - instances: [{family: lognormal, layers: 2, experts: 12, tokens: 4096, seeds: [0, 1, 2, 3]}]
    machines: [{redundant: 4, gpus: 4}, {redundant: 4, gpus: 8}]
    policies: [deepseek, refined]
    solvers: [{time_limit: 120}]
"""


def spec_file(folder: Path, text: str = SMALL) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text)
    return path


def untimed(row: dict) -> dict:
    return {key: value for key, value in row.items() if key != "runtime_s"}


def by_unit(path: Path) -> dict[str, dict]:
    found = list(rows(path))
    units = {row["unit"]: untimed(row) for row in found}
    assert len(units) == len(found), "a unit stands there twice"
    return units


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    output = folder / "results.jsonl"
    with Store(output) as store:
        assert run_sweep(read_spec(spec_file(folder)), store) == 0
    return output


def test_every_unit_is_a_row(complete: Path) -> None:
    found = by_unit(complete)
    assert len(found) == 4 * 2 * 3
    assert set(found) == {unit for task in tasks(read_spec(spec_file(complete.parent)))
                          for unit in task.units}  # fmt: skip
    for row in found.values():
        assert row["schema"] == "eplb-opt/sweep/1"
        assert row["status"] == "ok"
        assert row["num_layers"] == len(row["layer_gaps"]) == len(row["layer_makespans"]) == 2
        assert sum(row["reference"].values()) == 2
        assert 0 <= row["gap_mean"] <= row["gap_max"]
    exact = [row for row in found.values() if row["policy"].startswith("exact")]
    assert all(row["num_optimal"] == 2 and row["gap_max"] == 0 for row in exact)


def test_a_rerun_does_nothing_and_more_units_only_themselves(
    complete: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    kept = complete.read_text()
    output.write_text(kept)
    done: list[int] = []
    with Store(output) as store:
        run_sweep(read_spec(spec_file(tmp_path)), store, progress=lambda d, _t, _f: done.append(d))
    assert done == [24]
    assert output.read_text() == kept
    more = SMALL.replace("[deepseek, refined]", "[deepseek, refined, vectorized-swap]")
    with Store(output) as store:
        run_sweep(read_spec(spec_file(tmp_path, more)), store)
    assert output.read_text().startswith(kept)
    assert len(by_unit(output)) == 32


def test_workers_find_the_same(complete: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    with Store(output) as store:
        run_sweep(read_spec(spec_file(tmp_path)), store, workers=2)
    assert by_unit(output) == by_unit(complete)


def test_killed_at_any_moment_it_goes_on(complete: Path, tmp_path: Path) -> None:
    output, spec = tmp_path / "results.jsonl", spec_file(tmp_path)
    command = [*PROGRAM, "sweep", str(spec), "-o", str(output)]
    chance, kills = random.Random(1), 0
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = output.stat().st_size if output.exists() else 0
        # Kill at a random moment after the first row that this run has added.
        while process.poll() is None and (not output.exists() or output.stat().st_size == before):
            time.sleep(0.02)
        time.sleep(chance.random() / 5)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert kills >= 1
    with Store(output) as store:
        assert run_sweep(read_spec(spec), store) == 0
    assert by_unit(output) == by_unit(complete)


def test_a_torn_last_line_is_repaired_with_a_word(complete: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    text = complete.read_bytes()
    for cut in (1, 40, text[:-1].rfind(b"\n") and len(text) - text[:-1].rfind(b"\n") - 2):
        output.write_bytes(text[:-cut])
        said: list[str] = []
        assert len(list(rows(output, said.append))) in (23, 24)
        with Store(output, warn=said.append) as store:
            assert len(store.done) == 23
            run_sweep(read_spec(spec_file(tmp_path)), store)
        assert any("torn" in word for word in said)
        assert by_unit(output) == by_unit(complete)


def test_other_damage_is_refused(complete: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    lines = complete.read_text().splitlines(keepends=True)
    output.write_text(lines[0] + "no row\n" + lines[1])
    with pytest.raises(StoreError, match=r"line 2 is no row of a sweep"), Store(output):
        pass


def test_two_sweeps_do_not_write_to_one_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        Store(tmp_path / "r.jsonl"),
        pytest.raises(StoreError, match="another sweep"),
        Store(tmp_path / "r.jsonl"),
    ):
        pass


def test_results_are_kept_in_a_regular_file_and_a_table_goes_anywhere(
    complete: Path, tmp_path: Path
) -> None:
    for target in (tmp_path, Path(os.devnull)):
        with pytest.raises(StoreError, match="give a regular file"), Store(target):
            pass
    os.mkfifo(tmp_path / "pipe.csv")
    with subprocess.Popen(["cat", tmp_path / "pipe.csv"], stdout=subprocess.PIPE) as reader:
        count = export(complete, tmp_path / "pipe.csv")
        assert len(reader.communicate(timeout=60)[0].splitlines()) == 1 + count


def test_interrupted_it_keeps_what_is_done(tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    slow = SMALL.replace("seeds: [0, 1, 2, 3]", f"seeds: {list(range(200))}")
    process = subprocess.Popen(
        [*PROGRAM, "sweep", str(spec_file(tmp_path, slow)), "-o", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    while not output.exists() or output.stat().st_size == 0:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert b"new units" in printed
    assert len(by_unit(output)) >= 3


def test_what_fails_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def rebalance_experts(*_):\n    raise OSError('no luck')\n")
    np.save(tmp_path / "flat.npy", np.ones((3, 10)))
    text = """
blocks:
  - instances: [{file: flat.npy}, {file: flat.npy, layers: 1}]
    machines: [{redundant: 2, gpus: 4}, {redundant: 1, gpus: 4}]
    policies: [bad.py, deepseek]
"""
    with Store(tmp_path / "r.jsonl") as store:
        failed = run_sweep(read_spec(spec_file(tmp_path, text)), store)
    found = list(rows(tmp_path / "r.jsonl"))
    assert (failed, len(found)) == (6, 8)
    messages = {row["message"] for row in found}
    assert "OSError: no luck" in messages
    assert any("11 is not a multiple of num_ranks=4" in message for message in messages)
    assert [row["num_layers"] for row in found if row["status"] == "ok"] == [3, 1]


def test_windows_of_a_trace(tmp_path: Path) -> None:
    trace = np.random.default_rng(0).integers(1, 99, (7, 2, 8))
    np.save(tmp_path / "trace.npy", trace)
    text = """
blocks:
  - {instances: [{file: trace.npy, window: 3}], machines: [{redundant: 0, gpus: 2}],
     policies: [deepseek]}
"""
    with Store(tmp_path / "r.jsonl") as store:
        run_sweep(read_spec(spec_file(tmp_path, text)), store)
    found = list(rows(tmp_path / "r.jsonl"))
    assert [row["instance"]["source"].rsplit("/")[-1] for row in found] == [
        "trace.npy[0:3]",
        "trace.npy[3:6]",
    ]


def test_all_errors_of_a_spec_at_once(tmp_path: Path) -> None:
    text = """
blocks:
  - instances: [{file: none.json}, {family: lognormal, layers: 0, experts: 12, seeds: [1]}]
    machines: [{gpus: 4}, {redundant: 1, gpus: 0}]
    rules: [best]
    policies: [deepsek]
sed: 1
"""
    with pytest.raises(SpecError) as caught:
        read_spec(spec_file(tmp_path, text))
    lines = str(caught.value).splitlines()
    for part in ("layers: ", "one of redundant and physical", "gpus: ", "rules", "sed: "):
        assert any(part in line and "spec.yaml" in line for line in lines), (part, lines)
    assert all(len(line) < 300 for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blocks: [", "not YAML"),
        ("3", "the document"),
        (SMALL.replace("deepseek, refined", "deepsek"), "unknown policy 'deepsek'"),
        (SMALL.replace("{time_limit: 120}", "{time_limit: 1, backend: cplex}"), "'cplex' is not"),
        (SMALL.replace("deepseek, refined", "missing.py"), "no such file: .*missing.py"),
    ],
)
def test_bad_specs(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_spec(spec_file(tmp_path, text))


def test_a_large_plan_is_not_held_in_memory() -> None:
    import tracemalloc

    seeds = list(range(10_000))
    spec = Spec.model_validate(
        {
            "blocks": [
                {
                    "instances": [{"family": "gamma", "layers": 1, "experts": 8, "seeds": seeds}],
                    "machines": [{"redundant": 0, "gpus": 2}],
                    "policies": ["deepseek", "refined"],
                }
            ]
        }
    )
    tracemalloc.start()
    assert sum(len(task.units) for task in left(spec, set())) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # the keys of all units, and nothing else


def test_results_as_a_table(complete: Path, tmp_path: Path) -> None:
    frame = load(complete)
    assert len(frame) == 24
    assert frame["instance.num_ranks"].isin([4, 8]).all()
    assert frame.groupby("policy")["gap_mean"].mean()["refined"] >= 0
    for suffix in ("csv", "parquet"):
        assert export(complete, tmp_path / f"table.{suffix}") == 24
    import pandas as pd

    assert len(pd.read_csv(tmp_path / "table.csv")) == 24
    assert len(pd.read_parquet(tmp_path / "table.parquet")["layer_gaps"][0]) == 2
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        export(complete, tmp_path / "table.xls")


def test_plan_on_the_command_line(tmp_path: Path) -> None:
    result = eplb_opt("sweep", spec_file(tmp_path), "--dry-run")
    assert result.returncode == 0
    assert "24 units in 8 tasks: 4 loads, 2 machines, 1 rules, 3 policies" in result.stdout
    assert "... and 14 more" in result.stdout


def test_the_smoke_sweep_is_a_valid_plan() -> None:
    path = Path(__file__).parents[3] / "benchmarks" / "smoke.yaml"
    units = [unit for task in tasks(read_spec(path)) for unit in task.units]
    assert len(units) == len(set(units)) > 50


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_a_cluster_survives_the_death_of_a_worker(complete: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    (tmp_path / "slow.py").write_text(
        "import pathlib, time, torch\n"
        "def rebalance_experts(weight, replicas, *_):\n"
        "    pathlib.Path(__file__).with_name('started').touch()\n"
        "    time.sleep(0.5)\n"
        "    return (torch.arange(replicas) % weight.shape[1]).repeat(len(weight), 1)\n"
    )
    text = SMALL.replace("[deepseek, refined]", "[deepseek, refined, slow.py]")
    spec, output, address = spec_file(tmp_path, text), tmp_path / "r.jsonl", tmp_path / "address"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    scheduler = subprocess.Popen(
        [*dask, "--port", "0", "--no-dashboard", "--scheduler-file", str(address)],
        stderr=subprocess.DEVNULL,
    )
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(address)]
    options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory"]
    workers = []
    try:
        while not address.exists():
            assert scheduler.poll() is None
            time.sleep(0.05)
        workers = [
            subprocess.Popen([*worker, *options, str(tmp_path / name)], stderr=subprocess.DEVNULL)
            for name in "ab"
        ]
        host = json.loads(address.read_text())["address"]
        sweep = subprocess.Popen(
            [*PROGRAM, "sweep", str(spec), "-o", str(output), "--dask", host],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        while not (tmp_path / "started").exists():
            assert sweep.poll() is None, sweep.communicate()
            time.sleep(0.02)
        workers[0].kill()
        _, errors = sweep.communicate(timeout=120)
        assert sweep.returncode == 0, errors.decode()
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()
    found = by_unit(output)
    assert len(found) == 4 * 2 * 4
    expected = by_unit(complete)
    assert {unit: row for unit, row in found.items() if unit in expected} == expected


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    command = [*PROGRAM, "sweep", str(spec_file(tmp_path)), "-o", str(tmp_path / "r.jsonl")]
    environment = os.environ | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "500ms"}
    result = subprocess.run(
        [*command, "--dask", "tcp://127.0.0.1:9"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "127.0.0.1:9" in result.stderr
