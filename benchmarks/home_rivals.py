"""Simple ways to place under the rule ``home``; for measuring only.

All take loads [L, E], slots, groups, nodes, ranks and a limit of traffic, and return [L, P]. Homes
are those of LPT of group totals, as the baseline places groups; a node is full at P / N. What they
look at is the *reach* of a node, the larger of its load / (G / N) and its largest replica beside
the S - 1 lightest experts that are at home there.

- ``greedy``: each expert once at home, then copies one at a time, on any node with room, where they
  lower the largest reach most; of equals the one with the least sum of squares of reaches;
- ``annealed``: from there, a copy gives its slot to another expert of the node, kept by Metropolis'
  rule, 200,000 times a layer.

In both, traffic with replicas sharing alike stays within the limit. Inside nodes: LPT, then pairs
of ranks are re-split.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heuristics.packing import by_load, lpt
from heuristics.pair_resplit import resplit_pairs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Place = Callable[[Tensor, int, int, int, int, float], Tensor]
"""(loads [L, E], slots, groups, nodes, ranks, limit) -> phy2log [L, P]."""
HOT, COLD = 1e-2, 1e-5
"""First and last temperature, in mean rank loads."""
EVEN = 0.02
"""What the deviation of nodes' reaches counts beside the largest one."""


@numba.njit(cache=True)
def reach(w: Floats, copies: Ints, light: Floats, ranks: int, reaches: Floats) -> None:
    """The reach of each node, [N], from copies [E, N]; ``light`` [N] is beside the largest one."""
    experts, nodes = copies.shape
    for v in range(nodes):
        load, most = 0.0, light[v]
        for e in range(experts):
            if copies[e, v]:
                replica = w[e] / copies[e].sum()
                load += replica * copies[e, v]
                most = max(most, replica + light[v])
        reaches[v] = max(load / ranks, most)


@numba.njit(cache=True)
def lightest(w: Floats, home: Ints, nodes: int, number: int) -> Floats:
    """[N] sums of so many experts of each home."""
    return np.array([np.sort(w[home == v])[:number].sum() for v in range(nodes)])


@numba.njit(cache=True)
def away(w: Floats, copies: Ints, home: Ints) -> float:
    """The tokens served off home."""
    found = 0.0
    for e in range(len(w)):
        count = copies[e].sum()
        found += w[e] * (count - copies[e, home[e]]) / count
    return found


@numba.njit(cache=True)
def grow(w: Floats, home: Ints, nodes: int, room: int, ranks: int, limit: float) -> Ints:
    """Copies [E, N], by the greedy; all nodes are full."""
    experts = len(w)
    copies = np.zeros((experts, nodes), np.int64)
    for e in range(experts):
        copies[e, home[e]] = 1
    free = room - copies.sum(axis=0)
    reaches, light = np.zeros(nodes), lightest(w, home, nodes, room // ranks - 1)
    for _ in range(free.sum()):
        best, chosen, at = (np.inf, np.inf), -1, -1
        for e in range(experts):
            for v in range(nodes):
                if free[v]:
                    copies[e, v] += 1
                    if v == home[e] or away(w, copies, home) <= limit:
                        reach(w, copies, light, ranks, reaches)
                        value = (reaches.max(), (reaches**2).sum())
                        if value < best:
                            best, chosen, at = value, e, v
                    copies[e, v] -= 1
        copies[chosen, at] += 1
        free[at] -= 1
    return copies


@numba.njit(cache=True)
def price(w: Floats, copies: Ints, light: Floats, ranks: int, reaches: Floats) -> float:
    reach(w, copies, light, ranks, reaches)
    return reaches.max() + EVEN * reaches.std()


@numba.njit(cache=True)
def anneal(
    w: Floats, home: Ints, copies: Ints, ranks: int, limit: float, moves: int, seed: int
) -> float:
    """Change copies [E, N] in place; returns the best largest reach, which they then have."""
    np.random.seed(seed)
    experts, nodes = copies.shape
    mean = w.sum() / nodes / ranks
    light = lightest(w, home, nodes, copies.sum() // nodes // ranks - 1)
    reaches = np.zeros(nodes)
    value = price(w, copies, light, ranks, reaches)
    best, kept = reaches.max(), copies.copy()
    for move in range(moves):
        heat = mean * HOT * (COLD / HOT) ** (move / moves)
        v = np.random.randint(nodes)
        e, f = np.random.randint(experts), np.random.randint(experts)
        spare = copies[e, v] - (1 if home[e] == v else 0)
        while spare <= 0:
            e = np.random.randint(experts)
            v = np.random.randint(nodes)
            spare = copies[e, v] - (1 if home[e] == v else 0)
        if e == f:
            continue
        copies[e, v] -= 1
        copies[f, v] += 1
        after = price(w, copies, light, ranks, reaches)
        fits = limit >= w.sum() or away(w, copies, home) <= limit
        if fits and (after <= value or np.random.random() < np.exp((value - after) / heat)):
            value = after
            if reaches.max() < best:
                best, kept = reaches.max(), copies.copy()
        else:
            copies[e, v] += 1
            copies[f, v] -= 1
    copies[:] = kept
    return best


def homes_by_total(loads: Floats, groups: int, nodes: int) -> Ints:
    """[L, E], LPT of group totals."""
    totals = torch.from_numpy(loads).view(len(loads), groups, -1).sum(2)
    order = lpt(totals, nodes)
    node = torch.arange(groups) // (groups // nodes)
    home = torch.empty_like(order).scatter_(1, order, node.expand_as(order))
    return home.repeat_interleave(loads.shape[1] // groups, 1).numpy()


def pack(loads: Floats, copies: Ints, ranks: int) -> Tensor:
    """[L, P] from copies [L, E, N]: LPT and re-splits inside nodes."""
    layers, experts, nodes = copies.shape
    each = loads[:, :, None] * copies / copies.sum(2, keepdims=True)
    rows = torch.from_numpy(each.transpose(0, 2, 1).reshape(-1, experts).copy())
    held = copies.transpose(0, 2, 1).reshape(layers * nodes, experts)
    replicas = torch.from_numpy(np.stack([np.repeat(np.arange(experts), row) for row in held]))
    placed = by_load(lpt)(rows, replicas, ranks // nodes)
    return resplit_pairs(rows, placed, ranks // nodes).view(layers, -1)


Copies = Callable[[Floats, Ints, int, int, int, float], Ints]
"""(w [E], home [E], nodes, slots and ranks of a node, most tokens off home) -> copies [E, N]."""


def place(
    spread: Copies, loads: Tensor, slots: int, groups: int, nodes: int, ranks: int, limit: float
) -> Tensor:
    w = loads.double().numpy()
    home = homes_by_total(w, groups, nodes)
    sizes = (nodes, slots // nodes, ranks // nodes)
    copies = [
        spread(w[i], home[i], *sizes, limit * w[i].sum() if limit < 1 else np.inf)
        for i in range(len(w))
    ]
    return pack(w, np.stack(copies), ranks)


def annealed(
    moves: int, w: Floats, home: Ints, nodes: int, room: int, ranks: int, limit: float
) -> Ints:
    copies = grow(w, home, nodes, room, ranks, limit)
    anneal(w, home, copies, ranks, limit, moves, 0)
    return copies


RIVALS: dict[str, Place] = {
    "greedy": partial(place, grow),
    "annealed": partial(place, partial(annealed, 200_000)),
}
