from __future__ import annotations

import pytest
import torch

from heuristics.dispatch.drawn import drawn, hashed
from heuristics.dispatch.slots import even_shares
from heuristics.pipeline import maps

PHY2LOG = torch.tensor([[0, 1, 1, 2, 1, 0], [2, 0, 1, 2, 2, 2]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_tokens_sum_to_the_loads_and_a_seed_means_the_same() -> None:
    loads = torch.randint(0, 50, (20, 2, 3), generator=generator())
    shares = torch.rand(20, 2, 6, generator=generator(1))
    tokens = drawn(loads, PHY2LOG, shares, generator(2))
    assert tokens.dtype == torch.int64
    assert bool((tokens >= 0).all())
    back = torch.zeros_like(loads).scatter_add_(2, PHY2LOG.expand_as(tokens), tokens)
    assert torch.equal(back, loads)
    assert torch.equal(tokens, drawn(loads.float(), PHY2LOG, shares, generator(2)))
    assert not torch.equal(tokens, drawn(loads, PHY2LOG, shares, generator(3)))


def test_multinomial_by_mean_and_variance() -> None:
    """n x tokens on average, with variance n x (1 - x), where a slot has the share x."""
    shares = torch.tensor([[0.25, 0.1, 0.6, 1.0, 0.3, 0.75], [0.5, 1, 1, 0, 0.3, 0.2]])
    loads = torch.full((4000, 2, 3), 100)
    tokens = drawn(loads, PHY2LOG, shares, generator()).double()
    assert torch.allclose(tokens.mean(0), 100 * shares.double(), atol=0.5)
    assert torch.allclose(tokens.var(0), 100 * shares * (1 - shares.double()), atol=2)
    assert bool((tokens[:, shares == 0] == 0).all())


def test_only_whole_tokens_are_drawn() -> None:
    with pytest.raises(ValueError, match="loads are not whole numbers"):
        drawn(torch.full((2, 3), 0.5), PHY2LOG, even_shares(PHY2LOG, 3), generator())


def test_hashed_token_by_token() -> None:
    ids = torch.randint(-1, 3, (300, 4), generator=generator(), dtype=torch.int32)
    _, log2phy, counts = maps(PHY2LOG, 3)
    for layer in range(2):
        found = hashed(ids, PHY2LOG[layer])
        assert found.dtype == ids.dtype
        for i in range(300):
            for k in range(4):
                expert = int(ids[i, k])
                if expert < 0:
                    assert found[i, k] == -1
                    continue
                replica = i * 2654435769 % 2**32 % int(counts[layer, expert])
                assert found[i, k] == log2phy[layer, expert, replica]


def test_of_two_replicas_even_tokens_take_the_first() -> None:
    """The factor is odd, so the lowest bit of the hash is that of the index."""
    found = hashed(torch.zeros(6, 1, dtype=torch.int64), torch.tensor([0, 1, 0]))
    assert found.flatten().tolist() == [0, 2, 0, 2, 0, 2]
