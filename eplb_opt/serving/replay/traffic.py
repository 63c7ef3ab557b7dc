"""Which part of the tokens of a replay is served off the home of their expert's group.

Homes are a matter of a placement and of the loads that it serves: for each layer, of the steps from
one placement to the next, those with the least tokens off home. A placement without homes, as under
the global rule, is counted by the nodes that serve most of a group. Tokens are shared alike among
replicas.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import numpy as np

from eplb_opt.problem.topology import Topology
from eplb_opt.serving.state_machine import Map, Tokens


class ServedMaps:
    """Which map served which steps, row by row."""

    def __init__(self) -> None:
        self._begun: list[tuple[int, int, Map]] = []
        self._now: Map | None = None

    def note(self, step: int, phy2log: Map) -> None:
        """The maps [R, P] that serve a step; steps in order."""
        if self._now is None or self._now.shape != phy2log.shape:
            changed = np.arange(len(phy2log))
        else:
            changed = np.flatnonzero((self._now != phy2log).any(1))
        self._now = phy2log.copy()
        self._begun += [(step, row, self._now[row]) for row in changed.tolist()]

    def tokens_off_home(self, trace: Tokens, machine: Callable[[int], Topology]) -> Tokens:
        """[T, R] for the steps ``trace`` [T, R, E], the first of which was noted; NaN where nodes
        do not divide groups, or groups experts. ``machine`` tells that with so many slots.
        """
        away, ends = np.full(trace.shape[:2], np.nan), dict[int, int]()
        served = list[tuple[int, int, int, Map]]()
        for step, row, phy2log in reversed(self._begun):
            served.append((step, ends.get(row, len(trace)), row, phy2log))
            ends[row] = step
        for num_slots, same in groupby(served, lambda found: len(found[3])):
            found = list(same)
            loads = np.array([trace[start:stop, row].sum(0) for start, stop, row, _ in found])
            parts = parts_off_home(np.array([x[3] for x in found]), loads, machine(num_slots))
            for (start, stop, row, _), part in zip(found, parts, strict=True):
                away[start:stop, row] = trace[start:stop, row] @ part
        return away


def parts_off_home(phy2log: Map, loads: Tokens, topology: Topology) -> Tokens:
    """The part of each expert's tokens that placements [R, P] serve off home for loads [R, E]:
    [R, E]; NaN where nodes do not divide groups, or groups experts.
    """
    import torch

    from heuristics.matching import count_on_ranks, find_homes

    nodes, groups, experts = topology.num_nodes, topology.num_groups, loads.shape[1]
    if groups % nodes or experts % groups:
        return np.full(loads.shape, np.nan)
    placed, tokens = torch.from_numpy(phy2log), torch.from_numpy(loads)
    homes = find_homes(placed, tokens, nodes, groups)
    anywhere = find_homes(placed, tokens, nodes, groups, present=False)
    homes = torch.where(homes < 0, anywhere, homes).repeat_interleave(experts // groups, 1)
    number = count_on_ranks(placed, nodes, experts)
    at_home = number.gather(1, homes[:, None])[:, 0]
    parts: Tokens = (1 - at_home / number.sum(1)).double().numpy()
    return parts
