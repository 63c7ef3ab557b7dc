"""Whole tokens of sources that know only the common shares."""

import pytest
import torch

from heuristics.dispatch import own_tokens, shares
from heuristics.dispatch.slots import even_shares, expert_loads

PHY2LOG = torch.tensor([[0, 1, 0, 2, 1, 0, 3, 0], [3, 2, 1, 0, 1, 1, 2, 3]])
EXPERTS = 4


def drawn_loads(sources: int, most: int) -> torch.Tensor:
    """[sources, T, L, E]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, most + 1, (sources, 20, 2, EXPERTS), generator=generator)


@pytest.mark.parametrize("most", [1, 7, 10**6, 2**40])
def test_a_source_serves_its_tokens_and_no_slot_is_a_token_off(most: int) -> None:
    loads = drawn_loads(3, most)
    by = shares(loads.sum(0).float(), PHY2LOG, 4)
    for source, own in enumerate(loads):
        tokens = own_tokens(own, PHY2LOG, by, source)
        assert (tokens >= 0).all()
        found = torch.zeros_like(own).scatter_add(-1, PHY2LOG.expand_as(tokens), tokens)
        assert found.equal(own)
        off = (tokens - expert_loads(own, PHY2LOG) * by.double()).abs()
        assert (off < 1 + most * 1e-6).all()


def test_many_sources_of_single_tokens_come_close_to_the_shares() -> None:
    one = torch.ones(2, EXPERTS, dtype=torch.int64)
    by = torch.tensor([[0.1, 0.5, 0.2, 1, 0.5, 0.3, 1, 0.4], [0.5, 0, 1, 1, 0, 0, 1, 0.5]])
    for sources in (8, 32, 100):
        tokens = sum(own_tokens(one, PHY2LOG, by, source) for source in range(sources))
        assert ((tokens - sources * by).abs() < 2.5).all()  # drawn: up to 10 at 100 sources


def test_shares_of_all_steps_no_load_and_no_shares() -> None:
    loads = drawn_loads(1, 9)[0]
    even = even_shares(PHY2LOG, EXPERTS)
    of_steps = own_tokens(loads, PHY2LOG, even.expand(20, -1, -1), 5)
    assert own_tokens(loads, PHY2LOG, even, 5).equal(of_steps)
    assert own_tokens(loads, PHY2LOG, 0 * even, 5).equal(of_steps)
    assert not own_tokens(0 * loads, PHY2LOG, even, 5).any()


def test_nothing_is_read_on_the_host() -> None:
    loads, phy2log = drawn_loads(1, 9)[0].to("meta"), PHY2LOG.to("meta")
    by = torch.empty(20, 2, 8, device="meta")
    assert own_tokens(loads, phy2log, by, 3).shape == (20, 2, 8)
