"""The one table of names: of policies, and of stages; and the one reading of them.

The command line, the drop-ins and replays all ask :func:`placer`. No other module of ours depends
on ``published``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from heuristics.graphs import GRAPHS, GraphPolicy
from heuristics.grouping import by_total
from heuristics.matching import NoStartError
from heuristics.packing import by_load, lpt, snake
from heuristics.pair_resplit import resplit_pairs
from heuristics.pipeline import Counting, Maps, Pipeline, Placing, maps
from heuristics.published import programs
from heuristics.refined import refined
from heuristics.replication import greedy_replicas

Place = Callable[[Tensor, int, int, int, int], Tensor]
"""(weight [L, E], num_replicas, num_groups, num_nodes, num_gpus) -> phy2log [L, P]."""

Policy = Callable[[Tensor, int, int, int, int], Maps]
"""The same arguments -> the three maps."""

COUNTS: dict[str, Counting] = {"greedy": greedy_replicas, **programs.COUNTS}
PACKINGS: dict[str, Placing] = {"lpt": by_load(lpt), "snake": by_load(snake), **programs.PACKINGS}
REFINEMENTS: dict[str, Placing] = {"pair-resplit": resplit_pairs, **programs.REFINEMENTS}


deepseek = Pipeline(by_total(lpt), greedy_replicas, by_load(lpt))
"""DeepSeek EPLB: LPT of groups to nodes, greedy counts, LPT of replicas to ranks; in float32.

Places what the published program places, slot for slot. Ties: equal loads in the order of their
index (the published program leaves the order of equal loads to an unstable sort).

Reference: https://github.com/deepseek-ai/EPLB
"""


@dataclass(frozen=True)
class NamedPolicy:
    """A policy that a name stands for.

    Attributes:
        place: places all layers anew.
        idea: one line.
        change: how it starts from the placement until now, given as ``old``; None for a policy that
            always places anew.
        check: raises ValueError for numbers of experts, slots, groups, nodes and ranks of which it
            has no placement; None for a policy that has one of all.
    """

    place: Place
    idea: str
    change: Callable[..., Tensor] | None = None
    check: Callable[[int, int, int, int, int], None] | None = None

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
        programs.waterfill_diverse,
        "water-filled counts, one replica of each expert first, bounded exchanges",
    ),
    "apportion-zigzag": NamedPolicy(
        programs.apportion_zigzag,
        "Huntington-Hill counts, interleaved zigzag packing, bounded exchanges",
    ),
    "vectorized-swap": NamedPolicy(
        programs.vectorized_swap,
        "the baseline, then swaps between the heaviest and the lightest rank",
    ),
    "replica-refine": NamedPolicy(
        programs.replica_refine,
        "vectorized-swap, then a replica moved where that lowers the makespan",
    ),
    "refined": NamedPolicy(
        refined, "pairs of ranks re-split, other groups and counts tried; never worse than deepseek"
    ),
}
"""The policies that have a name of their own."""

KEEPING, RELABEL = "refined", "relabel"
"""The policy that can start from the placement until now, and the word for keeping all it can."""


def _along(graph: str) -> NamedPolicy:
    place = GraphPolicy(f"lplb-graph:{graph}", GRAPHS[graph])
    idea = f"LPLB's {graph}: heaviest experts copied to fixed neighbours; needs a dispatcher"
    return NamedPolicy(place, idea, check=place.check)


LPLB_GRAPHS: dict[str, NamedPolicy] = {f"lplb-graph:{graph}": _along(graph) for graph in GRAPHS}
"""Placements along a fixed graph: each of one number of slots only, and so not in ``TABLE``."""


def compose(name: str) -> Pipeline:
    """The policy that ``counts + packing [+ refinement ..]`` names, groups to nodes by LPT.

    Raises:
        ValueError: fewer than two stages, or a name that does not exist.
    """
    stages = [stage.strip() for stage in name.split("+")]
    if len(stages) < 2:
        raise ValueError(f"policy={name!r} does not name a counts rule and a packing, joined by +")
    _check_known("counts rule", stages[0], COUNTS)
    _check_known("packing", stages[1], PACKINGS)
    for stage in stages[2:]:
        _check_known("refinement", stage, REFINEMENTS)
    refinements = [REFINEMENTS[stage] for stage in stages[2:]]
    return Pipeline(by_total(lpt), COUNTS[stages[0]], PACKINGS[stages[1]], refinements)


def _check_known(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"{kind} {name!r} is not one of {', '.join(known)}")


class UnknownPolicyError(ValueError):
    """There is no policy of such a name."""


def placer(name: str) -> NamedPolicy:
    """The policy of a name.

    A name in ``TABLE`` or ``LPLB_GRAPHS``; ``refined:40``, which starts from the placement until
    now and receives at most 40 experts a layer; ``refined:relabel``, which places anew and keeps
    what it can where it is; or stages joined by ``+``: a counts rule, a packing, and refinements.

    Raises:
        UnknownPolicyError: none of these.
        ValueError: there is no such stage, or no number after ``refined:``.

    Example:
        >>> placer("refined:40").idea
        'refined, with at most 40 transfers a layer'
        >>> placer("greedy + snake + pair-resplit").idea
        'stages by name'
    """
    named = TABLE | LPLB_GRAPHS
    if name in named:
        return named[name]
    if "+" in name:
        return NamedPolicy(compose(name), "stages by name")
    if name.startswith(f"{KEEPING}:"):
        return _read_keeping(name)
    raise UnknownPolicyError(
        f"policy={name!r} is not one of {', '.join(named)}, nor {KEEPING}:N or "
        f"{KEEPING}:{RELABEL}, nor stages joined by +"
    )


def _read_keeping(name: str) -> NamedPolicy:
    """``refined`` that starts from the placement until now, from ``refined:relabel`` or
    ``refined:N``.
    """
    budget = name.partition(":")[2]
    if budget == RELABEL:
        idea = f"{KEEPING}, written so that experts stay where they are"
        return replace(TABLE[KEEPING], idea=idea, change=refined)
    if not (budget.isascii() and budget.isdecimal()):
        raise ValueError(
            f"{name!r} is neither {KEEPING}:{RELABEL} nor {KEEPING}:N with N transfers a layer"
        )
    idea = f"{KEEPING}, with at most {budget} transfers a layer"
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
"""The same with the signature and results of DeepSeek EPLB; reports show their names."""


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
