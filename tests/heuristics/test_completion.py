from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heuristics import RefinedEplbPolicy, rebalance_experts_sglang
from heuristics.completion import complete
from heuristics.matching import count_transfers


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_holes_are_filled_with_the_fewest_transfers(data: st.DataObject) -> None:
    ranks, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    experts = data.draw(st.integers(1, ranks * size))
    slot = st.integers(-1, experts - 1)
    before = data.draw(st.lists(slot, min_size=ranks * size, max_size=ranks * size))
    loads = data.draw(st.lists(st.integers(0, 5), min_size=experts, max_size=experts))
    after = complete(torch.tensor([before]), torch.tensor([loads]), ranks)[0].tolist()
    assert set(after) == set(range(experts))
    holes, lost = before.count(-1), experts - len(set(before) - {-1})
    changed = sum(old != new for old, new in zip(before, after, strict=True))
    assert changed == max(holes, lost)


class FewTransfers(RefinedEplbPolicy):
    policy = "refined:3"


def test_a_budget_holds_beside_the_experts_that_are_lost_with_a_rank() -> None:
    # 24 experts in 32 slots on 8 ranks: with a rank go experts that no other rank has.
    loads = torch.rand(3, 24, generator=torch.Generator().manual_seed(0)).exp()
    old = RefinedEplbPolicy.rebalance_experts(loads, 32, 1, 1, 8)
    lost = [24 - len(set(layer[:28])) for layer in old.tolist()]
    assert min(lost) > 0
    fewer = FewTransfers.rebalance_experts(loads, 28, 1, 1, 7, old)
    takes = count_transfers(old[:, :28], fewer, 7, 24).tolist()
    assert all(n <= k + 3 for n, k in zip(takes, lost, strict=True))
    active = torch.tensor([1] * 7 + [0])
    sglang = rebalance_experts_sglang(
        loads[None], 32, 4, 1, 1, "refined:3", active_ranks=active, old=old
    )[0]
    takes = count_transfers(old[:, :28], sglang[:, :28], 7, 24).tolist()
    assert all(n <= k + 3 for n, k in zip(takes, lost, strict=True))


def test_a_budget_holds_beside_the_slots_that_ranks_bring() -> None:
    loads = torch.rand(3, 24, generator=torch.Generator().manual_seed(0)).exp()
    old = RefinedEplbPolicy.rebalance_experts(loads, 28, 1, 1, 7)
    wider = torch.nn.functional.pad(old, (0, 4), value=-1)
    more = FewTransfers.rebalance_experts(loads, 32, 1, 1, 8, wider)
    assert bool((count_transfers(old, more[:, :28], 7, 24) <= 3).all())
