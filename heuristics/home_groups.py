"""Homes of groups under the rule ``home``: with the further copies in view.

Copies off home take tokens away from nodes whose groups have more than the mean. So a good choice
of homes does not have the least largest node, as under the hierarchical rule, but little to take
away: the least total excess.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from heuristics.grouping import MAX_PARTITIONS, num_partitions, partitions, swap_groups
from heuristics.shape import Shape


def candidate_homes(
    loads: Tensor, shape: Shape, traffic: float, most: int
) -> tuple[Tensor, Tensor]:
    """The node of each group [L, n, K] in the n <= ``most`` most promising assignments, best first,
    from loads [L, E]; and the node load [L] that the first one leaves.

    Assignments are in the order of the node load that moving ``traffic`` of the tokens leaves,
    ``max over k of (the k fullest nodes - traffic * all) / k``, at least the mean; of equal ones
    the one with the least excess over the mean. All assignments are looked at, nodes being alike;
    where these are more than ``MAX_PARTITIONS`` those that swaps of two groups find. Ties: the
    first in lexicographic order.
    """
    totals = loads.view(len(loads), shape.num_groups, -1).sum(2)
    per_node = shape.num_groups // shape.num_nodes
    if num_partitions(shape.num_groups, per_node) > MAX_PARTITIONS:
        return _by_swaps(totals, shape.num_nodes, traffic, most)
    subsets, partition = partitions(shape.num_groups, per_node, loads.device)
    nodes = totals[:, subsets].sum(2)[:, partition]
    order, left = _order(nodes, traffic)
    return _node_of_group(subsets[partition[order[:, :most]]].flatten(2), shape.num_nodes), left


def _order(nodes: Tensor, traffic: float) -> tuple[Tensor, Tensor]:
    """Assignments [L, m], most promising first, from the totals of their nodes [L, m, N]; and the
    node load [L] that the first leaves.
    """
    number = torch.arange(1, nodes.shape[2] + 1, device=nodes.device)
    total = nodes.sum(2, keepdim=True)
    mean = total / len(number)
    fullest = nodes.sort(2, descending=True).values.cumsum(2)
    left = ((fullest - traffic * total) / number).amax(2, keepdim=True)
    left = torch.maximum(left, mean)[..., 0]
    excess = (nodes - mean).clamp(min=0).sum(2)
    by_excess = torch.sort(excess, dim=1, stable=True).indices
    rising = torch.sort(left.gather(1, by_excess), dim=1, stable=True)
    return by_excess.gather(1, rising.indices), rising.values[:, 0]


def _node_of_group(groups: Tensor, num_nodes: int) -> Tensor:
    """[.., K] from the groups [.., K] node by node."""
    node = torch.arange(groups.shape[-1], device=groups.device) // (groups.shape[-1] // num_nodes)
    return torch.empty_like(groups).scatter_(-1, groups, node.expand_as(groups))


def _by_swaps(totals: Tensor, num_nodes: int, traffic: float, most: int) -> tuple[Tensor, Tensor]:
    """From LPT the best swap of two groups, as often as there are groups; then that and the best of
    its neighbours.
    """
    num_groups = totals.shape[1]
    first = _node_of_group(swap_groups(totals, num_nodes), num_nodes)
    pairs = torch.tensor(list(combinations(range(num_groups), 2)), device=totals.device)
    swap = torch.arange(num_groups, device=totals.device).repeat(len(pairs) + 1, 1)
    swap[1:].scatter_(1, pairs, pairs.flip(1))  # the first leaves all as it is
    for _ in range(num_groups):
        near = first[:, swap]
        order, _ = _order(_node_totals(totals, near, num_nodes), traffic)
        first = near.gather(1, order[:, :1, None].expand(-1, -1, num_groups))[:, 0]
    near = first[:, swap]
    order, left = _order(_node_totals(totals, near, num_nodes), traffic)
    return near.gather(1, order[:, :most, None].expand(-1, -1, num_groups)), left


def _node_totals(totals: Tensor, node_of_group: Tensor, num_nodes: int) -> Tensor:
    """[L, m, N] of assignments [L, m, K]."""
    nodes = totals.new_zeros(*node_of_group.shape[:2], num_nodes)
    return nodes.scatter_add_(2, node_of_group, totals[:, None].expand_as(node_of_group))
