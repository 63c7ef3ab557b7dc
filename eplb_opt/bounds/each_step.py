r"""Closed forms of :mod:`eplb_opt.bounds.closed_form` for many steps at once: arrays of integers.

The bound of step t is a ratio of integers, ``top[t] / bottom[t]`` load units. Nothing is rounded:
products are taken in 64 bits where they fit, else in Python's integers (dtype object). What a float
guesses (counts that minimize the heaviest replica) is proven in integers.

Under the hierarchical rule every block of groups that one node could take is bounded as a global
problem, for all steps; a partition costs at least its worst block.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eplb_opt.bounds.closed_form import threshold_counts
from eplb_opt.bounds.partitions import Block, all_blocks
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Dispatch
from eplb_opt.problem.rationals import Integers, widen
from eplb_opt.problem.topology import Topology

MOST_PARTITIONS = 10_000
"""Of groups into nodes that are looked at one by one: 8 groups on 4 nodes have 105."""
MOST_BLOCKS = 100
"""Up to so many the blocks are bounded by more than their mean."""


class Ratios(NamedTuple):
    """``top / bottom`` for each step, in load units; both of one shape, ``bottom > 0``."""

    top: Integers
    bottom: Integers

    def fractions(self, unit: Fraction) -> list[Fraction]:
        """In tokens."""
        pairs = zip(self.top.tolist(), self.bottom.tolist(), strict=True)
        return [Fraction(top, bottom) * unit for top, bottom in pairs]


def larger(one: Ratios, other: Ratios) -> Ratios:
    """The larger of two ratios at each place."""
    most = max(int(part.max(initial=1)) for part in (one.bottom, other.bottom))
    tops = [widen(part.top, most) for part in (one, other)]
    first = tops[0] * other.bottom >= tops[1] * one.bottom
    return Ratios(np.where(first, tops[0], tops[1]), np.where(first, one.bottom, other.bottom))


def step_ratios(layer: Layer, loads: Integers, dispatch: Dispatch) -> Ratios:
    """Bounds [T] under the global rule for steps ``loads`` [T, E] on the machine of ``layer``.

    ``even``: mean and threshold; else the heaviest experts, which include the mean.
    """
    if dispatch == Dispatch.EVEN:
        return larger(mean_ratios(layer.topology, loads), heaviest_replicas(layer, loads))
    return heaviest_experts(layer.topology, loads)


def mean_ratios(topology: Topology, loads: Integers) -> Ratios:
    """Load over ranks."""
    total = widen(loads, loads.shape[1]).sum(axis=1)
    return Ratios(total, np.full(len(loads), topology.num_ranks))


def heaviest_experts(topology: Topology, loads: Integers) -> Ratios:
    """:func:`~eplb_opt.bounds.closed_form.dispatch_bound` of each step of ``loads`` [T, E].

    From ``m + P - E >= G`` on the m heaviest experts may use all ranks: then the mean is as large.
    """
    experts, ranks = loads.shape[1], topology.num_ranks
    spare = topology.num_physical_experts - experts
    best = mean_ratios(topology, loads)
    few = min(experts, ranks - spare - 1)
    if few < 1:
        return best
    heaviest = widen(np.sort(loads, axis=1)[:, ::-1][:, :few], experts).cumsum(axis=1)
    for m in range(1, few + 1):
        best = larger(best, Ratios(heaviest[:, m - 1], np.full(len(loads), m + spare)))
    return best


def heaviest_replicas(layer: Layer, loads: Integers) -> Ratios:
    """``max w_e / c_e`` at the counts that minimize it, of each step of ``loads`` [T, E]; 0 where
    that is below the mean.

    A step is below its mean m if ``sum of floor(w_e / m) + 1`` is at most P. For the others the
    counts of :func:`~eplb_opt.bounds.closed_form.threshold_counts`, with floats compared: their
    largest ``B = w_e / c_e`` is proven if no counts stay below it, ``sum of floor(w_e / B) + 1 >
    P`` or an expert needs more replicas than it may have. Where rounding misled, exactly.
    """
    top, bottom = np.zeros_like(loads[:, 0]), np.ones(len(loads), dtype=np.int64)
    mean = mean_ratios(layer.topology, loads)
    above = np.flatnonzero(_needs_more(layer, loads, mean))
    if not len(above):
        return Ratios(top, bottom)
    chosen, rows = loads[above], np.arange(len(above))
    counts = _greedy_counts(layer, chosen)
    heaviest = (_as_floats(chosen) / counts).argmax(axis=1)
    found = Ratios(chosen[rows, heaviest], counts[rows, heaviest])
    for i in np.flatnonzero(~_needs_more(layer, chosen, found)):
        step = replace(layer, loads=tuple(map(int, chosen[i])), steps=chosen[i : i + 1])
        pairs = zip(step.loads, threshold_counts(step), strict=True)
        found.top[i], found.bottom[i] = max(pairs, key=lambda pair: Fraction(*pair))
    top[above], bottom[above] = found
    return Ratios(top, bottom)


def _needs_more(layer: Layer, loads: Integers, makespan: Ratios) -> NDArray[np.bool_]:
    """[T] whether replicas all lighter than ``makespan`` are too many: more than P, or of an expert
    more than it may have.
    """
    wide: Any = widen(loads, int(makespan.bottom.max(initial=1)))
    top = np.maximum(makespan.top, 1)  # a step without load needs one of each
    least = wide * makespan.bottom[:, None] // top[:, None] + 1
    slots = layer.topology.num_physical_experts
    least = np.minimum(least, slots + 1).astype(np.int64)
    found = (least.sum(axis=1) > slots) | (least.max(axis=1) > layer.most_replicas)
    return np.asarray(found & (makespan.top > 0), dtype=np.bool_)


def _greedy_counts(layer: Layer, loads: Integers) -> NDArray[np.int64]:
    """[T, E]: each further replica to the expert with the largest ``w / c`` that may have more."""
    near = _as_floats(loads)
    spare = layer.topology.num_physical_experts - loads.shape[1]
    sure = near * (spare * (1 - 1e-9)) / near.sum(axis=1, keepdims=True)
    counts: NDArray[np.int64] = np.minimum(1 + sure.astype(np.int64), layer.most_replicas)
    left = layer.topology.num_physical_experts - counts.sum(axis=1)
    ratio = np.where(counts < layer.most_replicas, near / counts, -1.0)
    rows = np.arange(len(loads))
    for k in range(int(left.max(initial=0))):
        active = rows[left > k]
        heaviest = ratio[active].argmax(axis=1)
        counts[active, heaviest] += 1
        raised = counts[active, heaviest]
        ratio[active, heaviest] = np.where(
            raised < layer.most_replicas, near[active, heaviest] / raised, -1.0
        )
    return counts


def _as_floats(loads: Integers) -> NDArray[np.float64]:
    """[T, E] in parts of the heaviest load of the step, nearly; for guesses."""
    largest = np.maximum(loads.max(axis=1, keepdims=True), 1)
    parts: Any = loads / largest if loads.dtype != object else (loads << 60) // largest
    return np.asarray(parts, dtype=np.float64)


class Partitions(NamedTuple):
    """Bounds of blocks of groups, and the partitions of the groups into them.

    Attributes:
        tops: [T, B] bounds of the blocks in load units times ``bottom``.
        bottom: common to all.
        parts: [number of partitions, N] indices of blocks.
        blocks: the groups of each block.
    """

    tops: Integers
    bottom: int
    parts: NDArray[np.int64]
    blocks: list[Block]

    def worst_blocks(self, chosen: slice) -> Integers:
        """[T, partitions chosen] the largest bound of a partition's blocks, times ``bottom``."""
        worst = self.tops[:, self.parts[chosen, 0]]
        for node in range(1, self.parts.shape[1]):
            worst = np.maximum(worst, self.tops[:, self.parts[chosen, node]])
        return worst


def partitions(layer: Layer, loads: Integers, dispatch: Dispatch) -> Partitions | None:
    """What nodes cost at least at each step of ``loads`` [T, E]; None where the partitions of the
    groups are too many.
    """
    topology = layer.topology
    if not has_few_partitions(topology):
        return None
    blocks = all_blocks(topology.num_groups, topology.num_nodes)
    few = len(blocks) <= MOST_BLOCKS
    columns = [_block_ratios(layer, loads, dispatch if few else None, block) for block in blocks]
    bottom = math.lcm(*{int(b) for column in columns for b in np.unique(column.bottom)})
    largest = max(int(column.top.max(initial=1)) for column in columns)
    kind = np.int64 if largest * bottom < 2**62 else object
    scaled = [c.top.astype(kind) * (bottom // c.bottom.astype(kind)) for c in columns]
    tops = np.stack(scaled, axis=1)
    position = {block: i for i, block in enumerate(blocks)}
    parts = [[position[b] for b in part] for part in all_partitions(topology)]
    return Partitions(tops, bottom, np.array(parts), blocks)


def _block_ratios(layer: Layer, loads: Integers, dispatch: Dispatch | None, block: Block) -> Ratios:
    node = layer.node_problem(block)
    inside = loads[:, layer.experts_of(block)]
    if dispatch is None:
        return mean_ratios(node.topology, inside)
    return step_ratios(node, inside, dispatch)


def has_few_partitions(topology: Topology) -> bool:
    """Whether K groups have at most :data:`MOST_PARTITIONS` partitions into N nodes that are alike:
    ``K! / ((K/N)!^N N!)``, as the choices for the node of the first group that is left.
    """
    per_node, number = topology.groups_per_node, 1
    for left in range(topology.num_groups - 1, 0, -per_node):
        number *= math.comb(left, per_node - 1)
        if number > MOST_PARTITIONS:
            return False
    return True


def all_partitions(topology: Topology) -> list[list[Block]]:
    """Every set of N disjoint blocks; the first group that is left opens the next block."""
    found = [(list[Block](), tuple(range(topology.num_groups)))]
    for _ in range(topology.num_nodes):
        found = [
            ([*part, (left[0], *others)], tuple(k for k in left[1:] if k not in others))
            for part, left in found
            for others in combinations(left[1:], topology.groups_per_node - 1)
        ]
    return [part for part, _ in found]


def heaviest_group(layer: Layer, loads: Integers) -> Ratios:
    """Where partitions are too many: the heaviest group and the ``K/N - 1`` lightest others on the
    ranks of a node, at each step of ``loads`` [T, E].
    """
    topology = layer.topology
    grouped = widen(loads, loads.shape[1]).reshape(len(loads), topology.num_groups, -1)
    totals = np.sort(grouped.sum(axis=2), axis=1)
    top = totals[:, -1] + totals[:, : topology.groups_per_node - 1].sum(axis=1)
    return Ratios(top, np.full(len(loads), topology.ranks_per_node))
