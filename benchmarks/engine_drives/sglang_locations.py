"""SGLang's placement of experts around a policy, on a CPU; weights move between ranks in threads.

For ``engine_tests.py``. ``ExpertLocationMetadata.init_by_eplb``, the choice of the algorithm, the
elastic state and the transfer of weights are SGLang's own code, the policy comes in by its plugin.
Replaced are the server's arguments, the model, and sending and receiving.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.elastic_ep.elastic_ep import ElasticEPState, ElasticEPStateManager
from sglang.srt.eplb import expert_location, expert_location_updater
from sglang.srt.eplb.expert_location import ExpertLocationMetadata

L, E, P, G, K, N = 3, 32, 48, 8, 8, 4
S = P // G
ALGORITHMS = ["auto", "deepseek", "deepseek_hierarchical", "deepseek_vec",
              "deepseek_vec_hierarchical", "elasticity_aware",
              "elasticity_aware_hierarchical"]  # fmt: skip


@pytest.fixture
def server(monkeypatch):
    """Its arguments, to be changed by a test."""
    moe = SimpleNamespace(ep_num_redundant_experts=P - E, eplb_algorithm="auto",
                          ep_dispatch_algorithm="dynamic", ep_join_mode=None)  # fmt: skip
    parallel = SimpleNamespace(ep_size=G, nnodes=N, elastic_ep_initial_size=None)
    model = expert_location.ModelConfigForExpertLocation(L, E, K)
    patch = monkeypatch.setattr
    patch(expert_location, "get_exec", lambda: SimpleNamespace(moe=moe))
    patch(expert_location, "get_parallel", lambda: parallel)
    patch(expert_location, "get_device", lambda: SimpleNamespace(device="cpu"))
    patch(expert_location.ModelConfigForExpertLocation, "from_model_config", lambda _: model)
    patch(ElasticEPStateManager, "_instance", None)
    patch(ElasticEPStateManager, "healthy_rank_state", lambda: torch.ones(G, dtype=torch.int32))
    return SimpleNamespace(moe=moe, parallel=parallel, model=model, monkeypatch=monkeypatch)


def tokens(steps: int = 5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(steps, L, E).log_normal_(3, 1, generator=generator).long()


def check(found: ExpertLocationMetadata, dead=()) -> None:
    """Both maps say the same, and every expert is on a rank that lives."""
    phy2log, log2phy = found.physical_to_logical_map, found.logical_to_all_physical_map
    assert phy2log.shape == (L, P)
    assert log2phy.shape == (L, E, P)
    for layer in range(L):
        for expert in range(E):
            slots = found.logical_to_all_physical(layer, expert)
            assert slots, f"expert {expert} is nowhere"
            assert len(slots) == found.logical_to_all_physical_map_num_valid[layer, expert]
            assert not {slot // S for slot in slots} & set(dead), "an expert depends on a dead rank"
            assert (phy2log[layer, slots] == expert).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_placement_by_the_rule_of_the_algorithm(server, algorithm):
    server.moe.eplb_algorithm = algorithm
    found = ExpertLocationMetadata.init_by_eplb(None, tokens())
    check(found)
    node_of_group = found.physical_to_logical_map.view(L, N, -1) // (E // K)
    groups = [[len(set(node)) for node in layer] for layer in node_of_group.tolist()]
    hierarchical = algorithm == "auto" or algorithm.endswith("_hierarchical")
    assert all(most == K // N for layer in groups for most in layer) == hierarchical


def test_from_a_recording_without_steps(server):
    check(ExpertLocationMetadata.init_by_eplb(None, tokens()[0]))


def test_without_groups(server):
    server.model.num_groups = None
    check(ExpertLocationMetadata.init_by_eplb(None, tokens()))


def test_without_loads(server):
    found = ExpertLocationMetadata.init_by_eplb(None, torch.zeros(5, L, E, dtype=torch.long))
    check(found)
    counts = found.logical_to_all_physical_map_num_valid
    assert (counts.amax(-1) - counts.amin(-1)).max() <= 1, counts[0].tolist()


def test_every_process_finds_the_same(server):
    first = ExpertLocationMetadata.init_by_eplb(None, tokens())
    ExpertLocationMetadata.init_by_eplb(None, tokens(seed=1))
    again = ExpertLocationMetadata.init_by_eplb(None, tokens())
    assert torch.equal(first.physical_to_logical_map, again.physical_to_logical_map)


def kill(server, dead, capacity: int = G) -> None:
    """The elastic state with ranks dead and room for ``capacity`` ranks, the last of them free."""
    live = torch.ones(capacity, dtype=torch.int32)
    live[[*dead, *range(G, capacity)]] = 0
    state = ElasticEPState(live, live.clone(), live.clone(), effective_ep_size=G)
    server.monkeypatch.setattr(ElasticEPStateManager, "_instance", state)


@pytest.mark.parametrize("algorithm", ["elasticity_aware", "elasticity_aware_hierarchical"])
@pytest.mark.parametrize("dead", [[], [3], [0, 7], [1, 2]])
def test_dead_ranks(server, algorithm, dead):
    server.moe.eplb_algorithm = algorithm
    kill(server, dead)
    check(ExpertLocationMetadata.init_by_eplb(None, tokens()), dead)


def test_dead_ranks_where_more_may_join(server):
    server.moe.eplb_algorithm = "elasticity_aware"
    kill(server, [3], capacity=G + 2)
    check(ExpertLocationMetadata.init_by_eplb(None, tokens()), [3])


def test_too_few_slots_live(server):
    server.moe.eplb_algorithm = "elasticity_aware"
    kill(server, [0, 1, 2])
    with pytest.raises((ValueError, AssertionError)):
        ExpertLocationMetadata.init_by_eplb(None, tokens())


@dataclass
class Transfer:
    op: object
    tensor: torch.Tensor
    peer: int


@pytest.mark.parametrize("nodes", [1, N])
def test_weights_move_as_the_map_says(server, nodes):
    server.parallel.nnodes = nodes
    old = (torch.arange(P) % E).expand(L, -1)
    new = ExpertLocationMetadata.init_by_eplb(None, tokens()).physical_to_logical_map
    local, sent = threading.local(), defaultdict(queue.Queue)

    def batch(transfers):
        for one in transfers:
            if one.op is torch.distributed.isend:
                sent[local.rank, one.peer].put(one.tensor.clone())
        for one in transfers:
            if one.op is torch.distributed.irecv:
                one.tensor.copy_(sent[one.peer, local.rank].get(timeout=60))
        return []

    server.monkeypatch.setattr(expert_location_updater, "P2POp", Transfer)
    server.monkeypatch.setattr(torch.distributed, "batch_isend_irecv", batch)
    held = old.float().view(L, G, S, 1).clone()

    def move(rank: int) -> None:
        local.rank = rank
        for layer in range(L):
            expert_location_updater.update_expert_weights_single_layer(
                [held[layer, rank]], [torch.empty(S, 1)], old[layer].tolist(), new[layer].tolist(),
                num_local_physical_experts=S, num_gpu_per_node=G // nodes, rank=rank, world_size=G,
            )  # fmt: skip

    threads = [threading.Thread(target=move, args=(rank,)) for rank in range(G)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(held.view(L, P), new.float())
