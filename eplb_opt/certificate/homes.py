"""Check bounds under the rule ``home``: what nodes keep when the traffic is limited and copies are
few (:mod:`eplb_opt.bounds.homes`, where the arguments are explained); second implementation.

Suppose a makespan below B. Then every node serves less than C = B R tokens, and whatever the homes:

- for the m fullest nodes, ``T_1 + ... + T_m - m C < X W`` if X W > 0; so B is proven if that fails
  for some m (with X W = 0, if some node has C tokens);
- a node of T_n tokens needs the least k copies off home that may take more than T_n - C; so B is
  proven if these are more than P - E for all nodes;
- from m nodes no more tokens leave than (N - m)(P - E)/N copies may take, which is all that the
  other nodes have room for; so B is proven if m C or more are left.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

from eplb_opt.bounds.each_step import has_few_partitions
from eplb_opt.certificate.budget import CheckBudget, product_cost
from eplb_opt.certificate.closed_form import load_bits, reaches
from eplb_opt.certificate.groups import every_partition_reaches
from eplb_opt.certificate.one_partition import one_partition_proves, partitions
from eplb_opt.certificate.problem import integers
from eplb_opt.certificate.statement import CertificateError
from eplb_opt.problem.homes import find_homes
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import SUM, Cost, Dispatch, Objective
from eplb_opt.problem.rationals import shown
from eplb_opt.problem.topology import Rule

Block = tuple[int, ...]
MOST_NODES = 8
"""Of which all sets are looked at."""
COUNT_BITS = 1024
"""The least common multiple of counts that sum to ``problem.LARGEST_SIZE`` is not longer."""


def same_problem(layer: Layer) -> Layer:
    """The layer with a simpler rule where that means the same: with one node the global one,
    without redundant experts the hierarchical one.
    """
    if layer.rule == Rule.HOME and layer.topology.num_nodes == 1:
        return layer.without_nodes()
    if layer.rule == Rule.HOME and not layer.num_redundant_experts:
        return _hierarchical(layer)
    return layer


def require_budget_for_homes(layer: Layer, budget: CheckBudget) -> None:
    """Before :func:`~eplb_opt.problem.homes.find_homes`: what each group leaves off each node, and
    an assignment of the groups, in integers as long as the order of ties makes them.
    """
    groups, nodes = layer.topology.num_groups, layer.topology.num_nodes
    slots, bits = layer.topology.num_physical_experts, load_bits(layer) + COUNT_BITS
    budget.charge(slots + len(layer.loads) * nodes * product_cost(bits, COUNT_BITS))
    budget.charge(groups**3 * (1 + (bits + groups * nodes.bit_length()) // 1024))


def require_limit(
    layer: Layer, phy2log: Sequence[int], shares: Sequence[Fraction], budget: CheckBudget
) -> None:
    """That with ``shares`` [P] no more is served off home than the limit allows.

    Raises:
        CertificateError: it is more.
    """
    if layer.rule != Rule.HOME or layer.topology.num_nodes == 1 or layer.traffic_limit == 1:
        return
    require_budget_for_homes(layer, budget)
    homes = find_homes(layer, phy2log)
    parts, unit = integers(shares, budget)
    bits = load_bits(layer)
    budget.charge(len(parts) * (1 + product_cost(bits, unit.denominator.bit_length())))
    size, per_node = len(layer.groups[0]), layer.topology.slots_per_node
    away = sum(
        layer.loads[e] * part
        for slot, (e, part) in enumerate(zip(phy2log, parts, strict=True))
        if homes is None or homes[e // size] != slot // per_node
    )
    if away * unit > layer.traffic_limit * sum(layer.loads):
        part = away * unit / sum(layer.loads)
        raise CertificateError(
            f"{shown(part)} of the tokens are served off home, above traffic_limit_exact="
            f"{shown(layer.traffic_limit)}"
        )


def limit_of(layer: Layer, steps: int, all_steps: int, dispatch: Dispatch) -> Layer:
    """The problem of some steps of a layer: one limit of all together is no limit of some."""
    whole = dispatch == Dispatch.OPTIMAL or steps == all_steps
    return layer if whole else layer.without_limit()


def homes_reach(layer: Layer, dispatch: Dispatch, bound: Fraction, budget: CheckBudget) -> bool:
    """Whether, for the summed loads, node totals prove ``bound`` tokens with every assignment of
    the groups.

    Raises:
        TooLargeToCheckError: the budget does not suffice.
    """
    totals = _group_totals(layer, [list(layer.loads)], budget)[0]
    capacity = bound / layer.unit * layer.topology.ranks_per_node
    budget.charge(len(totals) * product_cost(capacity.denominator.bit_length() + 64, 64))
    if not layer.traffic_limit and _hierarchical_reaches(layer, dispatch, bound, budget):
        return True
    if _heavy_groups_reach(layer, totals, capacity):
        return True
    if not has_few_partitions(layer.topology):
        return False
    copies, sets = dict[Block, int](), dict[Block, bool]()
    for partition in partitions(layer.topology, budget):
        budget.charge(8 * len(partition))
        kept = sorted((sum(totals[k] for k in block) for block in partition), reverse=True)
        if not _too_full(layer, kept, capacity, sum(totals)):
            for block in partition:
                if block not in copies:
                    copies[block] = _copies(layer, block, dispatch, capacity, budget)
            needed = sum(copies[block] for block in partition)
            if needed <= layer.num_redundant_experts and not any(
                _set_reaches(layer, groups, m, dispatch, capacity, budget, sets)
                for m, groups in _sets_of_nodes(partition, totals)
            ):
                return False
    return True


def _sets_of_nodes(
    partition: Sequence[Block], totals: Sequence[int]
) -> Iterator[tuple[int, Block]]:
    """How many nodes, and their groups: every set of few nodes, of many the m fullest ones."""
    fullest = sorted(partition, key=lambda block: -sum(totals[k] for k in block))
    for m in range(1, len(partition)):
        for chosen in combinations(fullest, m) if len(partition) <= MOST_NODES else [fullest[:m]]:
            yield m, tuple(sorted(k for block in chosen for k in block))


def _set_reaches(
    layer: Layer,
    groups: Block,
    m: int,
    dispatch: Dispatch,
    capacity: Fraction,
    budget: CheckBudget,
    known: dict[Block, bool],
) -> bool:
    """Whether m nodes with these groups keep m times the capacity, whatever copies elsewhere
    take.
    """
    if groups not in known:
        loads = [layer.loads[e] for e in layer.experts_of(groups)]
        budget.charge(2 * len(loads))
        nodes = layer.topology.num_nodes
        room = (nodes - m) * (layer.num_redundant_experts // nodes)
        known[groups] = _left(loads, room, dispatch, m * capacity, budget)[0] >= m * capacity
    return known[groups]


def one_home_proves(layer: Layer, cost: Cost, bound: Fraction, budget: CheckBudget) -> bool:
    """Whether, with any homes that hold for all steps, the objective of what the nodes cost at each
    step is at least ``bound`` tokens, each step under the limit.
    """
    if not layer.traffic_limit:
        return one_partition_proves(_hierarchical(layer), cost, bound, budget)
    if cost.dispatch != Dispatch.OPTIMAL or not has_few_partitions(layer.topology):
        return False
    totals = _group_totals(layer, layer.steps.tolist(), budget)
    ranks, nodes = layer.topology.ranks_per_node, layer.topology.num_nodes
    needed, bits = bound / layer.unit, load_bits(layer)
    allowed = [layer.traffic_limit * sum(row) for row in totals]
    cost_of_one = nodes * (8 + product_cost(bits, layer.traffic_limit.denominator.bit_length()))
    for partition in partitions(layer.topology, budget):
        budget.charge(len(totals) * cost_of_one)
        least = []
        for row, off_home in zip(totals, allowed, strict=True):
            kept = sorted((sum(row[k] for k in block) for block in partition), reverse=True)
            least.append(max((sum(kept[:m]) - off_home) / (m * ranks) for m in range(1, nodes + 1)))
        if _over(cost.objective, least) < needed:
            return False
    return True


def _over(objective: Objective, makespans: Sequence[Fraction]) -> Fraction:
    return objective.over([max(Fraction(0), makespan) for makespan in makespans])


def _hierarchical(layer: Layer) -> Layer:
    return replace(layer, rule=Rule.HIERARCHICAL, traffic_limit=Fraction(1))


def _hierarchical_reaches(
    layer: Layer, dispatch: Dispatch, bound: Fraction, budget: CheckBudget
) -> bool:
    """Without traffic: by what no empty slot makes wrong, since an expert without load may be in a
    slot of another node.
    """
    alone = _hierarchical(layer)
    if dispatch == Dispatch.EVEN and all(layer.loads):
        return every_partition_reaches(alone, bound, set(), budget, reaches)
    if not has_few_partitions(layer.topology):
        return False
    return one_partition_proves(alone, Cost(SUM, dispatch), bound, budget)


def _group_totals(
    layer: Layer, rows: Sequence[Sequence[int]], budget: CheckBudget
) -> list[list[int]]:
    """[T][K] tokens of each group."""
    budget.charge(len(rows) * len(layer.loads) * (1 + load_bits(layer) // 4096))
    return [[sum(row[e] for e in group) for group in layer.groups] for row in rows]


def _too_full(layer: Layer, kept: Sequence[int], capacity: Fraction, total: int) -> bool:
    """Whether nodes that keep so many tokens, the fullest first, must send away too many."""
    allowed, excess = layer.traffic_limit * total, Fraction(0)
    for tokens in kept:
        excess += tokens - capacity
        if excess >= allowed:
            return True
    return False


def _heavy_groups_reach(layer: Layer, totals: Sequence[int], capacity: Fraction) -> bool:
    """Whether the groups that are too heavy with the K/N - 1 lightest others have more excess than
    is allowed; each node has no less than its groups.
    """
    light = layer.topology.groups_per_node - 1
    rising = sorted(totals)
    heavy = [group + sum(rising[:light]) for group in reversed(rising[light:])]
    return _too_full(layer, heavy, capacity, sum(totals))


def _copies(
    layer: Layer, block: Block, dispatch: Dispatch, capacity: Fraction, budget: CheckBudget
) -> int:
    """The fewest off home that leave a node below its capacity; one more than all if none do."""
    loads = [layer.loads[e] for e in layer.experts_of(block)]
    budget.charge(2 * len(loads))
    return _left(loads, layer.num_redundant_experts + 1, dispatch, capacity, budget)[1]


def _left(
    loads: Sequence[int], most: int, dispatch: Dispatch, capacity: Fraction, budget: CheckBudget
) -> tuple[Fraction, int]:
    """Tokens of ``loads`` that the best copies elsewhere leave at least, up to ``most`` of them and
    as long as these are not below ``capacity``; and how many copies that are.
    """
    even = dispatch == Dispatch.EVEN
    left, used = Fraction(sum(loads)), 0
    heap = [(-Fraction(w, 2 if even else 1), 1, w) for w in loads]
    heapq.heapify(heap)
    while left >= capacity and used < most:
        budget.charge(8 + product_cost(left.numerator.bit_length(), left.denominator.bit_length()))
        less, k, w = heap[0]
        left, used = left + less, used + 1
        following = Fraction(w, (k + 1) * (k + 2)) if even else Fraction(0)
        heapq.heapreplace(heap, (-following, k + 1, w))
    return left, used
