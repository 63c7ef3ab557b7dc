r"""How much is served off home under the rule ``home``, beside a limit; exactly where that counts.

With :math:`h_e` of the :math:`c_e` replicas of an expert at the home of its group
(:func:`heuristics.matching.find_homes`), :math:`\sum_e w_e (1 - h_e / c_e)` tokens.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from heuristics.matching import count_on_ranks, find_homes
from heuristics.replication import count_replicas

DOUBT = 1e-9
"""Parts of the tokens this near to a limit are compared with it in fractions."""


def count_at_home(phy2log: Tensor, homes: Tensor, num_experts: int, num_nodes: int) -> Tensor:
    """Replicas of each expert at the home of its group, [L, E] int64.

    Args:
        phy2log: [L, P] the expert in each slot.
        homes: [L, K] the node of each group.
        num_experts: E.
        num_nodes: N.
    """
    node = homes.repeat_interleave(num_experts // homes.shape[1], 1)
    held = count_on_ranks(phy2log, num_nodes, num_experts)
    return held.gather(1, node[:, None])[:, 0].long()


def off_home(loads: Tensor, phy2log: Tensor, homes: Tensor, num_nodes: int) -> Tensor:
    """Tokens of [L, E] served off home where replicas share alike, [L] float64; arguments as of
    :func:`count_at_home`.
    """
    counts = count_replicas(phy2log, loads.shape[1]).double()
    here = count_at_home(phy2log, homes, loads.shape[1], num_nodes)
    return (loads.double() * (1 - here / counts)).sum(1)


def beyond_limit(
    loads: Tensor, phy2log: Tensor, num_groups: int, num_nodes: int, limit: float
) -> Tensor:
    """Tokens served off home beyond a part ``limit`` of all, [L] float64: 0 exactly where the limit
    is kept in rational arithmetic. Waits for the device.

    Args:
        loads: [T, L, E] of steps, which count together.
        phy2log: [L, P] the expert in each slot; every layer has homes.
        num_groups: K.
        num_nodes: N.
        limit: read as the decimal that is printed for it.
    """
    total = loads.sum(0, dtype=torch.float64)
    homes = find_homes(phy2log, total, num_nodes, num_groups)
    excess = off_home(total, phy2log, homes, num_nodes) - limit * total.sum(1)
    beyond = excess.clamp(min=0)
    doubtful = (excess.abs() <= DOUBT * total.sum(1)) & (limit < 1)
    counts = count_replicas(phy2log, loads.shape[2])
    away = counts - count_at_home(phy2log, homes, loads.shape[2], num_nodes)
    for layer in doubtful.nonzero()[:, 0].tolist():
        parts = list(map(Fraction, away[layer].tolist(), counts[layer].tolist()))
        steps = zip(*loads[:, layer].tolist(), strict=True)
        tokens = [sum(map(Fraction, column), Fraction(0)) for column in steps]
        served = sum((w * part for w, part in zip(tokens, parts, strict=True)), Fraction(0))
        beyond[layer] = float(max(served - Fraction(str(limit)) * sum(tokens), Fraction(0)))
    return beyond
