"""What engines call, as they call it: each defect found there once, and the plugins."""

from __future__ import annotations

import threading
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from eplb_opt import Instance, Topology
from eplb_opt.problem.homes import traffic
from heuristics import RefinedEplbPolicy, rebalance_experts, rebalance_experts_sglang
from heuristics.engines.plugins import POLICY
from heuristics.engines.rules import ruled_placer
from heuristics.engines.vllm import WindowedEplbPolicy, eplb_policy
from heuristics.engines.windows import Windows
from heuristics.matching import count_transfers, fit_ranks
from heuristics.policies import STEP_POLICIES, TABLE, placer
from heuristics.shape import ArgumentError
from tests.heuristics import fake_engines

Algorithm = Enum("EplbAlgorithm", "deepseek deepseek_hierarchical elasticity_aware_hierarchical")
L, E, S, G = 3, 24, 4, 8
P = S * G


def loads(seed: int = 0, steps: int | None = None) -> Tensor:
    shape = (L, E) if steps is None else (steps, L, E)
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=rng) ** 3 * 1000).long() + 1


def same(maps: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(maps, others, strict=True))


class TestScaling:
    """E1: vLLM hands over the old map in its old width."""

    old = RefinedEplbPolicy.rebalance_experts(loads(), P, 0, 1, G)

    @pytest.mark.parametrize("policy", ["refined", "refined:30"])
    def test_down_keeps_the_slots_of_ranks_that_stay(self, policy: str):
        new = eplb_policy(policy).rebalance_experts(loads(1), 6 * S, 0, 1, 6, self.old)
        anew = placer("refined")(loads(1), 6 * S, 1, 1, 6)
        ranks = [x[:, : 6 * S].view(L, 6, S) for x in (new, self.old, anew)]
        if policy == "refined":
            assert torch.equal(ranks[0].sort(2).values, ranks[2].sort(2).values)
        kept = (ranks[0] == ranks[1]).sum(2)
        for layer in range(L):
            for rank in range(6):
                now, was = (x[layer, rank].bincount(minlength=E) for x in ranks[:2])
                assert int(kept[layer, rank]) == int(torch.minimum(now, was).sum())

    def test_down_starts_from_what_is_left(self):
        everyone = torch.arange(P).remainder(E).repeat(L, 1)
        new = eplb_policy("refined:5").rebalance_experts(loads(1), 6 * S, 0, 1, 6, everyone)
        assert int(count_transfers(everyone[:, : 6 * S], new, 6, E).max()) <= 5

    def test_up_keeps_the_slots_of_old_ranks(self):
        for old in (self.old, fit_ranks(self.old, 10 * S, 10)):
            new = RefinedEplbPolicy.rebalance_experts(loads(1), 10 * S, 0, 1, 10, old)
            assert int((new[:, :P] == self.old).sum()) > 0
            assert torch.equal(new, RefinedEplbPolicy.preserve_intragpu_slots(new, 10, self.old))

    def test_ranks_of_another_size_are_forgotten(self):
        assert fit_ranks(torch.zeros(1, 10), 12, 3).unique().tolist() == [-1]


class TestDeadRanks:
    """E2: SGLang with ``elasticity_aware``."""

    active = torch.tensor([1, 0, 1, 1, 1, 1, 0, 1], dtype=torch.int32)
    slots = torch.arange(P).view(G, S)[active.bool()].flatten()

    @pytest.mark.parametrize("algorithm", ["refined", *Algorithm])
    def test_no_expert_depends_on_one(self, algorithm: object):
        trace = loads(0, 4)
        phy2log, log2phy, logcnt = rebalance_experts_sglang(
            trace, P, S, 4, 2, algorithm, self.active
        )
        assert phy2log.shape == (L, P)
        assert not phy2log[:, ~torch.isin(torch.arange(P), self.slots)].any()
        assert (logcnt == (log2phy >= 0).sum(2)).all()
        assert bool((logcnt > 0).all())
        for layer in range(L):
            of_expert = [log2phy[layer, e, : logcnt[layer, e]] for e in range(E)]
            assert torch.equal(torch.cat(of_expert).sort().values, self.slots)
            assert all((phy2log[layer, slots] == e).all() for e, slots in enumerate(of_expert))
        live = rebalance_experts(trace.sum(0), 6 * S, 1, 1, 6)
        assert torch.equal(phy2log[:, self.slots], live[0])
        assert torch.equal(logcnt, live[2])

    def test_all_live_is_as_without(self):
        found = rebalance_experts_sglang(
            loads(0, 4), P, S, 4, 2, Algorithm.deepseek_hierarchical, torch.ones(G)
        )
        expected = rebalance_experts(loads(0, 4).sum(0), P, 4, 2, G)
        assert same(found, expected)

    def test_too_few_slots_are_counted(self):
        few = (torch.arange(G) < 5).int()
        with pytest.raises(ArgumentError, match="5 of 8 ranks live, with 4 slots each: 4 slots "):
            rebalance_experts_sglang(loads(0, 2), P, S, None, 1, "refined", few)
        with pytest.raises(ArgumentError, match=r"active_ranks of shape \(5,\) is not \(8,\)"):
            rebalance_experts_sglang(loads(0, 2), P, S, None, 1, "refined", few[:5])

    def test_a_budget_counts_from_what_is_left(self):
        old = torch.arange(P).remainder(E).repeat(L, 1)  # what is on rank 1 is on rank 7, too
        active = torch.ones(G)
        active[1] = 0
        for start, most in ((old, 6), (old % 4, P)):
            new = rebalance_experts_sglang(
                loads(0, 2), P, S, None, 1, "refined:6", active, old=start
            )
            live = torch.arange(P).view(G, S)[active.bool()].flatten()
            moved = count_transfers(start[:, live], new[0][:, live], 7, E)
            assert int(moved.max()) <= most


def test_the_algorithm_that_sglang_asked_for_says_the_rule():
    """E3."""
    trace = loads(0, 4)
    everywhere = rebalance_experts(trace.sum(0), P, 1, 1, G)
    within = rebalance_experts(trace.sum(0), P, 4, 2, G)
    assert not torch.equal(everywhere[0], within[0])
    for name, expected in (
        ("deepseek", everywhere),
        ("deepseek_vec", everywhere),
        ("elasticity_aware", everywhere),
        ("deepseek_hierarchical", within),
        ("elasticity_aware_hierarchical", within),
    ):
        theirs = Enum("EplbAlgorithm", name)[name]
        assert same(rebalance_experts_sglang(trace, P, S, 4, 2, theirs), expected)
    baseline = rebalance_experts_sglang(
        trace, P, S, 4, 2, Algorithm.deepseek_hierarchical, policy="deepseek"
    )
    assert same(baseline, rebalance_experts(trace.sum(0), P, 4, 2, G, policy="deepseek"))
    assert same(rebalance_experts_sglang(trace, P, S, 4, 2, "deepseek", policy="refined"), baseline)
    with pytest.raises(ArgumentError, match=r"num_groups \(under deepseek_hierarchical\)=1 is not"):
        rebalance_experts_sglang(trace, P, S, None, 2, Algorithm.deepseek_hierarchical)
    with pytest.raises(ArgumentError, match="algorithm=3 is neither"):
        rebalance_experts_sglang(trace, P, S, None, 2, 3)


def test_vllm_moves_within_a_budget():
    """E4."""
    old = RefinedEplbPolicy.rebalance_experts(loads(), P, 0, 1, G)
    new = eplb_policy("refined:6").rebalance_experts(loads(1), P, 0, 1, G, old)
    assert 0 < int(count_transfers(old, new, G, E).max()) <= 6


class TestVllmsTests:
    """E5: what vLLM's own tests ask for."""

    def test_slots_are_preserved_in_numpy(self):
        old = np.array([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 4]])
        new = np.array([[2, 0, 5, 4, 1, 3], [1, 2, 5, 4, 4, 3]])
        kept = RefinedEplbPolicy.preserve_intragpu_slots(new, 2, old)
        assert isinstance(kept, np.ndarray)
        assert kept.tolist() == [[0, 5, 2, 3, 4, 1], [5, 1, 2, 3, 4, 4]]
        tensors = RefinedEplbPolicy.preserve_intragpu_slots(
            torch.from_numpy(new), 2, torch.from_numpy(old)
        )
        assert tensors.tolist() == kept.tolist()
        for ranks in (0, 4):
            assert RefinedEplbPolicy.preserve_intragpu_slots(new, ranks, old) is new

    def test_a_numpy_map_is_read(self):
        old = RefinedEplbPolicy.rebalance_experts(loads(), P, 0, 1, G)
        for policy in ("refined", "refined:6"):
            place = eplb_policy(policy).rebalance_experts
            found = place(loads(1), P, 0, 1, G, old.numpy())
            assert torch.equal(found, place(loads(1), P, 0, 1, G, old))

    @pytest.mark.parametrize("kind", [ValueError, AssertionError])
    @pytest.mark.parametrize("sizes", [(P, 1, 1, 5), (E - 8, 1, 1, G), (P, 5, 5, G)])
    def test_bad_sizes_are_both_kinds_of_error(self, kind: type, sizes: tuple[int, ...]):
        with pytest.raises(kind):
            RefinedEplbPolicy.rebalance_experts(loads(), *sizes)

    @pytest.mark.parametrize("policy", [*TABLE, *(n for n in STEP_POLICIES if n.endswith(":fast"))])
    def test_no_loads_are_spread_evenly(self, policy: str):
        steps = (2,) if policy in STEP_POLICIES else ()
        _, _, counts = rebalance_experts(torch.zeros(*steps, 1, 4), 6, 1, 1, 2, policy=policy)
        assert sorted(counts[0].tolist()) == [1, 1, 2, 2]
        half = torch.tensor([[8.0, 4, 2, 1, 0, 0, 0, 0]]).expand(*steps, 1, 8)
        _, _, counts = rebalance_experts(half, 12, 2, 2, 2, policy=policy)
        assert sorted(counts[0, 4:].tolist()) == [1, 1, 2, 2]


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages ``sglang`` and ``vllm``, importable, with this project's plugins installed."""
    with fake_engines.installed(tmp_path, monkeypatch):
        yield


@pytest.mark.usefixtures("engines")
class TestPlugins:
    """E6: what is set in the parent does not reach workers, plugins do."""

    def place_in_sglang(self, trace: Tensor, algorithm: str = "deepseek") -> object:
        from sglang.srt.eplb import expert_location
        from sglang.srt.plugins import HookRegistry, failed, load_plugins

        HookRegistry.hooks.clear()
        failed.clear()
        load_plugins()
        return expert_location.init_by_eplb(trace, P, G, 4, 2, algorithm)

    def place_in_vllm(self, window: Tensor, old: Tensor | None = None) -> Tensor:
        from vllm.distributed.eplb import eplb_state
        from vllm.plugins import load_general_plugins

        load_general_plugins()
        return eplb_state.rearrange(window, P, 4, 2, G, old)

    def test_are_off_unless_asked_for(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv(POLICY, raising=False)
        assert self.place_in_sglang(loads(0, 2)) == "by SGLang"
        with pytest.raises(AttributeError):
            self.place_in_vllm(loads())

    @pytest.mark.parametrize("policy", ["refined", "refined:6", "greedy + snake"])
    def test_the_named_policy_places(self, monkeypatch: pytest.MonkeyPatch, policy: str):
        monkeypatch.setenv(POLICY, policy)
        old = placer("refined")(loads(), P, 4, 2, G)
        expected = placer(policy)(loads(1, 3).sum(0), P, 4, 2, G, old)
        found = self.place_in_vllm(loads(1, 3).sum(0), old)
        assert torch.equal(found.view(L, G, S).sort().values, expected.view(L, G, S).sort().values)

        from sglang.srt.eplb import expert_location

        expert_location.metadata = SimpleNamespace(physical_to_logical_map_cpu=old)
        found = self.place_in_sglang(loads(1, 3), "deepseek_hierarchical")[0]
        assert torch.equal(found, expected)

    def test_a_rule_behind_the_name_takes_the_place_of_the_engine_s(self, monkeypatch):
        monkeypatch.setenv(POLICY, "refined@home:0.1")
        home = {"rule": "home", "traffic": 0.1}
        expected = rebalance_experts(loads(1, 3).sum(0), P, 4, 2, G, **home)
        assert torch.equal(self.place_in_vllm(loads(1, 3).sum(0)), expected[0])
        assert same(self.place_in_sglang(loads(1, 3), "deepseek"), expected)
        layers = Instance(loads(1, 3).sum(0).numpy(), Topology(P, G, 2, 4), "home",
                          traffic_limit=0.1).layers()  # fmt: skip
        found = [traffic(x, row) for x, row in zip(layers, expected[0].tolist(), strict=True)]
        assert all(0 < x <= 0.1 for x in found)
        monkeypatch.setenv(POLICY, "refined@global")
        expected = rebalance_experts(loads(1, 3).sum(0), P, 1, 1, G)
        assert torch.equal(self.place_in_vllm(loads(1, 3).sum(0)), expected[0])

    @pytest.mark.parametrize("words", ["", "hom", "home:", "home:2", "home:nan", "global:0.1"])
    def test_words_that_are_no_rule(self, words: str):
        with pytest.raises(ValueError, match=f"'@{words}' is not @ and one of auto, global"):
            ruled_placer(f"refined@{words}")

    def test_nodes_that_do_not_divide_groups_are_an_error_under_home(self):
        with pytest.raises(ArgumentError, match="num_groups=4 is not a multiple of num_nodes=8"):
            eplb_policy("refined:9@home").rebalance_experts(loads(), P, 4, 8, G)

    def test_steps_reach_a_policy_for_steps(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(POLICY, "robust:fast")
        trace = loads(2, 3)
        expected = rebalance_experts(trace, P, 1, 1, G, policy="robust:fast")
        assert same(self.place_in_sglang(trace), expected)

    def test_dead_ranks_are_handed_over(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(POLICY, "refined")
        from sglang.srt.elastic_ep.elastic_ep import ElasticEPStateManager

        live = torch.ones(G + 2, dtype=torch.int32)  # two ranks may join later
        live[G:], live[3] = 0, 0
        ElasticEPStateManager.state = SimpleNamespace(active_ranks=live)
        for algorithm in ("elasticity_aware", "elasticity_aware_hierarchical"):
            found = self.place_in_sglang(loads(0, 2), algorithm)
            expected = rebalance_experts_sglang(loads(0, 2), P, S, 1, 1, "refined", live[:G])
            assert same(found, expected)

    def test_an_unknown_name_is_an_error(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(POLICY, "best")
        message = "EPLB_OPT_POLICY='best' names no policy: policy='best' is not one of deepseek, "
        with pytest.raises(ValueError, match=message):
            self.place_in_vllm(loads())
        assert self.place_in_sglang(loads(0, 2)) == "by SGLang"
        from sglang.srt import plugins

        assert str(plugins.failed[0]).startswith(message)


class TestWindows:
    """vLLM hands over one window at a time; policies for steps see the last ones."""

    def test_a_policy_for_steps_sees_the_last_windows(self):
        class LastTwo(WindowedEplbPolicy):
            policy = "robust:fast"
            windows = 2

        for seed in range(3):
            found = LastTwo.rebalance_experts(loads(seed), P, 0, 1, G)
        steps = torch.stack([loads(1), loads(2)])
        assert torch.equal(found, placer("robust:fast")(steps, P, 1, 1, G))
        assert not torch.equal(found, placer("robust:fast")(steps.sum(0), P, 1, 1, G))
        assert LastTwo.recorded is not WindowedEplbPolicy.recorded

    def test_the_class_is_chosen_by_the_policy(self):
        for name in STEP_POLICIES:
            assert issubclass(eplb_policy(name), WindowedEplbPolicy)
        assert not issubclass(eplb_policy("refined:5"), WindowedEplbPolicy)

    def test_what_says_nothing_is_not_remembered(self):
        windows, machine = Windows(), (P, G)
        for nothing in (torch.zeros(L, E), torch.ones(L, E)):
            assert torch.equal(windows.add(nothing, machine, 4), nothing)
        first = windows.add(loads(), machine, 4)
        assert torch.equal(first, loads()[None])
        assert torch.equal(windows.add(torch.zeros(L, E), machine, 4), first)
        assert len(windows.add(loads(1), machine, 4)) == 2

    def test_idle_windows_after_other_ranks_forget_as_ranks_that_join_do(self):
        # Ranks that stayed kept their windows while 8 ranks became 6 and 8 again without load: they
        # placed other than those that had joined, and transfers never came.
        stayed, joined, idle = Windows(), Windows(), torch.zeros(L, E)
        stayed.add(loads(), (P, G), 4)
        assert stayed.add(idle, (P - S, G - 1), 4).shape == (L, E)
        assert torch.equal(stayed.add(idle, (P, G), 4), joined.add(idle, (P, G), 4))
        assert torch.equal(stayed.add(loads(1), (P, G), 4), joined.add(loads(1), (P, G), 4))

    def test_models_have_windows_of_their_own_until_ranks_change(self):
        windows = Windows()
        for seed in range(3):
            main = windows.add(loads(seed), (P, G), 4)
            draft = windows.add(loads(seed)[:1], (P, G), 4)
        assert torch.equal(main, torch.stack([loads(s) for s in range(3)]))
        assert torch.equal(draft, main[:, :1])
        assert len(windows.add(loads(3), (P - S, G - 1), 4)) == 1
        assert len(windows.add(loads(3)[:1], (P - S, G - 1), 4)) == 1
        assert len(windows.add(loads(), (P, G), 4)) == 1

    def test_sizes_that_do_not_fit_are_told_before_windows_are_kept(self):
        class Ours(WindowedEplbPolicy):
            pass

        for ranks in (0, 2 * P, P - 1):
            with pytest.raises(ArgumentError, match="num_gpus"):
                Ours.rebalance_experts(loads(), P, 1, 1, ranks, torch.zeros(L, P).long())
        assert len(Ours.loads(loads(1), P, G)) == 1

    def test_threads_lose_none(self):
        windows = Windows()
        threads = [
            threading.Thread(target=lambda: [windows.add(loads(), (P, G), 99) for _ in range(20)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(windows.add(loads(), (P, G), 99)) == 81
