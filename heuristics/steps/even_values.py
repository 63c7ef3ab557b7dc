"""What placements cost under even dispatch: makespans of steps, and one number from these.

An objective is ``mean``, ``worst``, or ``cvar:a``: the mean of the worst share a of the steps, of
which the last may count in part (``cvar:1`` is ``mean``, a <= 1/T is ``worst``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.replication import count_replicas
from heuristics.shape import ArgumentError

WEIGHT = 2**10
"""In a search: of a step that counts in full."""
ABOVE = 2**60
"""In a search: added to the value of a placement above a limit."""
FIRST_LOOK = 64
"""In a search: steps after which a trial may be given up, and twice as many until the next look."""
CHUNK = 2**22
"""Tokens of slots that are held at once, 32 MB."""


def worst_share(objective: str) -> float:
    """A of an objective: 1 for ``mean``, 0 for ``worst``.

    Raises:
        ArgumentError: there is no such objective.
    """
    if objective in ("mean", "worst"):
        return float(objective == "mean")
    kind, _, share = objective.partition(":")
    try:
        a = float(share)
    except ValueError:
        a = 0.0
    if kind != "cvar" or not 0 < a <= 1 or share != share.strip() or not share.isascii():
        raise ArgumentError(f"objective={objective!r} is not mean, worst or cvar:A with 0 < A <= 1")
    return a


def even_makespans(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    """The largest rank load [T, L], float64, of placements [L, P] at steps [T, L, E].

    A replica carries ``w_te / c_e``.
    """
    counts = count_replicas(phy2log, loads.shape[2]).gather(1, phy2log)
    found, chunk = [], max(1, CHUNK // phy2log.numel())
    for i in range(0, len(loads), chunk):
        part = loads[i : i + chunk]
        of_slots = part.double().gather(2, phy2log.expand(len(part), -1, -1)) / counts
        found.append(of_slots.view(*part.shape[:2], num_ranks, -1).sum(3).amax(2))
    return torch.cat(found)


def over_steps(makespans: Tensor, objective: str) -> Tensor:
    """The objective [...] of makespans [T, ...] in tokens a step."""
    steps = len(makespans)
    number = max(worst_share(objective) * steps, 1.0)
    weight = (number - torch.arange(steps, dtype=torch.float64)).clamp(0, 1) / number
    worst_first = makespans.double().sort(dim=0, descending=True).values
    weight = weight.to(makespans.device).view(-1, *[1] * (makespans.ndim - 1))
    return (weight * worst_first).sum(0)
