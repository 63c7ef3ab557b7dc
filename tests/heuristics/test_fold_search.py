"""The search for counts with two slots a rank, and that a device takes the host's branches."""

from __future__ import annotations

import pytest
import torch

from heuristics import fold_search, makespan, swaps
from heuristics.compiled import HAVE_NUMBA
from heuristics.fold_search import search_counts
from heuristics.makespan import makespans
from heuristics.packing import by_load, snake
from heuristics.policies import deepseek, refined
from heuristics.replication import count_replicas
from tests.heuristics.loads import lognormal


@pytest.mark.skipif(not HAVE_NUMBA, reason="numba is not installed")
@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
def test_both_forms_find_the_same_counts(sigma, monkeypatch):
    loads = lognormal(12, 48, sigma=sigma, seed=1)
    start = deepseek(loads, 64, 1, 1, 32)
    compiled = search_counts(loads, start, 40, seed=3)
    monkeypatch.setattr(fold_search, "HAVE_NUMBA", False)
    assert torch.equal(compiled, search_counts(loads, start, 40, seed=3))
    counts = count_replicas(compiled, 48)
    assert counts.min() == 1
    assert counts.sum(1).eq(64).all()


def test_other_counts_bring_most_layers_below_greedy_ones():
    loads = lognormal(20, 256, sigma=0.5, seed=4)
    folded = by_load(snake)(loads, deepseek(loads, 288, 1, 1, 144), 144)
    gain = makespans(loads, folded, 144) / makespans(loads, refined(loads, 288, 1, 1, 144), 144)
    assert gain.median() > 1.015


@pytest.mark.parametrize(
    ("slots", "ranks"),
    [(48, 4), (48, 12), (48, 24), (72, 4), (72, 12), (72, 18), (72, 24), (72, 36)],
)
def test_a_device_that_drops_no_rows_places_what_the_host_places(slots, ranks, monkeypatch):
    loads = torch.cat([lognormal(4, 48, sigma=s, seed=6) for s in (0.5, 1.0, 1.5)])
    placed = refined(loads, slots, 1, 1, ranks)
    for module in (makespan, swaps):
        monkeypatch.setattr(module, "host_may_look", lambda _: False)
    assert torch.equal(placed, refined(loads, slots, 1, 1, ranks))
