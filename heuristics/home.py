"""``refined`` under the rule ``home``: homes, contents of nodes, packing inside nodes.

Under that rule every expert has a copy at the home of its group and the P - E further copies may be
anywhere, so that they balance nodes as well as ranks. Homes are chosen for that
(:mod:`heuristics.home_groups`), then the further copies of each node (:mod:`heuristics.contents`),
and then the replicas of each node are packed on its ranks as under the other rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from heuristics.contents import Contents
from heuristics.home_groups import candidate_homes
from heuristics.makespan import change_where, keep_best, keep_better, makespans
from heuristics.packing import by_load, lpt, snake
from heuristics.pair_resplit import PackedPlacement, resplit, rounds
from heuristics.replication import count_replicas
from heuristics.shape import Shape


@dataclass(frozen=True)
class Work:
    """Of a search.

    Attributes:
        candidates: homes that are tried.
        brief: rounds of annealing for each of these.
        full: rounds for the most promising, and those that fewer candidates spare.
        heat: the first temperature over the mean node, of brief annealing; a quarter afterwards.
        light: the part of the mean rank load up to which replicas are easy to pack.
        resplits: rounds of re-splitting inside nodes.
    """

    candidates: int
    brief: int
    full: int
    heat: float = 0.016
    light: float = 0.5
    resplits: int = 12


WORK = {
    "fast": (Work(4, 32, 64, resplits=4),),
    "default": (Work(6, 64, 256), Work(6, 64, 1024, 0.06, 0.65)),
    "thorough": (Work(16, 256, 4096, resplits=80), Work(16, 256, 4096, 0.06, 0.65, 80)),
}
"""By effort; all searches after the first only for layers that ``ENOUGH`` is not reached in."""
ENOUGH = 0.005
"""Over the makespan that the traffic allows."""


def place_at_home(loads: Tensor, shape: Shape, traffic: float, effort: str, seed: int) -> Tensor:
    """The expert in each slot, [L, P] int64, from loads [L, E] in float64.

    Every expert is at home, K/N groups on each node, and at most ``traffic`` of a layer's tokens
    are served off home. There must be further copies: P > E.
    """
    first, *further = WORK[effort]
    homes, left = candidate_homes(loads, shape, traffic, first.candidates)
    best = _search(loads, homes, shape, traffic, first, seed)
    enough = left * ((1 + ENOUGH) * shape.num_nodes / shape.num_ranks)
    for number, work in enumerate(further, 1):
        task = partial(_search, shape=shape, traffic=traffic, work=work, seed=seed + 2 * number)

        def again(rows: Tensor, best: Tensor = best, task: Search = task) -> Tensor:
            found = task(loads[rows], homes[rows])
            return keep_better(loads[rows], best[rows], found, shape.num_ranks)

        best = change_where(makespans(loads, best, shape.num_ranks) > enough, again, best)
    return best


Search = Callable[[Tensor, Tensor], Tensor]
"""(loads [L, E], homes [L, n, K]) -> the expert in each slot [L, P]."""


def _search(
    loads: Tensor, homes: Tensor, shape: Shape, traffic: float, work: Work, seed: int
) -> Tensor:
    """The placement [L, P] of the best of homes [L, n, K]."""
    layers, number = homes.shape[:2]
    experts = homes.repeat_interleave(loads.shape[1] // shape.num_groups, dim=2)
    trials = Contents.begin(loads, experts, shape, traffic, work.light)
    trials.anneal(work.brief, work.heat, seed)
    first = torch.arange(layers, device=loads.device) * number
    chosen = trials.select(trials.least.view(layers, number).argmin(1) + first)
    spared = work.brief * (work.candidates - number)
    chosen.anneal(work.full + spared, work.heat / 4, seed + 1)
    return _pack(loads, chosen, shape, work.resplits)


def _pack(loads: Tensor, contents: Contents, shape: Shape, resplits: int) -> Tensor:
    """The placement [L, P]: each node is a row, with its part of the tokens of its experts."""
    layers, experts = loads.shape
    nodes, ranks = shape.num_nodes, shape.num_ranks // shape.num_nodes
    own = torch.sort(contents.home, dim=1, stable=True).indices.view(layers, nodes, -1)
    replicas = torch.cat([own, contents.best], dim=2)
    share = loads / count_replicas(replicas.flatten(1), experts)
    replicas = replicas.flatten(0, 1)
    here = share.repeat_interleave(nodes, dim=0) * count_replicas(replicas, experts)
    placed = by_load(lpt)(here.float(), replicas, ranks)
    slots_per_rank = shape.num_slots // shape.num_ranks
    if slots_per_rank == 2:
        folded = by_load(snake)(here, replicas, ranks)
        placed = keep_best(here, torch.stack([placed, folded]), ranks)
    elif slots_per_rank > 2 and ranks > 1:
        packed = PackedPlacement.of(here, placed, ranks)
        placed, _ = resplit(placed, packed, rounds(0, resplits))
    return placed.view(layers, -1)
