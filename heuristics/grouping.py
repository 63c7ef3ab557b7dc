"""Groups to nodes: by their total loads, or by what each node can reach with its groups."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from heuristics.arrays import argmin_rows, sort_rows
from heuristics.packing import lpt
from heuristics.shape import Shape
from heuristics.swaps import swap_extremes, swap_heaviest

MAX_PARTITIONS = 5775
"""All partitions are listed up to this many, as 12 groups on 3 nodes have; 8 on 4 have 105."""


def by_total(pack: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, Shape], Tensor]:
    """A packing of items made one of groups [L, K], by their total loads, from loads [L, K, E/K].

    In float32, as DeepSeek EPLB adds: every policy that packs by totals starts from its groups.
    """
    return lambda loads, shape: pack(loads.float().sum(2), shape.num_nodes)


def swap_groups(group_loads: Tensor, num_nodes: int) -> Tensor:
    """Groups to nodes by LPT and swaps between the heaviest and the lightest node."""
    return swap_extremes(group_loads, lpt(group_loads, num_nodes), num_nodes)


def groups_by_reach(loads: Tensor, shape: Shape) -> Tensor:
    """The group in each place [L, K], from expert loads [L, K, E/K].

    Minimizes the largest :func:`node_bounds` over all partitions; :func:`swap_groups` by the
    groups' loads where these are more than ``MAX_PARTITIONS``. Ties: the first in lexicographic
    order.
    """
    per_node = shape.num_groups // shape.num_nodes
    if num_partitions(shape.num_groups, per_node) > MAX_PARTITIONS:
        totals, nodes = loads.sum(2), shape.num_nodes
        return swap_heaviest(totals, swap_groups(totals, nodes), nodes)
    subsets, partition = partitions(shape.num_groups, per_node, loads.device)
    bounds = node_bounds(loads, subsets, shape)
    worst = bounds.index_select(1, partition.flatten()).view(-1, *partition.shape).amax(2)
    return subsets[partition[argmin_rows(worst)]].flatten(1)


def groups_by_steps(steps: Tensor) -> Callable[[Tensor, Shape], Tensor]:
    """The group in each place [L, K] with the least mean over steps [T, L, E] of the fullest node,
    of all partitions; where these are more than ``MAX_PARTITIONS`` LPT of the sums. Ties: the first
    in lexicographic order.
    """

    def pack(loads: Tensor, shape: Shape) -> Tensor:
        per_node = shape.num_groups // shape.num_nodes
        if num_partitions(shape.num_groups, per_node) > MAX_PARTITIONS:
            return by_total(lpt)(loads, shape)
        subsets, partition = partitions(shape.num_groups, per_node, loads.device)
        value = loads.new_zeros(len(loads), len(partition), dtype=torch.float64)
        for step in steps.double():
            nodes = step.view_as(loads).sum(2)[:, subsets].sum(2)
            value += nodes[:, partition].amax(2)
        return subsets[partition[argmin_rows(value)]].flatten(1)

    return pack


def node_bounds(loads: Tensor, subsets: Tensor, shape: Shape) -> Tensor:
    """A lower bound [L, n] on the makespan of a node that takes a subset [n, K/N] of the groups.

    The larger of the mean rank load and the largest replica under greedy counts; the latter is the
    ``R + 1``-th largest of all ``w_e / k``, k = 1, 2, .., where R is the number of further slots.
    """
    totals = loads.sum(2)[:, subsets].sum(2)
    mean = totals * (shape.num_nodes / shape.num_ranks)
    further = (shape.num_slots - loads.shape[1] * loads.shape[2]) // shape.num_nodes
    heaviest = loads.topk(min(further + 1, loads.shape[2]), dim=2).values
    shares = heaviest[:, :, :, None] / torch.arange(1, further + 2, device=loads.device)
    kept = shares.flatten(2).topk(further + 1, dim=2).values  # of each group; more can't matter
    joined = kept[:, subsets].flatten(2)
    largest = sort_rows(joined.flatten(0, 1))[:, -(further + 1)]
    return torch.maximum(mean, largest.view_as(mean))


def num_partitions(groups: int, per_node: int) -> int:
    """Ways to split ``groups`` into unordered sets of ``per_node``."""
    return (
        1
        if groups == 0
        else comb(groups - 1, per_node - 1) * num_partitions(groups - per_node, per_node)
    )


@lru_cache(maxsize=16)
def partitions(groups: int, per_node: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All subsets of so many groups [n, K/N], and all partitions as numbers of subsets [m, N]."""
    subsets = list(combinations(range(groups), per_node))
    number = {subset: i for i, subset in enumerate(subsets)}

    def split(left: tuple[int, ...]) -> list[list[int]]:
        if not left:
            return [[]]
        found = []
        for others in combinations(left[1:], per_node - 1):
            first = (left[0], *others)
            rest = tuple(group for group in left if group not in first)
            found += [[number[first], *tail] for tail in split(rest)]
        return found

    listed = torch.tensor(split(tuple(range(groups))))
    return torch.tensor(subsets).to(device), listed.to(device)
