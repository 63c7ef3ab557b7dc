from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Placement, Topology
from eplb_opt.problem.validity import find_violations
from heuristics.replication import count_replicas
from heuristics.steps.starts import hop_widths, pack_chain, pack_links, starts
from heuristics.steps.values import mean_makespans
from tests.heuristics.loads import lognormal


def holders(phy2log: torch.Tensor, num_experts: int, num_ranks: int) -> torch.Tensor:
    """[E, G] whether the rank holds the expert, of the first layer."""
    one_hot = torch.nn.functional.one_hot(phy2log[0].view(num_ranks, -1), num_experts)
    return (one_hot.sum(1) > 0).T


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 6), st.integers(0, 3), st.booleans())
@settings(max_examples=40)
def test_all_starts_are_valid_for_any_sizes(layers, experts, ranks, further, idle):
    slots = ranks * (-(-experts // ranks) + further)
    loads = lognormal(layers, experts, sigma=2.0, seed=experts).round()
    if idle:
        loads[-1] = 0
    found = starts(loads, slots, 1, 1, ranks)
    instance = Instance(loads.numpy(), Topology(slots, ranks))
    for name, placed in found.items():
        assert find_violations(Placement(placed.numpy(), experts), instance) == [], name
    baseline = count_replicas(found["deepseek"], experts)
    for name in ("chain", "links"):  # the flat chain has counts of its own
        assert torch.equal(count_replicas(found[name], experts), baseline)


def test_under_the_hierarchical_rule_within_nodes() -> None:
    loads = lognormal(3, 32, sigma=1.5, seed=1)
    instance = Instance(loads.numpy(), Topology(48, 8, 2, 4), "hierarchical")
    for name, placed in starts(loads, 48, 4, 2, 8).items():
        assert find_violations(Placement(placed.numpy(), 32), instance) == [], name


def test_a_chain_by_hand() -> None:
    """Expert 0 has three replicas, 1 has two, and 4 redundant slots on 4 ranks close the ring:
    0 on ranks 0, 1, 2; 1 on 2 and 3; 2 on 3 and 0. Single experts fill the rest.
    """
    loads = torch.tensor([[12.0, 7, 6, 1, 2, 3, 1, 1]])
    replicas = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 1, 2]])
    placed = pack_chain(loads, replicas, 4)
    held = holders(placed, 8, 4)[:3]
    assert held.int().tolist() == [[1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]]
    assert placed.view(4, 3).tolist() == [[0, 2, 3], [0, 5, 6], [0, 1, 7], [1, 2, 4]]


def test_fewer_hops_than_ranks_leave_breaks_between_experts() -> None:
    loads = torch.tensor([[9.0, 8, 1, 1, 1, 1, 1, 1, 1, 1]])
    replicas = torch.tensor([[*range(10), 0, 1]])
    held = holders(pack_chain(loads, replicas, 6), 10, 6)[:2]
    assert held.int().tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0]]


def test_links_are_between_different_ranks() -> None:
    """Six experts twice on 4 ranks: each of the six pairs of ranks once."""
    replicas = torch.tensor([[*range(6)] * 2])
    held = holders(pack_links(torch.ones(1, 6), replicas, 4), 6, 4).int()
    assert sorted(held.tolist()) == sorted(
        [1 if rank in pair else 0 for rank in range(4)]
        for pair in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    )


def test_more_replicas_than_ranks_are_on_all_of_them() -> None:
    loads, replicas = torch.tensor([[10.0, 1]]), torch.tensor([[0, 1, 0, 0, 0, 0, 0, 0]])
    for pack in (pack_chain, pack_links):
        assert bool(holders(pack(loads, replicas, 4), 2, 4)[0].all())


@pytest.mark.parametrize("slots", [40, 48])
def test_a_chain_loses_less_than_the_baseline(slots: int) -> None:
    loads = lognormal(6, 32, sigma=1.0, seed=2)
    steps = loads * lognormal(20, 6, 32, sigma=0.2, seed=3)
    found = starts(loads, slots, 1, 1, 8)
    chain, deepseek = mean_makespans(steps, torch.stack([found["chain"], found["deepseek"]]), 8)
    mean = steps.sum(-1).mean(0) / 8
    assert float((chain - mean).sum()) < float((deepseek - mean).sum()) / 3


def test_every_round_of_a_chain_visits_all_ranks() -> None:
    assert hop_widths(32, 4).tolist() == [1, 7, 17, 23]
    assert hop_widths(8, 3).tolist() == [1, 3, 1]
    for num_ranks in range(1, 20):
        for width in hop_widths(num_ranks, 5).tolist():
            assert len({width * hop % num_ranks for hop in range(num_ranks)}) == num_ranks


def test_on_other_devices_torch_deals_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = lognormal(3, 20, sigma=1.0, seed=4)
    sizes = (32, 1, 1, 4)
    by_numpy = starts(loads, *sizes)
    monkeypatch.setattr("heuristics.steps.starts.native", lambda tensor: tensor)
    by_torch = starts(loads, *sizes)
    assert [name for name in by_numpy if not torch.equal(by_numpy[name], by_torch[name])] == []
