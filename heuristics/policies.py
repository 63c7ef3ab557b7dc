"""The named policies, and the one reading of their names.

A policy is a short composition of counts rule, packing and refinement. The command line, the
drop-ins and replays all ask :func:`placer` for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from heuristics.composition import Composition, compose
from heuristics.effort import place_refined
from heuristics.grouping import groups_by_reach
from heuristics.hierarchical import Maps, Shape, by_total, maps, place_hierarchically
from heuristics.makespan import better
from heuristics.matching import NoStartError, check_old, count_transfers, relabel
from heuristics.migration import migrate
from heuristics.packing import lpt, snake
from heuristics.published.swaps import swapped_groups

Place = Callable[[Tensor, int, int, int, int], Tensor]
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
    fits = count_transfers(old, fresh, ranks, weight.shape[1]) <= budget
    return better(loads, found, torch.where(fits[:, None], fresh, found), ranks)


@dataclass(frozen=True)
class NamedPolicy:
    """A policy that a name stands for.

    Attributes:
        place: places all layers anew.
        idea: one line.
        change: how it starts from the placement until now, given as ``old``; None for a policy that
            always places anew.
    """

    place: Place
    idea: str
    change: Callable[..., Tensor] | None = None

    def __call__(
        self,
        weight: Tensor,
        num_replicas: int,
        num_groups: int,
        num_nodes: int,
        num_gpus: int,
        old: Tensor | None = None,
    ) -> Tensor:
        """The expert in each slot, [L, P] int64; arguments as of :func:`rebalance_experts`.

        ``old`` [L, P] is the placement until now. Without one, or where it can be no start (it has
        another width, holds -1, or does not keep groups on their nodes), all policies place anew.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        sizes = (num_replicas, num_groups, num_nodes, num_gpus)
        if self.change is not None and old is not None:
            with suppress(NoStartError):
                return self.change(weight, *sizes, old=old)
        return self.place(weight, *sizes)


TABLE: dict[str, NamedPolicy] = {
    "deepseek": NamedPolicy(
        deepseek, "the field's baseline: greedy counts, largest replica into the lightest rank"
    ),
    "waterfill-diverse": NamedPolicy(
        waterfill_diverse,
        "water-filled counts, one replica of each expert first, bounded exchanges",
    ),
    "apportion-zigzag": NamedPolicy(
        apportion_zigzag,
        "Huntington-Hill counts, interleaved zigzag packing, bounded exchanges",
    ),
    "vectorized-swap": NamedPolicy(
        vectorized_swap, "the baseline, then swaps between the heaviest and the lightest rank"
    ),
    "replica-refine": NamedPolicy(
        replica_refine, "vectorized-swap, then a replica moved where that lowers the makespan"
    ),
    "refined": NamedPolicy(
        refined, "pairs of ranks re-split, groups balanced, other counts tried; never worse"
    ),
}
"""The policies that have a name of their own."""

KEEPING, RELABEL = "refined", "relabel"
"""The policy that can start from the placement until now, and the word for keeping all it can."""


class UnknownPolicyError(ValueError):
    """There is no policy of such a name."""


def placer(name: str) -> NamedPolicy:
    """The policy of a name.

    A name in ``TABLE``; ``refined:40``, which starts from the placement until now and receives at
    most 40 experts a layer; ``refined:relabel``, which places anew and keeps what it can where it
    is; or stages joined by ``+``: a counts rule, a packing, and refinements.

    Raises:
        UnknownPolicyError: none of these.
        ValueError: there is no such stage, or no number after ``refined:``.

    Example:
        >>> placer("refined:40").idea
        'refined, with at most 40 experts received a layer'
        >>> placer("greedy + snake + pair-resplit").idea
        'stages by name'
    """
    if name in TABLE:
        return TABLE[name]
    if "+" in name:
        return NamedPolicy(compose(name), "stages by name")
    if name.startswith(f"{KEEPING}:"):
        return _keeping(name)
    raise UnknownPolicyError(
        f"policy={name!r} is not one of {', '.join(TABLE)}, nor {KEEPING}:N or {KEEPING}:{RELABEL},"
        " nor stages joined by +"
    )


def _keeping(name: str) -> NamedPolicy:
    """``refined`` that starts from the placement until now, from ``refined:relabel`` or
    ``refined:N``.
    """
    budget = name.partition(":")[2]
    if budget == RELABEL:
        idea = f"{KEEPING}, written so that experts stay where they are"
        return replace(TABLE[KEEPING], idea=idea, change=refined)
    if not (budget.isascii() and budget.isdecimal()):
        raise ValueError(
            f"{name!r} is neither {KEEPING}:{RELABEL} nor {KEEPING}:N with N experts to receive"
        )
    idea = f"{KEEPING}, with at most {budget} experts received a layer"
    return replace(TABLE[KEEPING], idea=idea, change=partial(refined, move_budget=int(budget)))


def with_maps(place: Place, name: str = "policy") -> Policy:
    """The policy, called ``name``, that returns all three maps of what ``place`` places."""

    def policy(
        weight: Tensor, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
    ) -> Maps:
        phy2log = place(weight, num_replicas, num_groups, num_nodes, num_gpus)
        return maps(phy2log, weight.shape[1])

    policy.__name__ = policy.__qualname__ = name
    return policy


POLICIES: dict[str, Policy] = {name: with_maps(policy, name) for name, policy in TABLE.items()}


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
        policy: a name as :func:`placer` reads it: one in ``POLICIES``, or stages such as
            ``huntington-hill + snake + pair-resplit``.

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
