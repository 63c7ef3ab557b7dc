"""Packing with counts given: the least makespan of items on ranks of S slots, by search.

Two phases. Descent: search for a packing below the incumbent, until there is none (proven optimal).
If that uses too much of the budget, ascent: from the lower bound on, the least threshold that the
failed search did not exclude is the new lower bound (iterative weakening; Korf, Schreiber, Moffitt,
J. ACM 65 (2018)). Measured: the descent proves in one hard search what the ascent needs hundreds
for, because the local search already finds the optimum or nearly so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from eplb_opt import bounds
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import Limit
from solvers.arrays import Integers
from solvers.bracket import Bracket
from solvers.compiled import compile_within
from solvers.dispatch import value
from solvers.local_search.iterated import iterate
from solvers.local_search.start import first_packing
from solvers.options import Budget
from solvers.scaling import item_sizes, scale_for
from solvers.tree_search.count_vectors import rehearse
from solvers.tree_search.modular_bound import modular_bound
from solvers.tree_search.repair import repair
from solvers.tree_search.splitting import (
    FOUND,
    NEXT_THRESHOLD,
    PAUSED,
    WORK,
    Tree,
    advance,
    least_threshold,
    new_tree,
    restart,
)

KICKS = 200
"""Rounds of local search before the tree search."""
TRIES = 200
"""Re-packings of a few ranks for each goal that is tried before the tree search. Without them 4 of
210 placements are worse, and 2 fewer are proven optimal (benchmarks/packing_parts.py)."""
DESCENT = 0.8
"""Share of the budget after which the descent gives way to the ascent; without that 11 of the
210 bounds are lower."""


@dataclass(frozen=True, eq=False)
class Items:
    """What is to be packed, largest first.

    Attributes:
        size: [P] scaled integers.
        expert: [P] the expert of each item.
        of_expert: size of the items of each expert.
        spread: no rank may hold an expert twice.
    """

    size: Integers
    expert: Integers
    of_expert: Integers
    spread: bool

    @property
    def kind(self) -> Integers:
        """[P] numbers what is interchangeable: the experts if they are spread, else the sizes."""
        return self.expert if self.spread else np.cumsum(np.r_[0, np.diff(self.size) != 0])

    def makespan(self, ranks: Integers) -> int:
        """The largest rank sum of ``ranks`` [G, S]."""
        return int(self.of_expert[ranks].sum(axis=1).max())


def solve_packing(
    layer: Layer,
    counts: Sequence[int],
    budget: Budget,
) -> Bracket:
    """Best packing for ``counts`` [E] under the global rule, with a proven bound.

    Optimal when it ends without a limit and the scale is exact. See :func:`pack`.

    Raises:
        ValueError: with ``spread_replicas``, an expert has more replicas than there are ranks.
    """
    bound, scale = bounds.of(layer, counts=counts), scale_for(layer, counts)
    experts = np.repeat(np.arange(len(counts)), counts)
    found = pack(
        item_sizes(layer, scale, counts)[experts],
        layer.topology.num_ranks,
        experts=experts,
        spread_replicas=layer.spread_replicas,
        lower_bound=scale.up(bound.value) if scale.exact else 0,
        budget=budget,
        seed=budget.options.seed,
    )
    known = Bracket.start(bound, [value(layer, found.phy2log)])
    # Rounding down may leave less of the placement's value than is proven of the integers.
    known = known.with_bound(min(known.incumbent, found.bound * scale.unit), "search")
    return replace(known, limit=found.limit)


def pack(
    sizes: Integers,
    num_ranks: int,
    *,
    experts: Integers | None = None,
    spread_replicas: bool = False,
    lower_bound: int = 0,
    incumbent: Integers | None = None,
    budget: Budget | None = None,
    seed: int = 0,
) -> Bracket:
    """The packing of items on ``num_ranks`` ranks of equal slots with the least largest rank sum.

    The bracket is in the integers of the sizes; its placement holds the expert in each slot, rank
    by rank. Exact when it ends without a limit. S = 1 is trivial, and S = 2 without
    ``spread_replicas`` a closed form: the i-th heaviest item meets the i-th lightest. Else
    depth-first search below the incumbent. Deterministic without a time limit; exponential time,
    O(G P) memory.

    Args:
        sizes: [P] non-negative int64, in any order.
        num_ranks: G, divides P.
        experts: [P] the expert of each item; by default each item is an expert of its own. Items
            of one expert have equal size.
        spread_replicas: no rank may hold an expert twice.
        lower_bound: known to be valid; the search stops when it is met.
        incumbent: [G, S] experts of a known packing, to start from.
        budget: None for no limit.
        seed: of the local search.

    Raises:
        ValueError: P is no multiple of G, a size is negative, or an expert has more items than
            there are ranks with ``spread_replicas``.
        OverflowError: the sums could exceed 64 bits.
    """
    budget = budget or Budget()
    experts = np.arange(len(sizes)) if experts is None else experts
    _check(sizes, num_ranks, experts, spread_replicas)
    of_expert = np.zeros(int(experts.max()) + 1, np.int64)
    of_expert[experts] = sizes
    order = np.lexsort((experts, -sizes))
    items = Items(sizes[order], experts[order], of_expert, spread_replicas)
    slots_per_rank = len(sizes) // num_ranks
    if slots_per_rank == 1 or (slots_per_rank == 2 and not spread_replicas):
        ranks = fold(items.expert, num_ranks)
        return _bracket(items, ranks, items.makespan(ranks))
    if incumbent is None:
        incumbent = first_packing(items.size, items.expert, num_ranks, spread_replicas)
    ranks, bound = np.array(incumbent, np.int64), lower_bound
    try:
        if not (compile_within(budget.seconds_left(), rehearse) and budget.chunk()):
            budget.chunk()
            known = _bracket(items, ranks, bound)
            return replace(known, limit=None if known.closed else budget.limit)
        bound = max(bound, counting_bound(items.size, num_ranks))
        bound = modular_bound(items.size, num_ranks, bound)
        ranks = _local_search(items, ranks, bound, budget, seed)
    except KeyboardInterrupt:
        budget.interrupt()
    return _tree_search(items, ranks, bound, budget)


def counting_bound(size: Integers, num_ranks: int) -> int:
    """The mean, rounded up, or a pigeonhole bound if that is larger; ``size`` [P] descending."""
    prefix = np.r_[0, np.cumsum(size)]
    mean = -(-int(prefix[-1]) // num_ranks)
    return max(mean, int(least_threshold(prefix, num_ranks, len(size) // num_ranks)))


def fold(experts: Integers, num_ranks: int) -> Integers:
    """[G, S], S <= 2: i-th heaviest with i-th lightest, from experts [P] by falling size."""
    if len(experts) == num_ranks:
        return experts[:, None].copy()
    return np.stack((experts[:num_ranks], experts[: num_ranks - 1 : -1]), axis=1)


def _local_search(items: Items, ranks: Integers, bound: int, budget: Budget, seed: int) -> Integers:
    """Kicks and re-splits of two ranks, then exact re-packings of a few."""
    size = np.stack((items.of_expert, items.of_expert), axis=1)
    ones = np.ones(len(size), np.int64)
    random = np.array([seed % 2147483646 + 1])
    iterate(ranks, ones, size, bound, items.spread, False, KICKS, random)
    generator = np.random.default_rng(seed)
    for share in (0, 1, 2):
        value = items.makespan(ranks)
        goal = bound + share * (value - bound) // 3
        if bound < value:
            ranks = repair(
                ranks,
                items.of_expert,
                goal,
                spread=items.spread,
                tries=TRIES,
                budget=budget,
                random=generator,
            )
    return ranks


def _bracket(items: Items, ranks: Integers, bound: int, limit: Limit | None = None) -> Bracket:
    phy2log = tuple(int(e) for e in ranks.ravel())
    makespan = Fraction(items.makespan(ranks))
    return Bracket(phy2log, makespan, Fraction(bound), "search", limit=limit)


def _tree_search(items: Items, ranks: Integers, bound: int, budget: Budget) -> Bracket:
    """Descent from the incumbent, then ascent from the bound, as long as there is something of
    interest between them.
    """
    value, kind = items.makespan(ranks), items.kind
    tree = new_tree(items.size, len(ranks), kind, items.spread)
    while bound <= (below := budget.better_than(value)):
        state = _search(tree, kind, below, items.spread, budget, DESCENT)
        if state == PAUSED:
            break
        if state == FOUND:
            ranks = tree.packing(items.expert)
            value = items.makespan(ranks)
        else:
            bound = below + 1
    while bound <= budget.better_than(value):
        state = _search(tree, kind, bound, items.spread, budget)
        if state == PAUSED:
            break
        if state == FOUND:
            ranks, value = tree.packing(items.expert), bound
        else:
            bound = min(value, int(tree.counters[NEXT_THRESHOLD]))
    limit = budget.limit if bound <= budget.better_than(value) else None
    return _bracket(items, ranks, bound, limit)


def _search(
    tree: Tree, kind: Integers, threshold: int, spread: bool, budget: Budget, share: float = 1.0
) -> int:
    """Search the tree for a packing up to ``threshold``; PAUSED if the budget's share ends it."""
    restart(tree, kind, spread)
    state = PAUSED
    try:
        while state == PAUSED and (work := budget.chunk(share)):
            before = int(tree.counters[WORK])
            state = advance(tree, kind, threshold, spread, work)
            budget.charge(int(tree.counters[WORK]) - before)
    except KeyboardInterrupt:
        budget.interrupt()
        return PAUSED
    return state


def _check(sizes: Integers, num_ranks: int, experts: Integers, spread: bool) -> None:
    if len(sizes) == 0 or len(sizes) % num_ranks:
        raise ValueError(f"{len(sizes)} items are not a positive multiple of num_ranks={num_ranks}")
    if sizes.min() < 0:
        raise ValueError(f"item {int(sizes.argmin())} has the negative size {int(sizes.min())}")
    total = sum(int(x) for x in sizes)
    if 4 * num_ranks * total >= 2**63:
        raise OverflowError(
            f"items that sum to {total} on {num_ranks} ranks need more than 64 bits: "
            "divide them by a common factor, or round them down for a lower bound"
        )
    if spread and (most := int(np.bincount(experts).max())) > num_ranks:
        raise ValueError(
            f"an expert has {most} items, more than num_ranks={num_ranks}: it cannot be spread"
        )
