"""The drop-in for SGLang's dispatcher, in a package that has SGLang's names."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from heuristics import rebalance_experts
from heuristics.dispatch import own_tokens, shares, whole
from heuristics.engines import plugins as eplb_plugins
from heuristics.engines import sglang_dispatch as sglang
from tests.heuristics import fake_engines

ROOT = Path(__file__).parents[2]
E, P, G, K = 6, 12, 4, 2


class Group:
    """Ranks in threads of one process, which wait for each other."""

    def __init__(self, num_ranks: int) -> None:
        self.barrier = threading.Barrier(num_ranks, timeout=30)
        self.given: list[Tensor | None] = [None] * num_ranks
        self.local = threading.local()

    @property
    def rank_in_group(self) -> int:
        return self.local.rank

    def all_gather(self, input_: Tensor, dim: int) -> Tensor:
        self.given[self.rank_in_group] = input_
        self.barrier.wait()
        every = torch.cat(self.given, dim)
        self.barrier.wait()
        return every

    def all_reduce(self, input_: Tensor) -> Tensor:
        return self.all_gather(input_[None], 0).sum(0)


def maps(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Of one layer, log2phy with a column more than an expert can have replicas."""
    weight = torch.rand(1, E, generator=torch.Generator().manual_seed(seed)) ** 3 + 0.01
    phy2log, log2phy, logcnt = rebalance_experts(weight, P, 1, 1, G)
    return phy2log[0], torch.nn.functional.pad(log2phy[0], (0, 1), value=-1), logcnt[0]


def routed(num_tokens: int, seed: int) -> Tensor:
    """[tokens, K] int32: different experts for each token, the first ones more often."""
    rng = torch.Generator().manual_seed(seed)
    popularity = torch.rand(num_tokens, E, generator=rng) + torch.linspace(1, 0, E)
    return popularity.topk(K).indices.int()


def info(rank_invariant: bool = False, algorithm: str = "lp") -> SimpleNamespace:
    return SimpleNamespace(ep_dispatch_algorithm=algorithm, rank_invariant=rank_invariant)


def fail(*_: object) -> Tensor:
    raise AssertionError("SGLang's own function was called")


def served(solver_class: type, ids: list[Tensor], phy2log: Tensor, log2phy: Tensor) -> list[Tensor]:
    """The slots of the tokens of all ranks, each rank a thread."""
    group, slots = Group(len(ids)), [torch.empty(0)] * len(ids)

    def rank(index: int) -> None:
        group.local.rank = index
        solver = solver_class(phy2log, log2phy, len(ids), group)
        probability = solver.solve(ids[index])
        slots[index] = sglang.topk_ids_logical_to_physical(fail, ids[index], info(), probability)

    threads = [threading.Thread(target=rank, args=(i,)) for i in range(len(ids))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return slots


def counted(ids: Tensor, size: int) -> Tensor:
    return torch.bincount(ids[ids >= 0].flatten(), minlength=size)


def check_experts(slots: Tensor, ids: Tensor, phy2log: Tensor) -> None:
    """Each token at a slot of its expert, in the dtype of its ids; padding stays."""
    assert slots.dtype == ids.dtype
    assert slots.shape == ids.shape
    assert torch.equal(slots < 0, ids < 0)
    assert torch.equal(phy2log[slots[slots >= 0].long()], ids[ids >= 0].long())


def best(total: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """[P] the tokens of each slot that the dispatcher decides for all ranks together."""
    part = shares(total[None].float(), phy2log[None], num_ranks)
    return whole(total[None], phy2log[None], part, num_ranks)[0]


def test_probabilities_are_the_shares_in_the_order_of_the_map():
    phy2log, log2phy, logcnt = maps()
    solver = sglang.LPLBSolver(phy2log, log2phy, G, None, logcnt)
    ids = routed(50, 1)
    found = solver.solve(ids)
    assert found.dtype == torch.float32
    assert found.shape == log2phy.shape
    expected = shares(counted(ids, E)[None].float(), phy2log[None], G)[0]
    for expert in range(E):
        slots = log2phy[expert, : logcnt[expert]]
        assert torch.equal(found[expert, : logcnt[expert]], expected[slots].float())
    torch.testing.assert_close(found.sum(1), torch.ones(E))
    assert not found[log2phy < 0].any()


def test_an_expert_without_tokens_is_shared_evenly():
    phy2log, log2phy, logcnt = maps()
    found = sglang.LPLBSolver(phy2log, log2phy, G).solve(torch.empty(0, K, dtype=torch.int32))
    torch.testing.assert_close(found, (log2phy >= 0) / logcnt[:, None])


def test_ranks_meet_the_counts_together():
    phy2log, log2phy, _ = maps()
    ids = [routed(n, seed) for seed, n in enumerate((40, 0, 7, 61))]
    ids[2][5:] = -1  # padding
    slots = served(sglang.LPLBSolver, ids, phy2log, log2phy)
    for own, experts in zip(slots, ids, strict=True):
        check_experts(own, experts, phy2log)
    total = sum(counted(experts, E) for experts in ids)
    assert torch.equal(sum(counted(own, P) for own in slots), best(total, phy2log, G))


def test_without_a_gather_each_rank_rounds_its_own():
    phy2log, log2phy, _ = maps()
    ids = [routed(n, seed) for seed, n in enumerate((40, 0, 7, 61))]
    slots = served(sglang.OwnCountsSolver, ids, phy2log, log2phy)
    total = sum(counted(experts, E) for experts in ids)
    part = shares(total[None].float(), phy2log[None], G)
    for rank, (own, experts) in enumerate(zip(slots, ids, strict=True)):
        check_experts(own, experts, phy2log)
        expected = own_tokens(counted(experts, E)[None], phy2log[None], part, rank)[0]
        assert torch.equal(counted(own, P), expected)


def test_where_all_ranks_have_the_same_tokens_they_agree():
    phy2log, log2phy, _ = maps()
    ids = routed(33, 5)
    group = SimpleNamespace(rank_in_group=2, all_gather=lambda x, dim: torch.cat([x] * G, dim))
    probability = sglang.LPLBSolver(phy2log, log2phy, G, group).solve(ids)
    slots = sglang.topk_ids_logical_to_physical(fail, ids, info(rank_invariant=True), probability)
    check_experts(slots, ids, phy2log)
    assert torch.equal(counted(slots, P), best(counted(ids, E), phy2log, G))


def test_maps_that_change_in_place_are_read_anew():
    phy2log, log2phy, _ = maps(0)
    solver = sglang.LPLBSolver(phy2log, log2phy, G)
    solver.solve(routed(20, 0))
    phy2log.copy_(phy2log.flip(0))
    log2phy.copy_(torch.where(log2phy < 0, -1, P - 1 - log2phy))
    ids = routed(50, 1)
    slots = sglang.topk_ids_logical_to_physical(fail, ids, info(), solver.solve(ids))
    check_experts(slots, ids, phy2log)
    assert torch.equal(counted(slots, P), best(counted(ids, E), phy2log, G))


@pytest.mark.parametrize("algorithm", ["static", "dynamic", "fake"])
def test_other_algorithms_are_left_to_sglang(algorithm: str):
    ids, given = routed(3, 0), info(algorithm=algorithm)
    calls = []
    result = sglang.topk_ids_logical_to_physical(lambda *a: calls.append(a) or ids, ids, given)
    assert result is ids
    assert calls == [(ids, given, None)]
    assert sglang.topk_ids_logical_to_physical(lambda t, *_: t, ids, None) is ids


def test_slots_that_do_not_fill_the_ranks_are_refused():
    phy2log, log2phy, _ = maps()
    with pytest.raises(ValueError, match="12 physical experts are no multiple of num_gpus=5"):
        sglang.LPLBSolver(phy2log, log2phy, 5)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a package ``sglang``, importable, with this project's plugin installed."""
    with fake_engines.installed(tmp_path, monkeypatch):
        yield tmp_path


@pytest.mark.usefixtures("engine")
def test_the_plugin_does_nothing_unless_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(eplb_plugins.DISPATCH, raising=False)
    from sglang.srt import moe_ep_setup, plugins

    theirs = moe_ep_setup.LPLBSolver
    plugins.load_plugins()
    assert plugins.failed == plugins.HookRegistry.hooks == []
    assert moe_ep_setup.LPLBSolver is theirs


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("word", ["dispatch", "dispatch:own"])
def test_the_plugin_replaces_both_where_they_were_imported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, word: str
):
    monkeypatch.setenv(eplb_plugins.DISPATCH, word)
    from sglang.srt import moe_ep_setup, plugins, topk

    plugins.load_plugins()
    assert plugins.failed == []
    assert moe_ep_setup.LPLBSolver is sglang.SOLVERS[word]
    assert topk.topk_ids_logical_to_physical.func is sglang.topk_ids_logical_to_physical
    assert len(caplog.records) == 1
    assert word in caplog.text


@pytest.mark.usefixtures("engine")
def test_an_unknown_word_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(eplb_plugins.DISPATCH, "on")
    from sglang.srt import plugins

    plugins.load_plugins()
    assert [str(e) for e in plugins.failed] == [
        "EPLB_OPT_SGLANG='on' is unknown: say one of dispatch, dispatch:own"
    ]
    assert plugins.HookRegistry.hooks == []


@pytest.mark.slow
def test_two_processes_meet_the_counts_together(engine: Path):
    now, then = maps(0), maps(1)
    names = "phy2log", "log2phy", "logcnt"
    width = max(now[1].shape[1], then[1].shape[1])

    def padded(log2phy: Tensor) -> Tensor:
        return torch.nn.functional.pad(log2phy, (0, width - log2phy.shape[1]), value=-1)

    traffic = {"steps": np.array(3)}
    for prefix, placement in ("", now), ("next_", then):
        for name, value in zip(names, placement, strict=True):
            value = padded(value) if name == "log2phy" else value
            traffic[prefix + name] = torch.stack([value, value]).numpy()
    numbers = {(0, 0): 20, (0, 1): 9, (1, 0): 0, (1, 1): 31, (2, 0): 17, (2, 1): 0}
    for (step, rank), num_tokens in numbers.items():
        for layer in range(2):
            ids = routed(num_tokens, seed=step + 10 * rank + 100 * layer)
            traffic[f"ids_{step}_{layer}_{rank}"] = ids.numpy()
    np.savez(engine / "traffic.npz", **traffic)

    path = os.pathsep.join([str(engine), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, eplb_plugins.DISPATCH: "dispatch"}
    program = str(Path(__file__).with_name("sglang_rank.py"))
    ranks = [
        subprocess.Popen([sys.executable, program, str(engine), str(rank)], env=environment)
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    found = [np.load(engine / f"{rank}.npz") for rank in range(2)]
    for step in range(3):
        phy2log = (now if step == 0 else then)[0]
        for layer in range(2):
            ids = [torch.from_numpy(traffic[f"ids_{step}_{layer}_{r}"]) for r in range(2)]
            slots = [torch.from_numpy(f[f"{step}_{layer}"]) for f in found]
            for own, experts in zip(slots, ids, strict=True):
                check_experts(own, experts, phy2log)
            total = sum(counted(experts, E) for experts in ids)
            assert torch.equal(sum(counted(own, P) for own in slots), best(total, phy2log, 2))
