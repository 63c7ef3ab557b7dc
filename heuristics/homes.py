r"""The rule ``home``: at which node groups are at home, and how much is served elsewhere.

Every node is home to K/N whole groups, every expert has a replica at the home of its group, and
others anywhere. Of all such homes a placement has those with the fewest tokens served off home,
:math:`\sum_e w_e (1 - h_e / c_e)` with :math:`h_e` of :math:`c_e` replicas at home: a minimum-cost
assignment of groups to places on nodes.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from heuristics.matching import count_on_ranks
from heuristics.replication import count_replicas

DOUBT = 1e-9
"""Parts of the tokens this near to a limit are compared with it in fractions."""


def homes_of(loads: Tensor, phy2log: Tensor, num_groups: int, num_nodes: int) -> Tensor:
    """The home of each group, [L, K] int64; -1 in layers that have none.

    Costs are compared in float64; ties: any. Waits for the device.

    Args:
        loads: [L, E] tokens of each expert, of all steps together.
        phy2log: [L, P] the expert in each slot.
        num_groups: K.
        num_nodes: N.
    """
    from scipy.optimize import linear_sum_assignment  # slow to load, and rarely needed

    held = count_on_ranks(phy2log, num_nodes, loads.shape[1]).transpose(1, 2)  # [L, E, N]
    counts = count_replicas(phy2log, loads.shape[1])[..., None].double()
    away = loads.double()[..., None] * (1 - held / counts)
    layers, per_node = len(loads), num_groups // num_nodes
    cost = away.view(layers, num_groups, -1, num_nodes).sum(2)
    missing = (held == 0).view(layers, num_groups, -1, num_nodes).any(2)
    never = 2 * loads.double().sum(1)[:, None, None] + 1  # more than all that can be away
    places = (cost + never * missing).repeat_interleave(per_node, 2)
    found = [linear_sum_assignment(each)[1].tolist() for each in places.cpu().numpy()]
    homes = torch.tensor(found, device=loads.device) // per_node
    homeless = missing.gather(2, homes[..., None]).any(1)
    return homes.where(~homeless, -1)


def at_home(phy2log: Tensor, homes: Tensor, num_experts: int, num_nodes: int) -> Tensor:
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
    """Tokens served off home where replicas share alike, [L] float64; arguments as above."""
    counts = count_replicas(phy2log, loads.shape[1]).double()
    here = at_home(phy2log, homes, loads.shape[1], num_nodes)
    return (loads.double() * (1 - here / counts)).sum(1)


def keep_limit(
    loads: Tensor, phy2log: Tensor, homes: Tensor, num_nodes: int, limit: float
) -> Tensor:
    """[L] whether at most a part ``limit`` of the tokens is served off home; exact.

    Args:
        loads: [L, E], or [T, L, E] of steps, which count together.
        phy2log: [L, P] the expert in each slot.
        homes: [L, K] the node of each group; a layer with -1 keeps no limit.
        num_nodes: N.
        limit: a part of the tokens; read as the decimal that is printed for it.
    """
    total = loads.double().view(-1, *loads.shape[-2:]).sum(0)
    some = (homes >= 0).all(1)
    spare = limit * total.sum(1) - off_home(total, phy2log, homes.clamp(min=0), num_nodes)
    keeps = some & (spare >= 0)
    doubtful = some & (spare.abs() <= DOUBT * total.sum(1)) & (limit < 1)
    for layer in doubtful.nonzero()[:, 0].tolist():
        row = slice(layer, layer + 1)
        counts = count_replicas(phy2log[row], loads.shape[-1])[0].tolist()
        here = at_home(phy2log[row], homes[row], loads.shape[-1], num_nodes)[0].tolist()
        steps = loads[..., layer, :].reshape(-1, loads.shape[-1]).tolist()
        tokens = [sum(map(Fraction, column)) for column in zip(*steps, strict=True)]
        away = sum(w * (c - h) / c for w, c, h in zip(tokens, counts, here, strict=True))
        keeps[layer] = away <= Fraction(str(limit)) * sum(tokens)
    return keeps
