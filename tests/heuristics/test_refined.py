from __future__ import annotations

import pytest
import torch

from eplb_opt import Placement
from heuristics.policies import deepseek, refined
from heuristics.refined import EFFORTS
from tests.heuristics.loads import normal

# (experts, slots, groups, nodes, ranks): S = 9, 10, 5, 4, 3, 2, 1 and a single rank
SHAPES = [
    (64, 72, 1, 1, 8),
    (64, 80, 8, 4, 8),
    (32, 40, 1, 1, 8),
    (24, 32, 8, 2, 8),
    (24, 36, 1, 1, 12),
    (24, 32, 4, 2, 16),
    (12, 16, 1, 1, 16),
    (6, 8, 1, 1, 1),
]


def sample_loads(experts: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    sigma = torch.tensor([0.5, 1.0, 1.5, 0.0]).repeat(6)[:, None]
    loads = (sigma * normal(24, experts, seed=experts)).exp() * 1000
    loads[3::4] = 1000 / torch.arange(1, experts + 1)  # zipf
    loads[7] = 0
    return loads.to(dtype)


def makespans(loads, phy2log, ranks):
    placement = Placement(phy2log.numpy(), loads.shape[1])
    return placement.rank_loads(loads.numpy(), ranks).max(axis=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_layer_is_worse_than_the_baseline_or_than_with_less_effort(shape, dtype):
    experts, slots, groups, nodes, ranks = shape
    loads = sample_loads(experts, dtype)
    previous = makespans(loads, deepseek(loads, slots, groups, nodes, ranks), ranks)
    for effort in EFFORTS:
        phy2log = refined(loads, slots, groups, nodes, ranks, effort=effort)
        assert Placement(phy2log.numpy(), experts).logcnt.min() >= 1
        now = makespans(loads, phy2log, ranks)
        assert (now <= previous * (1 + 1e-14)).all()  # the two sides sum in different orders
        previous = now


@pytest.mark.parametrize("effort", EFFORTS)
def test_not_worse_than_the_baseline_where_float32_cannot_tell_the_groups(effort):
    generator = torch.Generator().manual_seed(5)
    steps = torch.randint(1, 5, (40, 24), generator=generator, dtype=torch.float64)
    loads = steps + 1e-9 * torch.rand(40, 24, generator=generator, dtype=torch.float64)
    baseline = makespans(loads, deepseek(loads, 32, 8, 2, 8), 8)
    now = makespans(loads, refined(loads, 32, 8, 2, 8, effort=effort), 8)
    assert (now <= baseline * (1 + 1e-14)).all()


def test_gap_to_the_mean_is_small_where_the_mean_can_be_reached():
    loads = sample_loads(64)[0::4]  # lognormal 0.5: no expert is near the mean rank load
    phy2log = refined(loads, 72, 1, 1, 8)
    mean = loads.double().sum(1).numpy() / 8
    gap = makespans(loads, phy2log, 8) / mean - 1
    baseline = makespans(loads, deepseek(loads, 72, 1, 1, 8), 8) / mean - 1
    assert gap.mean() < 1e-3 < baseline.mean()


def test_folding_is_optimal_for_two_slots_and_given_counts():
    loads = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1]])
    phy2log = refined(loads, 8, 1, 1, 4)
    assert makespans(loads, phy2log, 4).tolist() == [9]


def test_other_counts_can_win_with_two_slots():
    # The published example of FlashLB: greedy counts and LPT give 232.
    loads = torch.tensor([[600.0, 560, 120, 120, 20, 10, 10, 10]])
    greedy = makespans(loads, deepseek(loads, 16, 1, 1, 8), 8)
    ours = makespans(loads, refined(loads, 16, 1, 1, 8), 8)
    assert greedy.tolist() == [232]
    assert ours.tolist() == pytest.approx([590 / 3])  # the joint optimum


def test_placements_do_not_depend_on_threads_or_repetition():
    loads = sample_loads(128)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 4, 1):
            torch.set_num_threads(count)
            results += [refined(loads, *shape) for shape in ((160, 1, 1, 32), (144, 8, 4, 16))]
    finally:
        torch.set_num_threads(threads)
    for other in (results[2:4], results[4:6], results[6:8]):
        assert torch.equal(results[0], other[0])
        assert torch.equal(results[1], other[1])


def test_unknown_effort_is_named():
    with pytest.raises(ValueError, match="effort='more' is not one of fast, default, thorough"):
        refined(torch.ones(1, 4), 4, 1, 1, 2, effort="more")
