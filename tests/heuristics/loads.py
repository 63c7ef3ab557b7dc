"""Loads in float64 that tests of heuristics draw, with a seed."""

import torch


def normal(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def lognormal(*shape: int, sigma: float, seed: int) -> torch.Tensor:
    """Loads [.., E] with ``sigma`` as the standard deviation of their logarithms."""
    return (sigma * normal(*shape, seed=seed)).exp()


def drifted(
    layers: int, experts: int, noise: float, *, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loads [L, E] until now, and what they have become."""
    first, change = normal(2, layers, experts, seed=seed)
    before = (0.8 * first).exp() * 1000
    return before, before * (noise * change).exp()
