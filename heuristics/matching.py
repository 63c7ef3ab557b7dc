"""Which rank of a new placement is which rank of the old one, and which slot is which.

Ranks of a placement are alike (those of a node, under the hierarchical rule and ``home``), so a new
placement may be written down in many ways. One that leaves many experts where they are takes few
transfers. Nodes as wholes are alike, too: in another order groups have other homes, and the tokens
that are served off home stay the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from heuristics.shape import ArgumentError


class NoStartError(ArgumentError):
    """The placement until now cannot be changed into the new one, only replaced by it.

    It has another width or an empty slot (-1), as while ranks come and go, or breaks the rule.
    """


def check_old(
    old: Tensor,
    num_slots: int,
    num_nodes: int,
    num_groups: int,
    like: Tensor,
    *,
    home: bool = False,
) -> Tensor:
    """``old`` as int64 on the device of the loads ``like`` [L, E], if it is a valid placement, with
    any traffic under the rule ``home``.

    Raises:
        NoStartError: its width is not P, it holds -1, or does not keep groups on their nodes; or,
            under ``home``, not every group has a node with all its experts, K/N on each.
        ArgumentError: it is otherwise no [L, P] of experts, or misses one.
    """
    layers, experts = like.shape
    old = torch.as_tensor(old)
    if tuple(old.shape) != (layers, num_slots):
        kind = NoStartError if old.shape[:-1] == (layers,) else ArgumentError
        raise kind(f"old of shape {tuple(old.shape)} is not {(layers, num_slots)}")
    if old.is_floating_point() or old.is_complex() or old.dtype == torch.bool:
        raise ArgumentError(f"old must hold the experts as integers, not {old.dtype}")
    old = old.to("cpu", torch.int64)  # one copy, in place of one for each check
    low, high = int(old.min()), int(old.max())
    if low < 0 or high >= experts:
        kind = NoStartError if low == -1 and high < experts else ArgumentError
        raise kind(f"old holds expert {low if low < 0 else high}, not in 0..{experts - 1}")
    on_node = count_on_ranks(old, num_nodes, experts) > 0
    if num_nodes > 1:
        _check_nodes(on_node, old, num_groups, like, home=home)
    missing = (~on_node.any(1)).nonzero().tolist()
    if missing:
        raise ArgumentError(f"old has no slot for expert {missing[0][1]} in layer {missing[0][0]}")
    return old.to(like.device)


def _check_nodes(
    on_node: Tensor, old: Tensor, num_groups: int, like: Tensor, *, home: bool
) -> None:
    """Refuse a placement ``old`` without homes, or, under the hierarchical rule, without whole
    groups on each node.
    """
    layers, num_nodes, _ = on_node.shape
    if home:
        homeless = (find_homes(old, like.cpu(), num_nodes, num_groups) < 0).any(1).nonzero()
        if len(homeless):
            raise NoStartError(
                f"old has no homes of the groups in layer {int(homeless[0])}, "
                f"{num_groups // num_nodes} on each node, with every expert at home"
            )
        return
    groups = on_node.view(layers, num_nodes, num_groups, -1).any(3).sum(2)
    split = (groups != num_groups // num_nodes).nonzero().tolist()
    if split:
        raise NoStartError(
            f"old has not {num_groups // num_nodes} whole groups on node {split[0][1]} in layer "
            f"{split[0][0]}: it must follow the hierarchical rule, or num_groups must be 1"
        )


PARTS = 2**60
"""Of the largest cost, in which homes are compared."""


def find_homes(
    phy2log: Tensor, loads: Tensor, num_nodes: int, num_groups: int, *, present: bool = True
) -> Tensor:
    """The home of each group under the rule ``home``: [B, K] int64 nodes, K/N groups on each.

    Of all homes with every expert at home those with the least tokens served off home, replicas
    sharing alike, in float64; -1 in rows that have none. On a device the host waits for them.

    Args:
        phy2log: [B, P] int64 the expert in each slot; every expert has one.
        loads: [B, E] tokens.
        num_nodes: N, which divides K.
        num_groups: K, which divides E.
        present: whether experts must be at home; without that all rows have homes.
    """
    rows, experts = loads.shape
    number = count_on_ranks(phy2log, num_nodes, experts).view(rows, num_nodes, num_groups, -1)
    share = loads.double().view(rows, 1, num_groups, -1) * number / number.sum(1, keepdim=True)
    here = share.sum(3).transpose(1, 2)  # [B, K, N] tokens of the group served on the node
    possible = (number > 0).all(3).transpose(1, 2) if present else torch.ones_like(here) > 0
    homes = here.masked_fill(~possible, -torch.inf).argmax(2)
    taken = torch.nn.functional.one_hot(homes, num_nodes).sum(1)
    open_rows = (taken != num_groups // num_nodes).any(1) | ~possible.any(2).all(1)
    for row in open_rows.nonzero().flatten().tolist():
        costs = (-here[row]).masked_fill(~possible[row], torch.inf).tolist()
        homes[row] = torch.tensor(_assign_groups(costs, num_groups // num_nodes))
    return homes


def _assign_groups(costs: list[list[float]], per_node: int) -> list[int]:
    """A node for each group, ``per_node`` on each, with the least sum of ``costs`` [K][N]; -1 for
    all where it would be infinite.

    Group by group along the cheapest path: the group goes to a node, one of that node's groups to
    the next, and so on until a node with room (Bellman-Ford). O(K^2 N^2) time. Costs are counted in
    whole parts of the largest: sums that round could make a circle of exchanges look cheaper for
    ever.
    """
    largest = max((abs(c) for row in costs for c in row if c < math.inf), default=0.0) or 1.0
    units = [[c if c == math.inf else int(c / largest * PARTS) for c in row] for row in costs]
    nodes, homes = range(len(costs[0])), list[int]()
    for group, cost in enumerate(units):
        price, comes = list(cost), [group for _ in nodes]
        for _ in nodes:
            for other, home in enumerate(homes):
                for n in nodes:
                    if math.inf in (price[home], units[other][n]):
                        continue
                    detour = price[home] + units[other][n] - units[other][home]
                    if detour < price[n]:
                        price[n], comes[n] = detour, other
        end = min((n for n in nodes if homes.count(n) < per_node), key=price.__getitem__)
        if price[end] == math.inf:
            return [-1] * len(costs)
        while (other := comes[end]) != group:
            homes[other], end = end, homes[other]
        homes.append(end)
    return homes


def count_on_ranks(phy2log: Tensor, num_ranks: int, num_experts: int) -> Tensor:
    """How often each rank holds each expert: [B, G, E] int32 from [B, P]."""
    rows, slots = phy2log.shape
    rank = torch.arange(slots, device=phy2log.device) // (slots // num_ranks)
    count = torch.zeros(rows, num_ranks * num_experts, dtype=torch.int32, device=phy2log.device)
    ones = torch.ones_like(phy2log, dtype=torch.int32)
    return count.scatter_add_(1, rank * num_experts + phy2log, ones).view(rows, num_ranks, -1)


def count_transfers(old: Tensor, new: Tensor, num_ranks: int, num_experts: int) -> Tensor:
    """Transfers of each row [B]: ``sum over ranks of |new experts - old experts|``."""
    before, after = (count_on_ranks(x, num_ranks, num_experts) > 0 for x in (old, new))
    return (after & ~before).flatten(1).sum(1)


def relabel(new: Tensor, old: Tensor, num_ranks: int, num_nodes: int, num_experts: int) -> Tensor:
    """``new`` [B, P] with nodes, ranks and slots in another order, so that much stays in place.

    Ranks of each pair of nodes are matched, then nodes, both by :func:`match_columns`: a heuristic
    (``solvers.migration.relabel`` is exact), never worse than ``new`` as it is written.
    """
    rows, per_node = len(new), num_ranks // num_nodes
    before, after = ((count_on_ranks(x, num_ranks, num_experts) > 0).float() for x in (old, new))
    kept = (before @ after.transpose(1, 2)).view(rows, num_nodes, per_node, num_nodes, per_node)
    inner = kept.permute(0, 1, 3, 2, 4).reshape(-1, per_node, per_node)
    ranks = match_columns(inner)
    value = inner.gather(2, ranks[:, :, None]).sum((1, 2)).view(rows, num_nodes, num_nodes)
    node = match_columns(value)
    chosen = ranks.view(rows, num_nodes, num_nodes, per_node)
    chosen = chosen.gather(2, node[:, :, None, None].expand(-1, -1, 1, per_node))[:, :, 0]
    order = (node[:, :, None] * per_node + chosen).view(rows, num_ranks, 1)
    by_rank = new.view(rows, num_ranks, -1)
    moved = by_rank.gather(1, order.expand_as(by_rank)).flatten(1)
    needed = [count_transfers(old, x, num_ranks, num_experts) for x in (moved, new)]
    fewer = needed[0] < needed[1]
    return keep_slots(torch.where(fewer[:, None], moved, new), old, num_ranks)


def match_columns(value: Tensor) -> Tensor:
    """A column for each row of matrices [B, n, n], all different: [B, n] int64; a heuristic.

    Greedy, the largest entry first, then exchanges of two columns while the sum rises. O(n^3) time
    each for greedy and for n exchanges.
    """
    rows, n = value.shape[:2]
    left, column = value.clone(), torch.zeros(rows, n, dtype=torch.int64, device=value.device)
    row = torch.arange(rows, device=value.device)
    taken = value.new_full((1,), -torch.inf)  # CUDA would copy a number assigned to an index
    for _ in range(n):
        best = left.flatten(1).argmax(1)
        column[row, best // n] = best % n
        left[row, best // n, :] = taken
        left[row, :, best % n] = taken
    for _ in range(2 * n):
        mixed = value.gather(2, column[:, None, :].expand(-1, n, -1))  # row i with j's column
        own = mixed.diagonal(dim1=1, dim2=2)
        gain = mixed + mixed.transpose(1, 2) - own[:, :, None] - own[:, None, :]
        most, pair = gain.flatten(1).max(1)
        if most.device.type == "cpu" and not bool((most > 0).any()):
            break
        i, j = (torch.where(most > 0, x, 0)[:, None] for x in (pair // n, pair % n))
        first, second = column.gather(1, i), column.gather(1, j)
        column = column.scatter(1, i, second).scatter(1, j, first)
    return column


def fit_ranks(old: Tensor, num_slots: int, num_ranks: int) -> Tensor:
    """``old`` [L, P'] in the width P of now, after ranks came or went; each rank keeps its S slots.

    The first ranks are those that stay, as in vLLM; new ones hold -1. Of a width that is no
    multiple of S it is not known what was on which rank: all slots say -1.
    """
    if old.shape[-1] % (num_slots // num_ranks):
        old = old[:, :0]
    missing = num_slots - old.shape[-1]
    return torch.nn.functional.pad(old, (0, missing), value=-1)


def keep_slots(phy2log: Tensor, old: Tensor, num_ranks: int) -> Tensor:
    """``phy2log`` [L, P] with the slots of each rank permuted: what stays on a rank keeps its slot.

    As many slots as possible keep their expert; the others are filled in order. O(L P S) time.

    Raises:
        ArgumentError: ``old`` is of another shape.
    """
    if old.shape != phy2log.shape:
        raise ArgumentError(
            f"old_global_expert_indices of shape {tuple(old.shape)} is not {tuple(phy2log.shape)}"
        )
    new, before = (x.view(len(x), num_ranks, -1) for x in (phy2log, old))
    same = before[:, :, :, None] == new[:, :, None, :]
    same &= _count_earlier(before)[:, :, :, None] == _count_earlier(new)[:, :, None, :]
    stays, kept = same.any(2), same.any(3)
    free = torch.sort(
        kept.long(), dim=2, stable=True
    ).indices  # slots to fill, in order, come first
    next_free = ((~stays).long().cumsum(2) - 1).clamp(min=0)
    slot = torch.where(stays, same.long().argmax(2), free.gather(2, next_free))
    return torch.empty_like(new).scatter_(2, slot, new).flatten(1)


def _count_earlier(experts: Tensor) -> Tensor:
    """How many slots before this one, on the same rank, hold the same expert; [L, G, S]."""
    equal = experts[:, :, :, None] == experts[:, :, None, :]
    return equal.tril(-1).sum(3)
