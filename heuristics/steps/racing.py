"""When a trial is given up: where the steps so far speak against it.

After 16, 32, 64 .. steps a move is dropped if its mean change is above the threshold by ``DOUBT``
standard errors (racing: Maron and Moore, NIPS 6 (1994) 59).
"""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_LOOK = 16
"""Steps, and twice as many until each next look."""
DOUBT = 1.5


def race(change: Tensor, threshold: Tensor) -> Tensor:
    """[L] whether the mean of changes [L, T] is below the threshold [L], and was not given up."""
    steps = change.shape[1]
    number = torch.arange(1, steps + 1, device=change.device)
    mean = change.cumsum(1) / number
    spread = (change.square().cumsum(1) / number - mean.square()).clamp(min=0)
    given_up = mean - DOUBT * (spread / number).sqrt() > threshold[:, None]
    looks = [n - 1 for n in iterate_looks(steps)]
    return (mean[:, -1] < threshold) & ~given_up[:, looks].any(1)


def iterate_looks(steps: int) -> list[int]:
    """Numbers of steps after which a race is looked at."""
    looks, n = [], FIRST_LOOK
    while n <= steps:
        looks.append(n)
        n *= 2
    return looks
