"""Placements along a fixed graph of ranks, as LPLB makes them: each expert at most two replicas.

The experts are placed without redundancy; then each rank's heaviest experts are copied along the
edges of the graph that start there, the heaviest along the first edge. A dispatcher can then move
load from a rank to its neighbours, whichever experts happen to be busy. Made for dispatch that
looks at the step: under even dispatch these placements are worse than those of ``deepseek``.

A graph is told by its *sources*: [R, d] for R ranks of degree d, the rank whose j-th heaviest
expert rank r takes; every column is a permutation.

Reference: https://github.com/deepseek-ai/LPLB
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from heuristics.grouping import by_total
from heuristics.packing import by_load, lpt
from heuristics.pipeline import Pipeline
from heuristics.replication import greedy_replicas
from heuristics.shape import Shape

CUBE = 8
"""Ranks of a cube."""


def ring(num_ranks: int) -> Tensor:
    """Rank r copies its heaviest expert to rank r + 1. At least 2 ranks."""
    if num_ranks < 2:
        raise ValueError(f"a ring needs at least 2 ranks, not {num_ranks}")
    rank = torch.arange(num_ranks)
    return ((rank - 1) % num_ranks)[:, None]


def cube(num_ranks: int) -> Tensor:
    """Every 8 neighbouring ranks are two squares, linked.

    The heaviest expert goes to the next rank of the square; the second goes straight across from
    the first square, and from the second to the corner opposite of that: the cube with diagonals
    for half of its upright edges.
    """
    if num_ranks % CUBE:
        raise ValueError(f"a cube needs a multiple of {CUBE} ranks, not {num_ranks}")
    rank = torch.arange(num_ranks)
    square, corner = rank // 4, rank % 4
    along = square * 4 + (corner - 1) % 4
    across = (square ^ 1) * 4 + (corner + 2 * (1 - square % 2)) % 4
    return torch.stack([along, across], 1)


def torus(num_ranks: int) -> Tensor:
    """A grid of m rows and n columns that closes in both directions; rank i n + j is in row i.

    The heaviest expert goes to the row before, the second to the column before. m n is the number
    of ranks, m >= n >= 2, as square as they can be.
    """
    columns = next((n for n in range(isqrt(num_ranks), 1, -1) if num_ranks % n == 0), 0)
    if not columns:
        raise ValueError(f"a torus needs m n ranks with m and n at least 2, not {num_ranks}")
    grid = torch.arange(num_ranks).view(-1, columns)
    return torch.stack([grid.roll(-1, 0).flatten(), grid.roll(-1, 1).flatten()], 1)


unreplicated = Pipeline(by_total(lpt), greedy_replicas, by_load(lpt))
"""Called with as many slots as experts: LPT, which fills every rank heaviest expert first."""


@dataclass(frozen=True)
class GraphPolicy:
    """The placement along a graph; under the hierarchical rule every node has one of its own.

    Attributes:
        name: of the policy, for messages.
        sources: the graph, from a number of ranks.
    """

    name: str
    sources: Callable[[int], Tensor]

    def __call__(
        self, weight: Tensor, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
    ) -> Tensor:
        """The expert in each slot, [L, P] int64: on each rank its own experts, heaviest first, then
        copies.

        Raises:
            ValueError: an argument does not fit, see :meth:`check`; the message names it.
        """
        shape = Shape.resolve(weight, num_replicas, num_groups, num_nodes, num_gpus)
        layers, experts = weight.shape
        self.check(experts, num_replicas, num_groups, num_nodes, num_gpus)
        ranks = shape.num_ranks // shape.num_nodes
        sources = self.sources(ranks).to(weight.device)

        own = unreplicated(weight, experts, num_groups, num_nodes, num_gpus)
        own = own.view(layers, shape.num_nodes, ranks, experts // num_gpus)
        copies = own[:, :, sources, torch.arange(sources.shape[1], device=weight.device)]
        return torch.cat([own, copies], 3).view(layers, num_replicas)

    def check(
        self, num_experts: int, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
    ) -> None:
        """Raises ValueError where the graph has no such number of ranks, ranks cannot have equally
        many experts, or the slots are not as many as the edges ask for.
        """
        nodes = num_nodes if num_groups % num_nodes == 0 else 1
        try:
            degree = self.sources(num_gpus // nodes).shape[1]
        except ValueError as error:
            where = " on every node" if nodes > 1 else ""
            raise ValueError(f"{self.name}: {error}{where}") from None
        if num_experts % num_gpus:
            raise ValueError(
                f"{self.name} gives every rank equally many experts of its own: {num_gpus} ranks "
                f"do not divide {num_experts} experts"
            )
        if num_experts // num_gpus < degree:
            raise ValueError(
                f"{self.name} copies {degree} experts of every rank, and a rank has "
                f"{num_experts // num_gpus} of {num_experts} on {num_gpus} ranks"
            )
        redundant = num_gpus * degree
        if num_replicas != num_experts + redundant:
            raise ValueError(
                f"{self.name} copies {degree} of the experts of every rank: {num_experts} experts "
                f"on {num_gpus} ranks need {redundant} redundant slots "
                f"({num_experts + redundant} in total), not {num_replicas - num_experts}"
            )


GRAPHS: dict[str, Callable[[int], Tensor]] = {"ring": ring, "cube": cube, "torus": torus}
"""The graphs that have a name."""
