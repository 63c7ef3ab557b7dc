"""What engines do: every token draws a slot of its expert, or takes the one its index hashes to.

These are no ways to balance; they say what the engines' dispatch costs, beside whole tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.dispatch.slots import expert_loads
from heuristics.pipeline import maps

KNUTH = 2654435769
"""2^32 over the golden ratio, rounded down."""


def drawn(loads: Tensor, phy2log: Tensor, shares: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens of each slot where every token draws a slot of its expert, with the shares as chances.

    As SGLang dispatches: by LPLB's shares under ``--ep-dispatch-algorithm lp``, evenly under
    ``dynamic``. The tokens of an expert are multinomial over its slots: the first draws a binomial
    part of them, each further one of what is left.

    Args:
        loads: [..., L, E] whole tokens.
        phy2log: [L, P] int64, the expert in each slot.
        shares: [..., L, P], 1 over the slots of each expert; [L, P] for all steps.
        generator: on the device of ``loads``; the same seed draws the same tokens.

    Returns:
        [..., L, P] int64, summing to the loads over the slots of each expert. Waits for the device.

    Raises:
        ValueError: a load is no whole number.
    """
    if loads.is_floating_point() and not bool((loads == loads.round()).all()):
        raise ValueError("loads are not whole numbers: tokens are drawn one by one")
    _, log2phy, counts = maps(phy2log, loads.shape[-1])
    log2phy = log2phy[..., : int(counts.max())]
    slots = log2phy.clamp(min=0).flatten(-2).expand(*loads.shape[:-1], -1)  # [..., L, E X]
    chances = shares.double().expand(*loads.shape[:-1], -1).gather(-1, slots)
    chances = chances.view(*loads.shape, -1).where(log2phy >= 0, 0)
    of_the_rest = (chances / chances.flip(-1).cumsum(-1).flip(-1)).nan_to_num(1)

    left, taken = loads.double(), list[Tensor]()
    for chance in of_the_rest.unbind(-1):
        taken.append(torch.binomial(left, chance, generator=generator))
        left = left - taken[-1]
    tokens = expert_loads(loads, phy2log).long().zero_()
    return tokens.scatter_add_(-1, slots, torch.stack(taken, -1).flatten(-2).long())


def hashed(topk_ids: Tensor, phy2log: Tensor) -> Tensor:
    """The slot of each token's expert by the index of the token, as vLLM 0.33.0 dispatches.

    Token i takes the replica ``(2654435769 i mod 2^32) mod c_e`` of expert e, in the order of
    slots. Each source counts its own tokens from 0.

    Args:
        topk_ids: [tokens, k] integers, the experts of each token of one source; negative: none.
        phy2log: [P] int64, the expert in each slot of the layer.

    Returns:
        [tokens, k] like ``topk_ids``, the slot of each; -1 for none.

    Example:
        >>> hashed(torch.tensor([[0], [0], [0], [0]]), torch.tensor([0, 1, 0, 1])).flatten()
        tensor([0, 2, 0, 2])
    """
    expert, slot = torch.sort(phy2log, stable=True)
    first = torch.searchsorted(expert, topk_ids)
    counts = torch.searchsorted(expert, topk_ids, right=True) - first
    token = torch.arange(len(topk_ids), device=topk_ids.device)[:, None]
    replica = (token * KNUTH & 0xFFFFFFFF) % counts.clamp(min=1)
    found = slot[(first + replica).clamp(max=len(slot) - 1)].to(topk_ids.dtype)
    return found.where(counts > 0, -1)
