"""Stages by name, and policies composed of them: ``huntington-hill + snake + pair-resplit``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from heuristics.hierarchical import GroupPacking, Shape, by_total, place_hierarchically
from heuristics.packing import lpt, snake
from heuristics.pair_resplit import resplit_pairs
from heuristics.published.apportionment import (
    apportioned_counts,
    even_counts,
    huntington_hill_counts,
    water_filled_counts,
)
from heuristics.published.dealing import diverse, interleaved_snake
from heuristics.published.exchange import exchange_for_peak, exchange_for_spread
from heuristics.published.swaps import refine_replicas, swap_extremes
from heuristics.replication import greedy_replicas, replica_loads, replicas_in_order

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
