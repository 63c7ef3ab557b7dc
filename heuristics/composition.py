"""Stages by name, and policies composed of them: ``huntington-hill + snake + pair-resplit``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from heuristics.exchange import exchange_for_peak, exchange_for_spread, move_replica, swap_extremes
from heuristics.hierarchical import GroupPacking, Shape, by_total, place_hierarchically
from heuristics.packing import diverse, interleaved_snake, lpt, snake
from heuristics.pair_resplit import decode, encode, refine, rounds
from heuristics.refined import better
from heuristics.replication import (
    apportioned_counts,
    count_replicas,
    even_counts,
    greedy_replicas,
    huntington_hill_counts,
    replica_loads,
    replicas_in_order,
    water_filled_counts,
)

Stage = Callable[[Tensor, Tensor, int], Tensor]
"""(loads [B, E], experts of replicas or of slots [B, P], number of ranks) -> expert in each
slot.
"""


def in_order(rule: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """The expert of each replica [B, P], experts in order, under a counts rule."""
    return lambda loads, num_slots: replicas_in_order(rule(loads, num_slots), num_slots)


def by_load(rule: Callable[[Tensor, int], Tensor]) -> Stage:
    """A packing of replicas by their loads alone."""
    return lambda loads, replicas, ranks: replicas.gather(
        1, rule(replica_loads(loads, replicas), ranks)
    )


def resplit_pairs(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """Sixteen rounds of :func:`heuristics.pair_resplit.refine`."""
    if num_ranks == 1:
        return phy2log
    share = loads.double() / count_replicas(phy2log, loads.shape[1])
    return decode(refine(encode(share, phy2log, num_ranks), rounds(0, 16)))


def refine_replicas(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """Move one replica, pack anew (LPT and swaps), keep what has the smaller makespan.

    As seed program 004, which keeps the new packing whatever its makespan.
    """
    counts = move_replica(loads, phy2log, num_ranks)
    replicas = replicas_in_order(counts, phy2log.shape[1])
    packed = by_load(lpt)(loads, replicas, num_ranks)
    return better(loads, phy2log, swap_extremes(loads, packed, num_ranks), num_ranks)


COUNTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "greedy": greedy_replicas,
    "huntington-hill": in_order(huntington_hill_counts),
    "apportioned": in_order(apportioned_counts),
    "water-filling": in_order(water_filled_counts),
    "even": in_order(even_counts),
}
PACKINGS: dict[str, Stage] = {
    "lpt": by_load(lpt),
    "snake": by_load(snake),
    "interleaved-snake": interleaved_snake,
    "diverse": diverse,
}
REFINEMENTS: dict[str, Stage] = {
    "swap-extremes": swap_extremes,
    "exchange-for-peak": exchange_for_peak,
    "exchange-for-spread": exchange_for_spread,
    "replica-move": refine_replicas,
    "pair-resplit": resplit_pairs,
}


def swapped_groups(group_loads: Tensor, num_nodes: int) -> Tensor:
    """Groups to nodes by LPT and swaps between the heaviest and the lightest node."""
    return swap_extremes(group_loads, lpt(group_loads, num_nodes), num_nodes)


LPT_GROUPS = by_total(lpt)


@dataclass(frozen=True)
class Composition:
    """A policy made of a counts rule, a packing and refinements, run in float32.

    Called with the arguments of ``rebalance_experts`` it returns ``phy2log`` [L, P].

    Attributes:
        counts: name in ``COUNTS``.
        packing: name in ``PACKINGS``.
        refinements: names in ``REFINEMENTS``, run in this order.
        pack_groups: the stage that takes groups to nodes.
    """

    counts: str
    packing: str
    refinements: Sequence[str] = ()
    pack_groups: GroupPacking = LPT_GROUPS

    def __post_init__(self) -> None:
        _check("counts rule", self.counts, COUNTS)
        _check("packing", self.packing, PACKINGS)
        for name in self.refinements:
            _check("refinement", name, REFINEMENTS)

    def __call__(
        self, weight: Tensor, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
    ) -> Tensor:
        """The expert in each slot, [L, P] int64."""
        shape = Shape.resolve(weight, num_replicas, num_groups, num_nodes, num_gpus)
        return place_hierarchically(weight.float(), shape, self.pack_groups, self.place)

    def place(self, loads: Tensor, num_slots: int, num_ranks: int) -> Tensor:
        """The expert in each slot, [B, P], from loads [B, E]."""
        placed = COUNTS[self.counts](loads, num_slots)
        for stage in (PACKINGS[self.packing], *map(REFINEMENTS.__getitem__, self.refinements)):
            placed = stage(loads, placed, num_ranks)
        return placed


def compose(name: str) -> Composition:
    """The policy that ``counts + packing [+ refinement ..]`` names.

    Raises:
        ValueError: fewer than two stages, or a name that does not exist.

    Example:
        >>> compose("huntington-hill + snake + pair-resplit").refinements
        ['pair-resplit']
    """
    stages = [stage.strip() for stage in name.split("+")]
    if len(stages) < 2:
        raise ValueError(f"policy={name!r} does not name a counts rule and a packing, joined by +")
    return Composition(stages[0], stages[1], stages[2:])


def _check(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"{kind} {name!r} is not one of {', '.join(known)}")
