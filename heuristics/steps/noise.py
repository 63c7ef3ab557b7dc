r"""Steps drawn around loads, where too few were recorded to search on, or none at all.

In step t of a layer n assignments of tokens fall on experts by the popularity

.. math:: q_{te} = \frac{w_e \exp(\sigma z_{te})}{\sum_f w_f \exp(\sigma z_{tf})},
          \qquad z_{te} \sim N(0, 1) \text{ independent},

which varies from step to step (lognormal, by the *spread* :math:`\sigma`). Which tokens fall into a
step is chance. A token takes k experts, all different, so the load of an expert is binomial, of n /
k tokens that take it with probability :math:`k q_{te}`, and loads sum to n. With k = 1 they are
multinomial; a larger k leaves less to chance, which counts in small steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 256
TOKENS = 32768
"""Assignments of a step where nothing is known: 4,096 tokens of 8 experts."""
SPREAD = 0.2
NO_CHOICE = 1e-6
"""Of k - 1, in place of 0: binomials of a million times as many tokens are Poisson numbers."""
CHUNK = 2**17
"""Numbers that are drawn at once: 1 MB, what a processor's cache holds."""


@dataclass(frozen=True, eq=False)
class Noise:
    """What varies from step to step; float64 on the CPU.

    Attributes:
        tokens: [L] n, assignments of a step, whole numbers.
        spread: [L] sigma, the standard deviation of the logarithm of an expert's popularity.
        per_token: [L] k >= 1, different experts of a token.
    """

    tokens: Tensor
    spread: Tensor
    per_token: Tensor


def draw_steps(
    weight: Tensor,
    *,
    steps: int = STEPS,
    tokens: int | None = None,
    spread: float | None = None,
    per_token: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Tokens [T, L, E] float32 of drawn steps; every step of a layer sums to n.

    An expert without load gets no token, a layer without load none at all.

    Args:
        weight: [L, E] tokens of each expert, in any unit; or [R, L, E] recorded steps, for more
            that vary about their sum as much as these do (:func:`fit`).
        steps: T.
        tokens: n, at most 2^24, in place of what fits the recorded steps, or of TOKENS.
        spread: sigma, in place of what fits, or of SPREAD.
        per_token: k, in place of what fits, or of 1.
        seed: of a generator of its own; drawn on the CPU, so that a seed means the same on every
            device.

    Raises:
        ValueError: a number is out of its range.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be positive")
    given = weight.cpu().double()
    noise = _noise(given, tokens, spread, per_token)
    loads = given.sum(0) if given.ndim == 3 else given
    n = noise.tokens.where(loads.sum(-1) > 0, 0)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(steps, *loads.shape)
    for part in torch.split(drawn, max(1, CHUNK // loads.numel())):
        z = torch.randn(part.shape, generator=generator, dtype=torch.float64)
        # A softmax, so that loads of any unit fit; 0 / 0 in an idle layer.
        popular = (loads.log() + noise.spread[:, None] * z).softmax(-1).nan_to_num(0)
        part.copy_(_draw_counts(n, noise.per_token, popular, generator))
    return drawn.to(weight.device)


def _draw_counts(n: Tensor, k: Tensor, popular: Tensor, generator: torch.Generator) -> Tensor:
    """[T, L, E] float64 summing to n [L], by popularity [T, L, E]; k [L] experts of a token.

    Binomials of n / (k - 1) tokens with chance (k - 1) q, Poisson numbers for k = 1, whose sum is n
    only on average; *given* that it is n they have the variances n q (1 - k q) of tokens that
    take k different experts, up to terms of third order in q. What is missing is drawn by
    popularity, what is too much from what is there: systematically, by equal steps along the
    cumulated weights from one random start. So no expert is more than a token from its part of
    the correction, none falls below 0, and one without load stays without. Such even steps leave
    out chance in the correction itself: about q / sqrt(n) of the variance.
    """
    tokens = (n / (k - 1).clamp(min=NO_CHOICE)).ceil()
    chance = (popular * (n / tokens.clamp(min=1))[:, None]).clamp(max=1)
    counts = torch.binomial(tokens[:, None].expand_as(chance), chance, generator)
    missing = (n - counts.sum(-1))[..., None]
    cumulated = torch.where(missing > 0, popular, counts).cumsum(-1)
    # The quotient is exactly 1 from the last expert with weight on, so that the sum is met.
    part = (cumulated / cumulated[..., -1:]).nan_to_num(0) * missing.abs()
    start = torch.rand(missing.shape, generator=generator, dtype=torch.float64)
    ends = (part + start).floor()
    return counts + missing.sign() * ends.diff(dim=-1, prepend=torch.zeros_like(start))


def _noise(
    given: Tensor, tokens: int | None, spread: float | None, per_token: float | None
) -> Noise:
    """The numbers given, else what fits recorded steps, else what is assumed."""
    numbers = {"tokens": (tokens, 1), "spread": (spread, 0), "per_token": (per_token, 1)}
    for name, (number, least) in numbers.items():
        if number is not None and number < least:
            raise ValueError(f"{name}={number} must be at least {least}")
    one = torch.ones(given.shape[-2], dtype=torch.float64)
    found = fit(given) if given.ndim == 3 else Noise(TOKENS * one, SPREAD * one, one)
    return Noise(
        found.tokens if tokens is None else tokens * one,
        found.spread if spread is None else spread * one,
        found.per_token if per_token is None else per_token * one,
    )


def fit(steps: Tensor) -> Noise:
    r"""The noise of recorded steps [T, L, E] about their sum, by moments, layer by layer.

    Two assignments of one step are of the same expert with probability :math:`(1 - (k - 1) / (n -
    1)) \sum_e \mathrm E q_{te}^2`, of two steps with :math:`\sum_e p_e^2`, p the mean of q. Pairs
    are counted, so nothing has to be known of p, and few tokens a step make no bias. If

    .. math:: \rho = \frac{\sum_{te} X_{te} (X_{te} - 1) / \sum_t n_t (n_t - 1)}
                          {\sum_{s \ne t, e} X_{se} X_{te} / \sum_{s \ne t} n_s n_t}

    is above 1, loads vary more than by chance, :math:`\sigma^2 = \log \rho / (1 + \sum_e p_e^2 - 2
    \sum_e p_e^3 / \sum_e p_e^2)` and k = 1; the divisor is what normalizing leaves of a heavy
    expert's factor. If it is below, loads vary less than multinomial ones, :math:`\sigma = 0` and k
    = 1 + (n - 1) (1 - \rho). Loads alone can't tell a large spread and k from a small spread and
    k; both vary equally.

    Loads that are not all whole numbers are no tokens: none of what they vary is taken for chance,
    and n is TOKENS. Where there are no such pairs sigma is SPREAD, as with a single step.
    """
    x = steps.cpu().double()
    whole = float((x == x.round()).all())
    n, total = x.sum(-1), x.sum(0)
    same = (x * (x - whole)).sum((0, -1)) / (n * (n - whole)).sum(0)
    between = (total.square() - x.square().sum(0)).sum(-1)
    ratio = same * (n.sum(0).square() - n.square().sum(0)) / between
    p = total / total.sum(-1, keepdim=True)
    square = p.square().sum(-1)
    kept = 1 + square - 2 * p.pow(3).sum(-1) / square
    sigma = (ratio.log() / kept.clamp(min=1e-6)).clamp(min=0).sqrt()
    mean = n.mean(0).round().clamp(min=1) if whole else torch.full_like(square, TOKENS)
    per_token = (1 + (mean - 1) * (1 - ratio)).clamp(min=1).nan_to_num(1)
    return Noise(mean, sigma.nan_to_num(SPREAD, SPREAD), per_token)
