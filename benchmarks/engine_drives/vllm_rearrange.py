"""vLLM's ``EplbState`` around a policy, on a CPU: ranks are threads, a weight is its expert.

For ``engine_tests.py``. Weights, maps, transfers and the elastic steps are vLLM's own code.
Replaced are the groups (all-reduce by a barrier), the communicator (a queue for each transfer),
the node count, and ``torch.Event``, which times on an accelerator only.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from vllm.distributed.eplb import async_worker, eplb_state, rebalance_execute
from vllm.distributed.eplb.eplb_communicator import EplbCommunicator
from vllm.distributed.eplb.eplb_state import EplbState
from vllm.distributed.eplb.migration_scheduler import schedule_migration_batches_for_layers
from vllm.distributed.eplb.policy import EPLB_POLICIES
from vllm.distributed.stateless_coordinator import StatelessGroupCoordinator

E, S, HIDDEN = 24, 5, 2
PATIENCE = 60


class Event:
    """In place of ``torch.Event``."""

    def __init__(self, **_: object) -> None: ...

    def record(self, *_: object) -> None: ...

    wait = synchronize = record

    def elapsed_time(self, _: object) -> float:
        return 0.0


class Ranks(StatelessGroupCoordinator):
    """All ranks of a group, seen from the thread of one; also its device and CPU group."""

    def __init__(self, num_ranks: int) -> None:
        self.barrier = threading.Barrier(num_ranks, timeout=PATIENCE)
        self.given: list[Tensor | None] = [None] * num_ranks
        self.local = threading.local()
        self.sent: dict[tuple[int, int, int], queue.Queue] = defaultdict(queue.Queue)
        self.transfers = 0
        self.device_group = self.cpu_group = self.tcp_store_group = self
        self.world_size = num_ranks

    def rank(self) -> int:
        return self.local.rank

    def size(self) -> int:
        return len(self.given)

    def all_reduce(self, tensor: Tensor, group: object = None) -> None:
        self.given[self.rank()] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(sum(self.given))
        self.barrier.wait()

    def each(self, work) -> list:
        """``work(rank)`` in a thread of each rank; the first exception of any is raised."""
        results, errors = [None] * self.size(), []

        def one(rank: int) -> None:
            self.local.rank = rank
            try:
                results[rank] = work(rank)
            except Exception as error:
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size())]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
            raise error
        return results


class Communicator(EplbCommunicator):
    """Sends into queues; receives once all sends of a layer are out."""

    needs_profile_buffer_reservation = False

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.wanted: list = []

    def add_send(self, tensors, dst_rank, expert_id) -> None:
        self.ranks.transfers += 1
        key = self.ranks.rank(), dst_rank, expert_id
        self.ranks.sent[key].put([tensor.clone() for tensor in tensors])

    def add_recv(self, tensors, src_rank, expert_id) -> None:
        self.wanted.append((tensors, (src_rank, self.ranks.rank(), expert_id)))

    def execute(self) -> None:
        for tensors, key in self.wanted:
            for mine, sent in zip(tensors, self.ranks.sent[key].get(timeout=PATIENCE), strict=True):
                mine.copy_(sent)
        self.wanted = []


class Model:
    """What ``EplbState`` asks of a model, on one rank; a weight holds (layer, expert)."""

    num_routed_experts = num_logical_experts = E
    moe_layers = ()

    def __init__(self, num_ranks: int, num_layers: int, num_groups: int) -> None:
        self.num_moe_layers, self.num_expert_groups = num_layers, num_groups
        self.num_local_physical_experts = S
        self.resize(num_ranks)
        self.expert_weights = [[torch.full((S, HIDDEN), -1.0)] for _ in range(num_layers)]

    def resize(self, num_ranks: int) -> None:
        self.num_physical_experts = num_ranks * S
        self.num_redundant_experts = num_ranks * S - E

    def set_eplb_state(self, *_: object) -> None: ...

    def fill(self, phy2log: Tensor, rank: int) -> None:
        for layer, (weight,) in enumerate(self.expert_weights):
            mine = phy2log[layer, rank * S : (rank + 1) * S]
            weight[:] = (1000.0 * layer + mine)[:, None]

    def experts(self) -> Tensor:
        """[L, S] those whose weights this rank holds."""
        held = torch.stack([weight[:, 0] for (weight,) in self.expert_weights])
        return held - 1000.0 * torch.arange(len(held))[:, None]


class Deployment:
    """``EplbState`` of every rank of a model or several."""

    def __init__(self, monkeypatch, num_ranks, *, layers=(3,), groups=1, nodes=1, largest=8):
        self.ranks = Ranks(num_ranks)
        self.monkeypatch, self.nodes = monkeypatch, nodes
        self.use(self.ranks)
        monkeypatch.setattr(torch, "Event", Event)
        self.config = SimpleNamespace(
            enable_elastic_ep=True, elastic_ep_max_dp_size=largest, data_parallel_size=num_ranks,
            num_ubatches=0,
            eplb_config=SimpleNamespace(
                use_async=False, window_size=2, step_interval=100, policy="default",
                communicator="torch_gloo", log_balancedness_interval=1,
                migration_batching_enabled=False,
            ),
        )  # fmt: skip
        self.keys = [SimpleNamespace(compute_hash=lambda i=i: str(i), model=f"model {i}")
                     for i in range(len(layers))]  # fmt: skip
        self.states = self.ranks.each(lambda rank: self.state(rank, num_ranks, layers, groups))

    def use(self, ranks: Ranks) -> None:
        patch, self.ranks = self.monkeypatch.setattr, ranks
        for module in (eplb_state, async_worker):
            patch(module, "get_eplb_group", lambda: ranks)
        patch(eplb_state, "get_ep_group", lambda: ranks)
        patch(eplb_state, "all_reduce", ranks.all_reduce)
        patch(eplb_state, "get_node_count", lambda: self.nodes)
        patch(eplb_state, "_node_count_with_rank_mapping", lambda *_: self.nodes)
        patch(eplb_state, "create_eplb_communicator", lambda **_: Communicator(ranks))

    def state(self, rank, num_ranks, layers, groups) -> EplbState:
        state = EplbState(self.config, torch.device("cpu"))
        # Ranks are processes: what a policy's class remembers, it remembers by rank.
        policy = type("OfRank", (EPLB_POLICIES["default"],), {})
        for key, count in zip(self.keys, layers, strict=True):
            model = Model(num_ranks, count, groups)
            state.add_model(model, key)
            state.policy = policy
            model.fill(state.model_states[key.compute_hash()].physical_to_logical_map, rank)
        return state

    def record(self, seed: int = 0, load: int = 1) -> None:
        """Each rank a window of its own; the loads of slots follow those of experts."""
        for rank, state in enumerate(self.states):
            for index, model in enumerate(state.model_states.values()):
                generator = torch.Generator().manual_seed(seed * 100 + index)
                shape = model.physical_to_logical_map.shape[0], E
                loads = torch.empty(shape).log_normal_(3, 1, generator=generator).int() * (rank + 1)
                loads = loads * 2520  # up to ten replicas share them in whole tokens
                phy2log = model.physical_to_logical_map
                counts = torch.zeros(shape).scatter_add_(1, phy2log, torch.ones(phy2log.shape))
                per_slot = loads.float() / counts
                model.expert_load_window[:] = load * per_slot.gather(1, phy2log).int()

    def rearrange(self, **options: object) -> None:
        self.ranks.transfers = 0
        self.ranks.each(lambda rank: self.states[rank].rearrange(**options))

    def grow(self, num_ranks: int, is_async: bool = False) -> None:
        """Ranks join, and experts are placed anew, as ``commit_scale_up`` does it."""
        key, before = self.keys[0], len(self.states)
        last = self.states[0].model_states[key.compute_hash()].last_expert_load
        old = self.states[0].model_states[key.compute_hash()].physical_to_logical_map_buffer.clone()
        self.config.data_parallel_size = num_ranks
        self.use(Ranks(num_ranks))
        self.states += self.ranks.each(
            lambda rank: self.state(rank, num_ranks, old.shape[:1], 1) if rank >= before else None
        )[before:]
        for rank, state in enumerate(self.states):
            model = state.model_states[key.compute_hash()]
            if rank < before:
                state.reconfigure_physical_expert_slots(key, num_ranks * S)
                model.model.resize(num_ranks)
            else:
                old[:, before * S :] = -1
                state.update_mapping(key, old)
                model.last_expert_load = last
            state.update_communicator(key, Communicator(self.ranks))
            state.is_async = is_async
        assert (self.maps()[:, :, before * S :] == -1).all()
        self.rearrange(use_last_expert_load=True)
        if is_async:
            self.ranks.each(lambda rank: consume(self.states[rank], rank))

    def shrink(self, leaving: Sequence[int]) -> None:
        """Experts are placed anew on the ranks that stay, then the others leave."""
        staying = [rank for rank in range(len(self.states)) if rank not in leaving]
        self.rearrange(
            rank_mapping={rank: staying.index(rank) if rank in staying else -1
                          for rank in range(len(self.states))},
            use_last_expert_load=True,
        )  # fmt: skip
        self.states = [self.states[rank] for rank in staying]
        self.use(Ranks(len(staying)))
        for state in self.states:
            state.reconfigure_physical_expert_slots(self.keys[0], len(staying) * S)
            model = state.model_states[self.keys[0].compute_hash()]
            model.model.resize(len(staying))
            state.update_communicator(self.keys[0], Communicator(self.ranks))

    def maps(self, model: int = 0) -> Tensor:
        """[G, L, P] the map that each rank has."""
        key = self.keys[model].compute_hash()
        return torch.stack([state.model_states[key].physical_to_logical_map
                            for state in self.states])  # fmt: skip

    def check(self) -> None:
        """Ranks agree, hold what their maps say, and every expert among them."""
        for index, key in enumerate(self.keys):
            maps = self.maps(index)
            assert (maps == maps[0]).all(), "ranks disagree"
            for layer in maps[0].tolist():
                assert set(layer) == set(range(E)), "experts without a replica"
            states = [state.model_states[key.compute_hash()] for state in self.states]
            held = torch.cat([state.model.experts() for state in states], dim=1)
            assert torch.equal(held, maps[0].float()), "weights are not those of the map"
            log2phy, counts = states[0].logical_to_physical_map, states[0].logical_replica_count
            assert torch.equal((log2phy >= 0).sum(-1), counts)


@pytest.mark.parametrize(("groups", "nodes"), [(1, 1), (4, 2), (3, 2), (8, 3)])
def test_rearrange_moves_weights_as_the_map_says(monkeypatch, groups, nodes):
    ranks = Deployment(monkeypatch, 6, groups=groups, nodes=nodes)
    ranks.record()
    ranks.rearrange()
    assert ranks.ranks.transfers
    ranks.check()


def test_rearranging_again_on_the_same_loads_moves_nothing(monkeypatch):
    ranks = Deployment(monkeypatch, 6)
    ranks.record()
    for _ in range(3):
        ranks.rearrange()
        ranks.record()
    ranks.rearrange()
    ranks.check()
    assert ranks.ranks.transfers == 0


def test_without_loads(monkeypatch):
    ranks = Deployment(monkeypatch, 6)
    ranks.rearrange()
    ranks.check()
    counts = ranks.maps()[0, 0].bincount(minlength=E)
    assert counts.max() - counts.min() <= 1, f"replicas of experts without load: {counts.tolist()}"


@pytest.mark.parametrize("loaded", [False, True])
def test_profile_run_leaves_the_map(monkeypatch, loaded):
    ranks = Deployment(monkeypatch, 6)
    if loaded:
        ranks.record()
    before = ranks.maps().clone()
    ranks.rearrange(is_profile=True)
    assert torch.equal(ranks.maps(), before)
    ranks.check()


def test_models_of_several_depths(monkeypatch):
    ranks = Deployment(monkeypatch, 6, layers=(3, 1))
    ranks.record()
    ranks.rearrange()
    ranks.check()


@pytest.mark.parametrize("is_async", [False, True])
def test_scale_up(monkeypatch, is_async):
    """6 -> 8: the old map holds -1 on the new ranks; loads are those of the last rearrangement."""
    ranks = Deployment(monkeypatch, 6)
    ranks.record()
    ranks.rearrange()
    ranks.grow(8, is_async)
    ranks.check()


@pytest.mark.parametrize("leaving", [(6, 7), (2, 5)])
def test_scale_down(monkeypatch, leaving):
    """8 -> 6: the old map is wider than the placement asked for; vLLM 0.33 ends the last ranks."""
    ranks = Deployment(monkeypatch, 8)
    ranks.record()
    ranks.rearrange()
    ranks.shrink(leaving)
    ranks.check()


def test_scale_down_and_up_while_idle(monkeypatch):
    """What ranks remember of busy times must not tell them from ranks that join."""
    ranks = Deployment(monkeypatch, 8)
    ranks.record()
    ranks.rearrange()
    ranks.record(load=0)
    ranks.rearrange()
    ranks.shrink((6, 7))
    ranks.grow(8)
    ranks.check()


def consume(state: EplbState, rank: int) -> int:
    """The worker's and the main thread's part of an asynchronous rearrangement, in turns."""
    transfers = 0
    for model in state.model_states.values():
        old = model.physical_to_logical_map.clone()
        new = async_worker.run_rebalance_experts(model, state, old, None)
        schedule_migration_batches_for_layers(S, old.numpy(), new.numpy())
        for layer in range(model.model.num_moe_layers):
            metadata = rebalance_execute.transfer_layer(
                old_layer_indices=old[layer],
                new_layer_indices=new[layer],
                expert_weights=model.model.expert_weights[layer],
                expert_weights_buffer=model.expert_buffer,
                communicator=model.communicator,
                ep_group=eplb_state.get_ep_group(),
                layer_idx=layer,
            )
            transfers += metadata.recv_count
            consumed = SimpleNamespace(record=lambda: None)
            model.pending_result = rebalance_execute.AsyncEplbLayerResult(
                layer, new[layer], metadata, consumed
            )
            eplb_state._move_to_workspace(model, rank)
        assert not model.rebalanced
    return transfers


def test_asynchronous_rearrangement(monkeypatch):
    ranks = Deployment(monkeypatch, 6, layers=(2, 1))
    for state in ranks.states:
        state.is_async = True
    ranks.record()
    ranks.rearrange()
    assert ranks.ranks.transfers == 0
    assert sum(ranks.ranks.each(lambda rank: consume(ranks.states[rank], rank)))
    ranks.check()


def test_replicas_that_stay_on_their_rank_keep_their_slot(monkeypatch):
    ranks = Deployment(monkeypatch, 6)
    ranks.record()
    ranks.rearrange()
    old = ranks.maps()[0].view(3, 6, S)
    ranks.record(seed=1)
    ranks.rearrange()
    new = ranks.maps()[0].view(3, 6, S)
    for before, after in zip(old.reshape(-1, S).tolist(), new.reshape(-1, S).tolist(), strict=True):
        for expert in set(before) & set(after):
            least = min(before.count(expert), after.count(expert))
            kept = sum(b == a == expert for b, a in zip(before, after, strict=True))
            assert kept == least, f"{expert} of {before} is elsewhere in {after}"
