"""Rows of results, what is done again, and the file that keeps them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from eplb_opt.sweep import Store, StoreError, export, load, read_spec, rows, run_sweep
from eplb_opt.sweep.tasks import tasks
from tests.eplb_opt.sweep.results import SMALL, by_unit, spec_file


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
    assert "OSError: no luck (bad.py, line 2)" in messages
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
