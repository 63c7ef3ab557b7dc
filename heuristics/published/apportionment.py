"""The seed programs' replica counts. One function a rule, all rows at once.

A rule maps loads ``w [B, E]`` (floating point, one problem a row) and a number of slots ``P >= E``
to counts ``c [B, E]`` int64 with ``c >= 1`` and ``sum(c) = P`` in every row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def huntington_hill_counts(loads: Tensor, num_slots: int) -> Tensor:
    """Give each further slot to the expert with the largest ``w_e / sqrt(c_e (c_e + 1))``.

    Not optimal for ``min max_e w_e / c_e``. Rows without load are filled evenly. Ties: the lowest
    index. O(B (P - E) E) time.

    Reference: Huntington, Trans. AMS 30 (1928) 85.
    """
    counts = torch.ones_like(loads, dtype=torch.int64)
    more = _add(loads, counts, num_slots - loads.shape[1], geometric=True)
    empty = loads.amax(1, keepdim=True) == 0
    return torch.where(empty, _even_counts(loads, num_slots), more)


def _even_counts(loads: Tensor, num_slots: int) -> Tensor:
    """The same count for every expert, one more for the first ``P mod E``."""
    rows, experts = loads.shape
    expert = torch.arange(experts, device=loads.device)
    return (num_slots // experts + (expert < num_slots % experts).long()).repeat(rows, 1)


def apportion_counts(loads: Tensor, num_slots: int) -> Tensor:
    """Huntington-Hill, then about a tenth of the further slots dealt again by D'Hondt where it
    helps.

    The experts with the largest load per replica lose ``t`` replicas one by one, and ``t`` go to
    the largest ``w_e / (c_e + 1)``, for t around ``(P - E) / 10``. The counts with the smallest
    ``max_e w_e / c_e`` stay. As seed program 001, except that as many replicas are dealt as were
    taken.
    """
    best = huntington_hill_counts(loads, num_slots)
    spare = num_slots - loads.shape[1]
    tail = round(0.1 * spare)
    for size in sorted({max(0, tail - 1), tail, tail + 1} - {0}) if spare else []:
        taken = (best > 1).sum(1).clamp(max=size)
        fewer = _take_from_heaviest(loads, best, taken, size)
        trial = _add(loads, fewer, size, limit=taken)
        wins = (loads / trial).amax(1) < (loads / best).amax(1)
        best = torch.where(wins[:, None], trial, best)
    return best


def _take_from_heaviest(loads: Tensor, counts: Tensor, taken: Tensor, most: int) -> Tensor:
    for i in range(most):
        share = torch.where(counts > 1, loads / counts, -torch.inf)
        step = -(taken > i).long()[:, None]
        counts = counts.scatter_add(1, share.argmax(1, keepdim=True), step)
    return counts


def _add(
    loads: Tensor,
    counts: Tensor,
    extra: int,
    *,
    geometric: bool = False,
    limit: Tensor | None = None,
) -> Tensor:
    """Give ``extra`` replicas a row (at most ``limit`` [B]) by highest averages.

    The divisor is ``c + 1`` (D'Hondt), or ``sqrt(c (c + 1))`` (Huntington-Hill) if ``geometric``.
    """
    loads = loads.double()
    for i in range(extra):
        divisor = (counts * (counts + 1.0)).sqrt() if geometric else counts + 1.0
        expert = (loads / divisor).argmax(1, keepdim=True)
        step = torch.ones_like(expert) if limit is None else (limit > i).long()[:, None]
        counts = counts.scatter_add(1, expert, step)
    return counts


def fill_counts(loads: Tensor, num_slots: int) -> Tensor:
    """``c_e = max(1, ceil(w_e / T))`` for the least T (by bisection) at which they fit into P
    slots.

    What is left goes one each to the experts with the largest load per replica, in turns. Ties: the
    lowest index. As seed program 000; its exchange between the two heaviest donors and the two
    lightest receivers is left out, because with three experts or more it can't lower ``max_e w_e /
    c_e``: the maximum is not among the receivers, so nobody takes load from it.
    """
    experts = loads.shape[1]
    low = torch.zeros(len(loads), 1, dtype=torch.float64, device=loads.device)
    high = loads.amax(1, keepdim=True).double().clamp(min=1.0)
    for _ in range(40):
        middle = (low + high) / 2
        fits = _fill(loads, middle).sum(1, keepdim=True) <= num_slots
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    counts = _fill(loads, high)
    for _ in range(-(-(num_slots - experts) // experts)):
        left = num_slots - counts.sum(1, keepdim=True)
        heaviest = torch.sort(loads / counts, dim=1, descending=True, stable=True).indices
        turn = (torch.arange(experts, device=loads.device) < left).long()
        counts = counts.scatter_add(1, heaviest, turn)
    return counts


def _fill(loads: Tensor, level: Tensor) -> Tensor:
    return torch.ceil(loads / level.to(loads.dtype)).long().clamp(min=1)
