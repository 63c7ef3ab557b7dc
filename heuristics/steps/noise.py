r"""Steps drawn around loads: what a dispatcher will meet where no trace was recorded.

Step t of a layer has tokens :math:`n_t \sim \mathrm{Multinomial}(n, q_t)` with :math:`q_{te}
\propto w_e \exp(\sigma z_{te})` and z standard normal: popularity that drifts (lognormal, by a
factor of about :math:`\sigma`), and the chance of which tokens fall into one step (multinomial).
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS, TOKENS, SPREAD = 256, 32768, 0.2


def draw_steps(
    weight: Tensor,
    *,
    steps: int = STEPS,
    tokens: int = TOKENS,
    spread: float = SPREAD,
    seed: int = 0,
) -> Tensor:
    """Tokens [T, L, E] float32 of drawn steps, from the loads [L, E] of any sum.

    Args:
        weight: [L, E] tokens per logical expert, in any unit.
        steps: T.
        tokens: n, assignments (tokens times experts of a token) of a step and layer.
        spread: sigma, the standard deviation of the logarithm of an expert's popularity.
        seed: of a generator of its own; drawn on the CPU, so that a seed means the same on every
            device.
    """
    generator = torch.Generator().manual_seed(seed)
    loads = weight.double().cpu()
    z = torch.randn(steps, *loads.shape, generator=generator, dtype=torch.float64)
    popular = loads * (spread * z).exp()
    total = popular.sum(-1, keepdim=True)
    share = popular / torch.where(total > 0, total, 1)
    # Poisson counts of the mean number of tokens: a multinomial but for the total.
    drawn = torch.poisson(share * tokens, generator=generator)
    return drawn.float().to(weight.device)
