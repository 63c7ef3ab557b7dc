"""The named policies: each a short composition of counts rule, packing and refinement."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from heuristics.hierarchical import Maps, Shape, maps, place_hierarchically
from heuristics.packing import lpt
from heuristics.refined import balance_groups, better, place_refined
from heuristics.replication import greedy_replicas, replica_loads

Policy = Callable[[Tensor, int, int, int, int], Maps]
"""(weight [L, E], num_replicas, num_groups, num_nodes, num_gpus) -> the three maps."""


def deepseek(
    weight: Tensor, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
) -> Maps:
    """DeepSeek EPLB: LPT of groups to nodes, greedy counts, LPT of replicas to ranks; in float32.

    Places what the published program places, slot for slot. Ties: equal loads in the order of
    their index (the published program leaves the order of equal loads to an unstable sort).

    Reference: https://github.com/deepseek-ai/EPLB
    """
    shape = Shape.resolve(weight, num_replicas, num_groups, num_nodes, num_gpus)
    return maps(place_hierarchically(weight.float(), shape, lpt, place_deepseek), weight.shape[1])


def place_deepseek(loads: Tensor, num_slots: int, num_ranks: int) -> Tensor:
    """Greedy counts, then LPT: the expert in each slot, [B, P], from loads [B, E]."""
    labels = greedy_replicas(loads, num_slots)
    return labels.gather(1, lpt(replica_loads(loads, labels), num_ranks))


def refined(
    weight: Tensor,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
    *,
    effort: str = "default",
    seed: int = 0,
) -> Maps:
    """The baseline improved: pairs of ranks re-split, groups to nodes likewise, other counts for S
    <= 3.

    In no layer worse than ``deepseek``; more effort is never worse. The same on a CPU whatever the
    number of threads.

    Args:
        weight: [L, E] tokens per logical expert.
        num_replicas: P.
        num_groups: K.
        num_nodes: N.
        num_gpus: G.
        effort: ``fast``, ``default`` or ``thorough``.
        seed: of the changes of counts that are tried (S = 2 and 3).

    """
    shape = Shape.resolve(weight, num_replicas, num_groups, num_nodes, num_gpus)
    loads = weight if weight.dtype == torch.float64 else weight.float()
    place = partial(place_refined, effort=effort, seed=seed)
    phy2log = place_hierarchically(loads, shape, lpt, place)
    if shape.num_nodes > 1 and effort != "fast":
        regrouped = place_hierarchically(loads, shape, balance_groups, place)
        phy2log = better(loads.double(), phy2log, regrouped, num_gpus)
    return maps(phy2log, weight.shape[1])


POLICIES: dict[str, Policy] = {"deepseek": deepseek, "refined": refined}


def rebalance_experts(
    weight: Tensor,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
    *,
    policy: str = "refined",
) -> Maps:
    """Place the experts of all layers: the signature and results of DeepSeek EPLB.

    Hierarchical if ``num_nodes`` divides ``num_groups``, else global, as DeepSeek EPLB does.

    Args:
        weight: [L, E] tokens per logical expert, any real dtype, on any device; not changed. On a
            CPU every value is checked to be finite and not negative; elsewhere it must be.
        num_replicas: P, slots in total, a multiple of ``num_gpus`` and at least E.
        num_groups: K, equal contiguous groups of experts.
        num_nodes: N, servers.
        num_gpus: G, ranks in total.
        policy: a name in ``POLICIES``.

    Returns:
        ``phy2log [L, P]``; ``log2phy [L, E, P - E + 1]``, slots ascending, padded with -1;
        ``logcnt [L, E]``. All int64, on the device of ``weight``.

    Raises:
        ValueError: an argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> phy2log, log2phy, logcnt = rebalance_experts(torch.tensor([[30.0, 10, 20]]), 4, 1, 1, 2)
        >>> phy2log.tolist(), logcnt.tolist()
        ([[2, 1, 0, 0]], [[2, 1, 1]])

    """
    if policy not in POLICIES:
        raise ValueError(f"policy={policy!r} is not one of {', '.join(POLICIES)}")
    return POLICIES[policy](weight, num_replicas, num_groups, num_nodes, num_gpus)
