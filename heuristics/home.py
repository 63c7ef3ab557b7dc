"""``refined`` under the rule ``home``: homes, contents of nodes, packing inside nodes.

Under that rule every expert has a copy at the home of its group and the P - E further copies may be
anywhere, so that they balance nodes as well as ranks. Homes are chosen for that
(:mod:`heuristics.home_groups`), then the further copies of each node (:mod:`heuristics.contents`),
and then the replicas of each node are packed on its ranks as under the other rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.contents import Contents
from heuristics.home_groups import candidate_homes
from heuristics.makespan import keep_best
from heuristics.packing import by_load, lpt, snake
from heuristics.pair_resplit import PackedPlacement, resplit, rounds
from heuristics.replication import count_replicas
from heuristics.shape import Shape


@dataclass(frozen=True)
class Work:
    """Of an effort.

    Attributes:
        candidates: homes that are tried.
        brief: rounds of annealing for each of these.
        full: rounds for the most promising, and those that fewer candidates spare.
        resplits: rounds of re-splitting inside nodes.
    """

    candidates: int
    brief: int
    full: int
    resplits: int


WORK = {
    "fast": Work(4, 32, 64, 4),
    "default": Work(6, 64, 256, 12),
    "thorough": Work(16, 256, 4096, 80),
}
HEAT = 0.016
"""The first temperature over the mean node, of brief annealing; a quarter of it afterwards."""


def place_at_home(loads: Tensor, shape: Shape, traffic: float, effort: str, seed: int) -> Tensor:
    """The expert in each slot, [L, P] int64, from loads [L, E] in float64.

    Every expert is at home, K/N groups on each node, and at most ``traffic`` of a layer's tokens
    are served off home. There must be further copies: P > E.
    """
    work, layers = WORK[effort], len(loads)
    homes = candidate_homes(loads, shape, traffic, work.candidates)
    number = homes.shape[1]
    homes = homes.repeat_interleave(loads.shape[1] // shape.num_groups, dim=2)
    trials = Contents.begin(loads, homes, shape, traffic)
    trials.anneal(work.brief, HEAT, seed)
    spared = work.brief * (work.candidates - number)
    first = torch.arange(layers, device=loads.device) * number
    chosen = trials.select(trials.least.view(layers, number).argmin(1) + first)
    chosen.anneal(work.full + spared, HEAT / 4, seed + 1)
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
