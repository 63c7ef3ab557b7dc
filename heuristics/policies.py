"""The named policies: each a short composition of counts rule, packing and refinement."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from heuristics.composition import Composition, compose
from heuristics.effort import place_refined
from heuristics.grouping import groups_by_reach
from heuristics.hierarchical import Maps, Shape, by_total, maps, place_hierarchically
from heuristics.makespan import better
from heuristics.matching import check_old, receives, relabel
from heuristics.migration import migrate
from heuristics.packing import lpt, snake
from heuristics.published.swaps import swapped_groups

Placer = Callable[[Tensor, int, int, int, int], Tensor]
"""(weight [L, E], num_replicas, num_groups, num_nodes, num_gpus) -> phy2log [L, P]."""

Policy = Callable[[Tensor, int, int, int, int], Maps]
"""The same arguments -> the three maps."""


deepseek = Composition("greedy", "lpt")
"""DeepSeek EPLB: LPT of groups to nodes, greedy counts, LPT of replicas to ranks; in float32.

Places what the published program places, slot for slot. Ties: equal loads in the order of their
index (the published program leaves the order of equal loads to an unstable sort).

Reference: https://github.com/deepseek-ai/EPLB
"""

waterfill_diverse = Composition("water-filling", "diverse", ["exchange-for-peak"])
"""Seed program 000."""

apportion_zigzag = Composition(
    "apportioned", "interleaved-snake", ["exchange-for-spread"], pack_groups=by_total(snake)
)
"""Seed program 001, valid where that returns a wrong number of slots."""

vectorized_swap = Composition(
    "greedy", "lpt", ["swap-extremes"], pack_groups=by_total(swapped_groups)
)
"""Seed program 002."""

replica_refine = Composition(
    "greedy", "lpt", ["swap-extremes", "replica-move"], pack_groups=by_total(swapped_groups)
)
"""Seed program 004 on 002, never worse than ``vectorized_swap``."""


def refined(
    weight: Tensor,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
    *,
    effort: str = "default",
    seed: int = 0,
    old: Tensor | None = None,
    move_budget: int | None = None,
) -> Tensor:
    """The baseline improved: pairs of ranks re-split, groups to nodes likewise, other counts tried.

    In no layer worse than ``deepseek``; more effort is never worse. The same on a CPU whatever the
    number of threads.

    Args:
        weight: [L, E] tokens per logical expert.
        num_replicas: P.
        num_groups: K.
        num_nodes: N.
        num_gpus: G.
        effort: ``fast``, ``default`` or ``thorough``.
        seed: of the changes of counts that are tried; the same on every device.
        old: [L, P] the placement now. What is placed anew is then written so that many experts stay
            where they are.
        move_budget: received experts a layer at most. The result is then the best found within
            it, and in no layer worse than ``old``, of which it may be a change (under the
            hierarchical rule with the groups on the nodes where ``old`` has them).

    Returns:
        The expert in each slot, [L, P] int64.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    shape = Shape.resolve(weight, num_replicas, num_groups, num_nodes, num_gpus)
    if move_budget is not None and (old is None or move_budget < 0):
        raise ValueError(f"move_budget={move_budget} must not be negative, and needs old")
    if old is not None:
        old = check_old(old, num_replicas, shape.num_nodes, shape.num_groups, weight)
    fresh = _fresh(weight, shape, effort, seed)
    if old is None:
        return fresh
    fresh = relabel(fresh, old, num_gpus, shape.num_nodes, weight.shape[1])
    return fresh if move_budget is None else _within(weight, shape, old, fresh, move_budget)


def _fresh(weight: Tensor, shape: Shape, effort: str, seed: int) -> Tensor:
    """``refined`` without an old placement."""
    loads = weight if weight.dtype == torch.float64 else weight.float()
    place = partial(place_refined, effort=effort, seed=seed)
    if shape.num_groups <= 2 * shape.num_nodes or effort == "fast":  # LPT balances them best
        return place_hierarchically(loads, shape, by_total(lpt), place)
    # Nodes that could be lighter nearly always become lighter, but not by law.
    fast = place_hierarchically(loads, shape, by_total(lpt), partial(place_refined, effort="fast"))
    regrouped = place_hierarchically(loads, shape, groups_by_reach, place)
    return better(loads.double(), fast, regrouped, shape.num_ranks)


def _within(weight: Tensor, shape: Shape, old: Tensor, fresh: Tensor, budget: int) -> Tensor:
    """``old`` changed within the budget, or ``fresh`` where it fits and is better."""
    loads, ranks = weight.double(), shape.num_ranks
    found = migrate(loads, old, ranks, [budget], num_nodes=shape.num_nodes).phy2log[:, 0]
    fits = receives(old, fresh, ranks, weight.shape[1]) <= budget
    return better(loads, found, torch.where(fits[:, None], fresh, found), ranks)


PLACERS: dict[str, Placer] = {
    "deepseek": deepseek,
    "waterfill-diverse": waterfill_diverse,
    "apportion-zigzag": apportion_zigzag,
    "vectorized-swap": vectorized_swap,
    "replica-refine": replica_refine,
    "refined": refined,
}


def with_maps(place: Placer) -> Policy:
    """The policy that returns all three maps of what ``place`` places."""

    def policy(
        weight: Tensor, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
    ) -> Maps:
        phy2log = place(weight, num_replicas, num_groups, num_nodes, num_gpus)
        return maps(phy2log, weight.shape[1])

    return policy


POLICIES: dict[str, Policy] = {name: with_maps(place) for name, place in PLACERS.items()}


def placer(policy: str) -> Placer:
    """The placer of a policy's name, or of stages such as ``huntington-hill + snake``.

    Raises:
        ValueError: there is no such policy or stage.
    """
    if policy in PLACERS:
        return PLACERS[policy]
    if "+" not in policy:
        raise ValueError(
            f"policy={policy!r} is not one of {', '.join(PLACERS)}, nor stages joined by +"
        )
    return compose(policy)


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
        policy: a name in ``POLICIES``, or stages such as ``huntington-hill + snake +
            pair-resplit``.

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
    return with_maps(placer(policy))(weight, num_replicas, num_groups, num_nodes, num_gpus)
