"""Real processes, real tensors, real faults."""

import json
import multiprocessing
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from eplb_opt.problem.placement import Placement
from eplb_opt.serving.runtime import Runtime, Served
from tests.eplb_opt.serving.runtime import worker

torch_distributed = pytest.importorskip("torch.distributed")
pytestmark = pytest.mark.skipif(
    os.name != "posix" or not torch_distributed.is_gloo_available(), reason="gloo on POSIX"
)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([worker.__name__])  # torch is imported once for all ranks


class Ranks:
    """The processes of a scenario; none outlives the test."""

    def __init__(self, folder: Path, scenario: str, number: int) -> None:
        store = torch_distributed.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        self.store, self.folder, self.scenario = store, folder, scenario
        self.processes = [
            PROCESSES.Process(target=worker.run, args=(scenario, rank, store.port, folder))
            for rank in range(number)
        ]
        for process in self.processes:
            process.start()

    def results(self, ranks: Iterable[int], timeout: float = 120) -> list[dict]:
        try:
            for rank in ranks:
                self.processes[rank].join(timeout)
                assert self.processes[rank].exitcode == 0, f"rank {rank}:\n{self.log(rank)}"
        finally:
            for process in self.processes:
                process.kill()
                process.join()
        names = [self.folder / f"{self.scenario}-{rank}.json" for rank in ranks]
        return [json.loads(name.read_text()) for name in names]

    def log(self, rank: int) -> str:
        return (self.folder / f"{self.scenario}-{rank}.log").read_text(errors="replace")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_rearrangements_move_the_bytes_that_the_maps_say(tmp_path: Path, mode: str) -> None:
    found = Ranks(tmp_path, mode, 4).results(range(4))
    assert all(f["maps"] == found[0]["maps"] for f in found)
    assert all(f["events"] == found[0]["events"] for f in found)
    assert sum(f["bytes"] for f in found) > 0
    committed = [event[0] for event in found[0]["events"]]
    assert set(committed) == ({0, 2} if mode == "sync" else {0, 1})


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["long-sync", "long-async"])
def test_ten_rearrangements_of_experts_of_a_megabyte(tmp_path: Path, mode: str) -> None:
    found = Ranks(tmp_path, mode, 4).results(range(4), timeout=280)
    assert sum(event[1] for event in found[0]["events"]) == 10
    assert all(f["maps"] == found[0]["maps"] for f in found)
    print(mode, [f["bytes"] for f in found], [round(f["seconds"], 1) for f in found])


@pytest.mark.parametrize("size", ["scale", pytest.param("long-scale", marks=pytest.mark.slow)])
def test_four_ranks_three_ranks_four_ranks(tmp_path: Path, size: str) -> None:
    stayed = 0, 2, 3, 4
    ranks = Ranks(tmp_path, size, 5)
    found = dict(zip(stayed, ranks.results(stayed), strict=True))
    assert json.loads((tmp_path / f"{size}-1.json").read_text())["left"]
    assert all(f == found[0] for f in found.values())


def test_a_policy_that_fails_leaves_everything_and_is_asked_again(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, "policy-fails", 4)
    found = ranks.results(range(4))
    asked = [committed for committed, rearranged, _ in found[0]["events"] if rearranged]
    assert asked == [0, 0, 2]
    assert "the placement stays: RuntimeError: first call" in ranks.log(0)
    assert "the placement stays: layer 0: expert 1 has no replica" in ranks.log(0)


def test_a_request_during_a_transfer_asks_nobody(tmp_path: Path) -> None:
    found = Ranks(tmp_path, "request", 4).results(range(4))
    assert found[0]["asked"] > 0
    assert found[0]["answers"] == 0
    assert any(deferred for _, _, deferred in found[0]["events"])


@pytest.mark.slow
def test_two_models_are_moved_side_by_side(tmp_path: Path) -> None:
    found = Ranks(tmp_path, "two-models", 4).results(range(4))
    committed = found[0]["committed"]
    assert {tuple(c) for c in committed} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert all(f == found[0] for f in found)


@pytest.mark.parametrize("how", ["stopped", "killed", "slow-async", "killed-async"])
def test_a_lost_rank_ends_the_others_with_its_name_and_unharmed_weights(
    tmp_path: Path, how: str
) -> None:
    found = Ranks(tmp_path, how, 4).results((0, 1, 3), timeout=60)
    for f in found:
        assert f["seconds"] < 20
        assert "rank 2" in f["error"]
        assert "layer 1" in f["error"] or how == "killed-async"  # found out by what came next
        assert f["again"] == f["error"]
        assert f["maps"][1] == Placement.in_order(1, 6, 8).phy2log[0].tolist()


def test_weights_that_do_not_fit_are_refused() -> None:
    served = Served(2, 2)
    good = torch.zeros(2, 3)
    for models, message in (
        ([[[good]], [[good], [good]]], r"models of \[1, 2\] layers"),
        ([[[torch.zeros(3, 3)]]], r"model 0, layer 0: tensors of \[3\] rows"),
        ([[[torch.zeros(3, 2).T]]], "must be contiguous"),
    ):
        with pytest.raises(ValueError, match=message):
            Runtime(served, models, None, 0, [0])
