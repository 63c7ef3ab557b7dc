from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Placement
from heuristics import rebalance_experts
from heuristics.packing import snake
from heuristics.policies import COUNTS, PACKINGS, REFINEMENTS, compose
from heuristics.replication import count_replicas, greedy_counts
from tests.heuristics.loads import lognormal

few_loads = st.lists(st.integers(0, 60), min_size=4, max_size=4)


@pytest.mark.parametrize("rule", COUNTS)
@given(loads=st.lists(few_loads, min_size=1, max_size=3), slots=st.integers(4, 13))
@settings(max_examples=40)
def test_counts_fill_the_slots_and_leave_nobody_out(rule, loads, slots):
    replicas = COUNTS[rule](torch.tensor(loads, dtype=torch.float32), slots)
    counts = count_replicas(replicas, 4)
    assert counts.sum(1).tolist() == [slots] * len(loads)
    assert int(counts.min()) >= 1


@given(loads=few_loads, slots=st.integers(4, 9))
@settings(max_examples=60)
def test_greedy_counts_minimize_the_largest_replica(loads, slots):
    counts = greedy_counts(torch.tensor([loads], dtype=torch.float64), slots)[0].tolist()
    choices = itertools.product(range(1, slots - 2), repeat=4)
    best = min(
        max(w / c for w, c in zip(loads, choice, strict=True))
        for choice in choices
        if sum(choice) == slots
    )
    assert max(w / c for w, c in zip(loads, counts, strict=True)) == best


@given(loads=st.lists(st.integers(0, 30), min_size=6, max_size=6))
@settings(max_examples=60)
def test_snake_folds_optimally_with_two_slots(loads):
    order = snake(torch.tensor([loads], dtype=torch.float64), 3)[0].tolist()
    assert sorted(order) == list(range(6))
    best = min(
        max(loads[p[0]] + loads[p[1]], loads[p[2]] + loads[p[3]], loads[p[4]] + loads[p[5]])
        for p in itertools.permutations(range(6))
    )
    assert max(loads[a] + loads[b] for a, b in zip(order[::2], order[1::2], strict=True)) == best


@pytest.mark.parametrize(
    "refinement", [name for name in REFINEMENTS if name != "exchange-for-spread"]
)
def test_refinements_never_raise_the_makespan(refinement):
    loads = lognormal(40, 24, sigma=1.2, seed=4)
    policies = ["greedy + snake", f"greedy + snake + {refinement}"]
    before, after = (
        Placement(rebalance_experts(loads, 32, 1, 1, 8, policy=name)[0].numpy(), 24)
        .rank_loads(loads.numpy(), 8)
        .max(axis=1)
        for name in policies
    )
    assert (after <= before * (1 + 1e-6)).all()
    assert (after < before * (1 - 1e-6)).any()


@pytest.mark.parametrize(("counts", "packing"), list(itertools.product(COUNTS, PACKINGS)))
def test_every_composition_is_valid(counts, packing):
    loads = torch.rand(4, 12, generator=torch.Generator().manual_seed(2)).pow(4)
    name = " + ".join([counts, packing, "pair-resplit", "swap-extremes"])
    phy2log, _, logcnt = rebalance_experts(loads, 20, 4, 2, 4, policy=name)
    assert np.array_equal(Placement(phy2log.numpy(), 12).logcnt, logcnt.numpy())
    assert int(logcnt.min()) >= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("greedy", "'greedy' does not name a counts rule and a packing"),
        ("best + lpt", "counts rule 'best' is not one of greedy, "),
        ("greedy + best", "packing 'best' is not one of lpt, "),
        ("greedy + lpt + best", "refinement 'best' is not one of pair-resplit, "),
    ],
)
def test_unknown_stages_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        compose(name)
