from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heuristics.dispatch import expert_counts, physical_ids, tokens_before


def one_by_one(ids, phy2log, tokens, before):
    """Each token to the first slot of its expert that has not got its tokens yet, else the last;
    ``before`` of each expert came before.
    """
    left = tokens.tolist()

    def take(expert):
        slots = [p for p, e in enumerate(phy2log.tolist()) if e == expert]
        slot = next((p for p in slots if left[p] > 0), slots[-1])
        left[slot] -= 1
        return slot

    for expert, number in enumerate(before.tolist()):
        for _ in range(number):
            take(expert)
    found = [take(e) if e >= 0 else e for e in ids.flatten().tolist()]
    return torch.tensor(found, dtype=ids.dtype).view_as(ids)


@st.composite
def sources(draw):
    """Ids of several sources, placement [P], and tokens [P] that serve them all."""
    num_experts = draw(st.integers(1, 5))
    experts = st.integers(0, num_experts - 1)
    phy2log = [*range(num_experts), *draw(st.lists(experts, max_size=5))]
    phy2log = torch.tensor(draw(st.permutations(phy2log)))
    k, dtype = draw(st.integers(1, 3)), draw(st.sampled_from([torch.int32, torch.int64]))
    rows = st.lists(st.lists(st.integers(-1, num_experts - 1), min_size=k, max_size=k), max_size=6)
    ids = [torch.tensor(r, dtype=dtype).view(-1, k) for r in draw(st.lists(rows, min_size=1))]
    tokens = torch.zeros_like(phy2log)
    for expert in torch.cat(ids).flatten().tolist():
        slots = (phy2log == expert).nonzero().flatten().tolist()
        if slots:
            tokens[draw(st.sampled_from(slots))] += 1
    return ids, phy2log, tokens, num_experts


@given(sources())
@settings(max_examples=40)
def test_all_sources_together_meet_the_counts(case):
    ids, phy2log, tokens, num_experts = case
    counts = torch.stack([expert_counts(i, num_experts) for i in ids])
    before = tokens_before(counts)
    found = [physical_ids(i, phy2log, tokens, before=b) for i, b in zip(ids, before, strict=True)]
    for i, f, b in zip(ids, found, before, strict=True):
        assert f.dtype == i.dtype
        assert torch.equal(f, one_by_one(i, phy2log, tokens, b))
        real = i >= 0
        assert torch.equal(phy2log[f[real].long()], i[real].long())
        assert torch.equal(f[~real], i[~real])
    assert torch.equal(expert_counts(torch.cat(found), len(phy2log)), tokens)


@given(sources(), st.integers(0, 3))
@settings(max_examples=40)
def test_tokens_that_were_not_counted_go_to_the_last_slot_of_their_expert(case, fewer):
    ids, phy2log, tokens, num_experts = case
    tokens = (tokens - fewer).clamp(min=0)
    everything, nothing = torch.cat(ids), torch.zeros(num_experts, dtype=torch.int64)
    expected = one_by_one(everything, phy2log, tokens, nothing)
    assert torch.equal(physical_ids(everything, phy2log, tokens), expected)
    assert torch.equal(physical_ids(everything, phy2log, tokens, before=nothing.int()), expected)


def test_counts_of_no_tokens_are_zero():
    none = torch.empty(0, 2, dtype=torch.int32)
    assert expert_counts(none, 3).tolist() == [0, 0, 0]
    assert physical_ids(none, torch.tensor([0, 1]), torch.tensor([0, 0])).shape == (0, 2)


def test_several_layers_are_refused():
    slots = torch.zeros(2, 3, dtype=torch.int64)
    expected = "phy2log (2, 3) and tokens (2, 3) must both be [P]: one layer at a time"
    with pytest.raises(ValueError, match=re.escape(expected)):
        physical_ids(torch.zeros(1, 1, dtype=torch.int64), slots, slots)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float32])
def test_ids_of_a_type_that_cannot_hold_the_slots_are_refused(dtype):
    """Slot 299 came back as 43 in eight bits."""
    slots = torch.arange(300)
    with pytest.raises(ValueError, match="cannot hold the slots of 300"):
        physical_ids(torch.zeros(1, 1, dtype=dtype), slots, torch.ones_like(slots))
