"""Replica counts: how many slots each expert gets, and which replica is whose. All rows at once.

A rule maps loads ``w [B, E]`` (floating point, one problem a row) and a number of slots ``P >= E``
to counts ``c [B, E]`` int64 with ``c >= 1`` and ``sum(c) = P`` in every row; this one is greedy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from heuristics import loops
from heuristics.arrays import native


def greedy_replicas(loads: Tensor, num_slots: int) -> Tensor:
    """The expert of each replica [B, P] under :func:`greedy_counts`: every expert once in order,
    then the further replicas in the order in which greedy hands them out.
    """
    if loops.run_on(loads):
        return loops.greedy_replicas(loads, num_slots)
    rows, experts = loads.shape
    labels = torch.arange(num_slots, device=loads.device).repeat(rows, 1)
    one_more = native(torch.ones_like(loads))
    row = native(torch.arange(rows, device=loads.device))
    load, label, per_replica = native(loads), native(labels), native(loads.clone())
    for slot in range(experts, num_slots):
        expert = per_replica.argmax(1)
        label[:, slot] = expert
        one_more[row, expert] += 1
        per_replica[row, expert] = load[row, expert] / one_more[row, expert]
    return labels


def greedy_counts(loads: Tensor, num_slots: int) -> Tensor:
    """Give each further slot to the expert with the largest load per replica ``w_e / c_e``.

    Optimal for ``min max_e w_e / c_e`` (by exchange: had another choice fewer replicas of ``f``,
    then greedy's last split of ``f`` happened when ``w_f / (c_f - 1)`` was the maximum). Ties: the
    lowest index. O(B (P - E) E) time.
    """
    return count_replicas(greedy_replicas(loads, num_slots), loads.shape[1])


def count_replicas(labels: Tensor, num_experts: int) -> Tensor:
    """Counts [B, E] int64 from the expert of each replica [B, P]."""
    counts = labels.new_zeros(len(labels), num_experts)
    return counts.scatter_add_(1, labels, torch.ones_like(labels))


def replicas_in_order(counts: Tensor, num_slots: int) -> Tensor:
    """The expert of each replica [B, P] int64, experts in order, from counts [B, E] that sum to
    P.
    """
    rows, experts = counts.shape
    expert = torch.arange(experts, device=counts.device).repeat(rows)
    flat = torch.repeat_interleave(expert, counts.flatten(), output_size=rows * num_slots)
    return flat.view(rows, num_slots)


def in_order(counts: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """The expert of each replica [B, P], experts in order, under a rule for counts [B, E]."""
    return lambda loads, num_slots: replicas_in_order(counts(loads, num_slots), num_slots)


def replica_loads(loads: Tensor, labels: Tensor) -> Tensor:
    """``w_e / c_e`` of each replica, [B, P], for loads [B, E] and the expert of each replica [B,
    P].
    """
    return (loads / count_replicas(labels, loads.shape[1])).gather(1, labels)
