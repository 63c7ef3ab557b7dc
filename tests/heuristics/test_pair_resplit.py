from __future__ import annotations

import numpy as np
import pytest
import torch

from heuristics.pair_resplit import PackedPlacement, Round, run_rounds


@pytest.mark.parametrize("partners", [1, 3, 7, 100])
@pytest.mark.parametrize(("slots", "ranks"), [(9, 8), (5, 7), (3, 12), (20, 2), (7, 5)])
def test_a_round_keeps_all_replicas_and_raises_no_makespan(slots, ranks, partners):
    generator = torch.Generator().manual_seed(slots * ranks)
    loads = torch.rand(6, slots * ranks, generator=generator, dtype=torch.float64).exp().pow(3)
    placement = torch.rand(6, slots * ranks, generator=generator).argsort(dim=1)
    before = PackedPlacement.of(loads, placement, ranks)
    after = run_rounds(before, [Round(partners, shift=3)])
    assert np.array_equal(np.sort(after.phy2log, axis=1), np.sort(placement, axis=1))
    totals = (after.replicas >> 32).sum(1).view(6, ranks)
    assert torch.equal(after.totals, totals.float())
    assert bool((after.makespan <= before.makespan).all())
    assert bool((after.makespan < before.makespan).any())
