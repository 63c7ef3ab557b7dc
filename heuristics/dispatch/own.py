"""Whole tokens for a source that knows the shares of all, but only its own tokens.

Sources that round alike add up: where each of them has one token of an expert whose slots have the
shares 0.6 and 0.4, rounding sends all of them to the first. Here every source rounds from another
phase (systematic sampling), by multiples of the golden ratio, which are spread evenly over [0, 1)
however many they are. So the sources together come closer to the shares than tokens that draw; only
counts that the sources exchange (:func:`heuristics.dispatch.physical_ids`) are met exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.dispatch.slots import expert_loads

GOLDEN, PLASTIC = 2654435769, 3242174889
"""The inverses of the golden ratio and of the plastic number, times 2^32: phases of sources, of
experts.
"""
SHARE_BITS, PHASE_BITS = 22, 22
"""Shares and phases are multiples of 2^-22; times loads up to 2^40 they fit 63 bits."""


def own_tokens(loads: Tensor, phy2log: Tensor, shares: Tensor, source: int) -> Tensor:
    """Whole tokens for each slot of one source's loads, by shares that all sources have in common.

    With x_0, x_1, .. the shares of the slots of expert e, ascending, the w tokens are cut at
    ``floor(w (x_0 + .. + x_p) + u)``, u in [0, 1) the phase of source and expert. No slot differs
    from w x_p by a token or more. A fixed number of integer operations, the same on every device.

    Args:
        loads: [..., L, E] tokens of each expert at this source, integers, at most 2^40 each.
        phy2log: [L, P] int64, the expert in each slot.
        shares: [..., L, P] or [L, P], the part of its expert's tokens that each slot serves.
        source: its number, 0, 1, ..

    Returns:
        int64 [..., L, P] that sums to the loads over the slots of each expert.

    >>> loads, phy2log = torch.tensor([[1, 4, 1]]), torch.tensor([[0, 1, 0, 2]])
    >>> by = torch.tensor([[0.6, 1.0, 0.4, 1.0]])
    >>> [own_tokens(loads, phy2log, by, source)[0, 0].item() for source in range(5)]
    [0, 1, 0, 1, 1]
    """
    expert, order = phy2log.sort(stable=True)
    first, last = (torch.searchsorted(expert, expert, right=right) for right in (False, True))
    parts = (shares.double().nan_to_num().clamp(0, 1) * 2**SHARE_BITS).round().long()
    parts = parts.gather(-1, order.expand_as(parts))
    ends = torch.nn.functional.pad(parts.cumsum(-1), (1, 0))  # before each slot, and after the last
    before, after = (ends.gather(-1, place.expand_as(parts)) for place in (first, last))
    # An expert whose shares are all 0 is shared evenly.
    none, slot = after == before, torch.arange(parts.shape[-1], device=parts.device)
    total = torch.where(none, last - first, after - before)
    low = torch.where(none, slot - first, ends[..., :-1] - before)
    high = torch.where(none, slot + 1 - first, ends[..., 1:] - before)

    phase = (source * GOLDEN + expert * PLASTIC & 0xFFFFFFFF) >> (32 - PHASE_BITS)
    phase = phase * total >> PHASE_BITS
    w = expert_loads(loads.round().long(), expert)
    tokens = (w * high + phase) // total - (w * low + phase) // total
    return torch.empty_like(tokens).scatter(-1, order.expand_as(tokens), tokens)
