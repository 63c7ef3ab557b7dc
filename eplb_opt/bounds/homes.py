r"""What nodes cost at least under the rule ``home``, when the traffic is limited.

Let T_n be the tokens whose home is node n, R = G/N its ranks, M the makespan and C = M R. A node
serves at most C tokens, so at least ``(T_n - C)+`` of its own are served elsewhere. At most X W of
all W tokens are, so for every assignment of the groups to nodes

.. math:: \sum_n (T_n - C)^+ \le X W, \qquad C \ge \max_m (T_1 + \dots + T_m - X W) / m

over the m fullest nodes. The bound is the least of these over all assignments; nodes are alike, so
those are the partitions of the groups. It holds for every dispatch rule.

What is served elsewhere needs copies there, which are few: :mod:`eplb_opt.bounds.copies`.

Where partitions are too many, the traffic alone: let a be the sum of the ``s = K/N - 1`` lightest
groups, and ``v_k = g_k + a`` for the other groups, of g_k tokens. Then ``sum over k of (v_k - C)+
<= X W``, too, since the groups of one node with v_k > C have no more excess than the node. Proof:
if they are j >= 1, the node has at least the sum of their g_k and the ``s + 1 - j`` lightest
groups, b. It remains to show ``(j - 1) C >= j a - b = (j - 1) a + (a - b)``; and a - b are j - 1 of
the s lightest groups, each of which is with a no more than the K/N lightest groups, hence no more
than ``W/N <= C``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eplb_opt.bounds.copies import Copies
from eplb_opt.bounds.each_step import (
    Ratios,
    all_partitions,
    has_few_partitions,
    larger,
)
from eplb_opt.bounds.partitions import all_blocks
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Dispatch
from eplb_opt.problem.rationals import Integers, integer_array, widen
from eplb_opt.problem.topology import Rule


def simplify(layer: Layer) -> Layer:
    """Without redundant experts the rule ``home`` is the hierarchical one, whatever the limit."""
    if layer.rule == Rule.HOME and not layer.num_redundant_experts:
        return replace(layer, rule=Rule.HIERARCHICAL, traffic_limit=Fraction(1))
    return layer


def without_traffic(layer: Layer) -> Layer:
    """The hierarchical problem of a layer under the rule ``home`` with the limit 0.

    No expert with load leaves its node then. One without load may, and be no more than a slot left
    empty: arguments that fill all slots with experts of the node do not hold.
    """
    return replace(layer, rule=Rule.HIERARCHICAL, traffic_limit=Fraction(1))


class Excesses(NamedTuple):
    """Partitions of the groups, and what they cost by their totals.

    Attributes:
        tops: [T, B] tokens of the blocks of groups, in load units.
        allowed: [T] tokens that may be served off home, in parts of ``1 / scale``.
        scale: the denominator of the limit.
        bottom: ``scale R lcm(1..N-1)``.
        parts: [number of partitions, N] indices of blocks.
    """

    tops: Integers
    allowed: Integers
    scale: int
    bottom: int
    parts: NDArray[np.int64]

    def worst_blocks(self, chosen: slice) -> Integers:
        """[T, partitions chosen] the bound of each partition, times ``bottom``."""
        nodes = self.parts.shape[1]
        common = math.lcm(*range(1, nodes))
        wide = _fitting(self.tops, nodes * self.bottom)
        fullest = np.sort(wide[:, self.parts[chosen]], axis=2)[:, :, ::-1] * self.scale
        allowed: Any = self.allowed.astype(wide.dtype)[:, None]
        best = np.zeros_like(fullest[:, :, 0])
        total = best - allowed
        for m in range(1, nodes):
            total = total + fullest[:, :, m - 1]
            best = np.maximum(best, total * (common // m))
        return np.asarray(best)


def excesses(layer: Layer, loads: Integers) -> Excesses | None:
    """What nodes cost at least at each step of ``loads`` [T, E], each under the limit; None where
    the partitions of the groups are too many.
    """
    topology = layer.topology
    if not has_few_partitions(topology):
        return None
    blocks = all_blocks(topology.num_groups, topology.num_nodes)
    position = {block: i for i, block in enumerate(blocks)}
    parts = [[position[b] for b in part] for part in all_partitions(topology)]
    of_group = _group_totals(layer, loads)
    totals = np.stack([of_group[:, block].sum(axis=1) for block in blocks], axis=1)
    allowed, scale = _allowed(layer, of_group)
    bottom = scale * topology.ranks_per_node * math.lcm(*range(1, topology.num_nodes))
    return Excesses(totals, allowed, scale, bottom, np.array(parts))


def least_of_homes(layer: Layer, dispatch: Dispatch, floor: Fraction) -> Fraction | None:
    """What the traffic and the copies leave of the summed loads, in load units, over the best
    assignment; None where the partitions are too many. Exact where it is above ``floor``.
    """
    found = excesses(layer, integer_array([layer.loads]))
    if found is None:
        return None
    by_traffic = found.worst_blocks(slice(None))[0].tolist()
    blocks = all_blocks(layer.topology.num_groups, layer.topology.num_nodes)
    copies, ranks = Copies(layer, dispatch), layer.topology.ranks_per_node
    best: Fraction | None = None
    for i in sorted(range(len(by_traffic)), key=by_traffic.__getitem__):
        traffic = Fraction(by_traffic[i], found.bottom)
        if best is not None and best <= max(traffic, floor):
            break
        kept = copies.least([blocks[b] for b in found.parts[i]], floor * ranks)
        value = max(traffic, kept / ranks)
        best = value if best is None else min(best, value)
    return best


def heaviest_groups(layer: Layer, loads: Integers) -> Ratios:
    """Where partitions are too many: the groups that are too heavy even with the lightest others,
    at each step of ``loads`` [T, E], each under the limit.
    """
    topology = layer.topology
    of_group = _group_totals(layer, loads)
    allowed, scale = _allowed(layer, of_group)
    light = topology.groups_per_node - 1
    wide = np.sort(_fitting(of_group, topology.num_groups**2 * topology.num_ranks * scale), axis=1)
    heavy = (wide[:, light:] + wide[:, :light].sum(axis=1, keepdims=True))[:, ::-1] * scale
    best = Ratios(np.zeros_like(heavy[:, 0]), np.ones(len(loads), dtype=np.int64))
    total = -allowed.astype(wide.dtype)
    for m in range(1, min(topology.num_nodes, heavy.shape[1] + 1)):
        total = total + heavy[:, m - 1]
        bottom = np.full(len(loads), m * scale * topology.ranks_per_node, dtype=wide.dtype)
        best = larger(best, Ratios(total, bottom))
    return best


def _group_totals(layer: Layer, loads: Integers) -> Integers:
    """[T, K] tokens of each group."""
    wide = _fitting(loads, loads.shape[1])
    return np.asarray(wide.reshape(len(loads), layer.topology.num_groups, -1).sum(axis=2))


def _allowed(layer: Layer, totals: Integers) -> tuple[Integers, int]:
    """[T] tokens that may be served off home times a denominator, and that."""
    top, scale = layer.traffic_limit.as_integer_ratio()
    return np.asarray(_fitting(totals, totals.shape[1] * scale).sum(axis=1) * top), scale


def _fitting(integers: Integers, terms: int) -> Any:
    """Integers long enough for ``terms`` and for sums of so many of them."""
    return widen(integers, terms) if terms < 2**62 else integers.astype(object)
