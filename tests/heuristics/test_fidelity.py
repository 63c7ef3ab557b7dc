"""The policies against what the programs they follow returned; see data/README.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from eplb_opt import Instance, Placement, Topology
from eplb_opt.problem.validity import find_violations
from heuristics import rebalance_experts

RECORDED = np.load(Path(__file__).parent / "data" / "seed_programs.npz")
CONFIGURATIONS = range(6)
ZIPF = RECORDED["families"].tolist().index("zipf")
FOLLOWED = ["waterfill-diverse", "apportion-zigzag", "vectorized-swap"]


@dataclass(frozen=True)
class Outcome:
    """Counts [L, E] and rank loads [L, N, G / N], ascending within a node."""

    counts: NDArray[np.int64]
    rank_loads: NDArray[np.float64]

    @property
    def makespans(self) -> NDArray[np.float64]:
        return self.rank_loads.max(axis=(1, 2))


def recorded(configuration: int, policy: str) -> tuple[Outcome, NDArray[np.bool_]]:
    key = f"{configuration}.{policy}"
    _, _, _, nodes, _ = RECORDED[f"{configuration}.sizes"].tolist()
    loads = RECORDED[f"{key}.rank_loads"].astype(np.float64)
    outcome = Outcome(RECORDED[f"{key}.counts"], loads.reshape(len(loads), nodes, -1))
    return outcome, RECORDED[f"{key}.valid"]


def ours(configuration: int, policy: str) -> Outcome:
    experts, slots, groups, nodes, ranks = RECORDED[f"{configuration}.sizes"].tolist()
    loads = RECORDED[f"{configuration}.loads"]
    weight = torch.from_numpy(loads)
    phy2log, _, logcnt = rebalance_experts(weight, slots, groups, nodes, ranks, policy=policy)
    placement = Placement(phy2log.numpy(), experts)
    rule = "hierarchical" if groups % nodes == 0 else "global"
    assert (
        find_violations(placement, Instance(loads, Topology(slots, ranks, nodes, groups), rule))
        == []
    )
    rank_loads = placement.rank_loads(loads, ranks).reshape(len(loads), nodes, -1)
    return Outcome(logcnt.numpy(), np.sort(rank_loads, axis=2))


def same(first: Outcome, second: Outcome) -> NDArray[np.bool_]:
    counts = (first.counts == second.counts).all(axis=1)
    loads = np.isclose(first.rank_loads, second.rank_loads, rtol=1e-6, atol=0)
    return counts & loads.all(axis=(1, 2))


@pytest.mark.parametrize("policy", FOLLOWED)
def test_same_counts_and_rank_loads_as_the_seed_program(policy):
    agree = []
    for i in CONFIGURATIONS:
        expected, valid = recorded(i, policy)
        agree += same(ours(i, policy), expected)[valid].tolist()
    assert len(agree) >= 200
    assert np.mean(agree) >= 0.99


def test_replica_refine_is_the_seed_program_where_that_lowered_the_makespan():
    agree = []
    for i in CONFIGURATIONS:
        swapped, _ = recorded(i, "vectorized-swap")
        moved, _ = recorded(i, "replica-refine")
        fell = moved.rank_loads.max(2) < swapped.rank_loads.max(2) * (1 - 1e-7)
        expected = np.where(fell[:, :, None], moved.rank_loads, swapped.rank_loads)
        got = ours(i, "replica-refine")
        agree += (
            np.isclose(got.rank_loads, expected, rtol=1e-6, atol=0).all(axis=2).ravel().tolist()
        )
        one_node = expected.shape[1] == 1
        if one_node:
            counts = np.where(fell, moved.counts, swapped.counts)
            assert np.mean((got.counts == counts).all(axis=1)) >= 0.99
    assert len(agree) >= 200
    assert np.mean(agree) >= 0.99


def test_fault_of_seed_004_it_keeps_a_worse_makespan():
    worse = 0
    for i in CONFIGURATIONS:
        swapped, _ = recorded(i, "vectorized-swap")
        moved, _ = recorded(i, "replica-refine")
        worse += int((moved.makespans > swapped.makespans * (1 + 1e-6)).sum())
        assert (ours(i, "replica-refine").makespans <= swapped.makespans * (1 + 1e-6)).all()
    assert worse > 0


def test_fault_of_seed_001_it_returns_a_wrong_number_of_slots():
    invalid = 0
    for i in CONFIGURATIONS:
        _, valid = recorded(i, "apportion-zigzag")
        invalid += int((~valid).sum())
        slots = int(RECORDED[f"{i}.sizes"][1])
        assert (ours(i, "apportion-zigzag").counts.sum(axis=1) == slots).all()
    assert invalid > 0


@pytest.mark.parametrize("policy", ["waterfill-diverse", "apportion-zigzag"])
def test_fault_of_seeds_000_and_001_far_over_the_baseline_on_skewed_loads(policy):
    excess = []
    for i in CONFIGURATIONS:
        expected, valid = recorded(i, policy)
        skewed = valid & (RECORDED[f"{i}.family"] == ZIPF)
        excess += (expected.makespans / ours(i, "deepseek").makespans - 1)[skewed].tolist()
    assert np.mean(excess) > 0.02


def test_fault_of_seed_000_one_rank_a_node_has_all_replicas_in_one_slot():
    loads = torch.tensor([[4.0, 3, 2, 1, 8, 7, 6, 5]])
    phy2log, _, logcnt = rebalance_experts(loads, 12, 4, 4, 4, policy="waterfill-diverse")
    assert Placement(phy2log.numpy(), 8).logcnt.tolist() == logcnt.tolist()
    assert int(logcnt.min()) >= 1
