"""Sweeps on several processes, and sweeps that are killed or interrupted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eplb_opt.sweep import Store, read_spec, run_sweep
from tests.command_line import PROGRAM, heed_interrupts
from tests.eplb_opt.sweep.results import SMALL, by_unit, spec_file


@pytest.mark.slow
def test_workers_find_the_same(complete: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    with Store(output) as store:
        run_sweep(read_spec(spec_file(tmp_path)), store, workers=2)
    assert by_unit(output) == by_unit(complete)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
