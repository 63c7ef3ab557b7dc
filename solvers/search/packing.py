"""Packing with counts given: the least makespan of items on ranks of S slots, by search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.incumbents.local_search import iterate
from solvers.incumbents.start import first_packing
from solvers.search.closed_bounds import counting_bound
from solvers.search.repair import repair
from solvers.search.residues import residue_bound
from solvers.search.outcome import Budget, SearchOutcome
from solvers.search.splitting import (
    EXHAUSTED,
    FOUND,
    NEXT_THRESHOLD,
    NODES,
    PAUSED,
    Tree,
    advance,
    new_tree,
    restart,
)

Integers = NDArray[np.int64]

TRIES = 300
KICKS = 200
"""Rounds of local search before the tree search."""


def require_64_bits(total: int, num_ranks: int) -> None:
    """Refuse what could overflow: the search forms multiples of sums up to ``2 G total``.

    Raises:
        OverflowError: with the remedy.
    """
    if 4 * num_ranks * total >= 2**63:
        raise OverflowError(
            f"items that sum to {total} on {num_ranks} ranks need more than 64 bits: "
            "divide them by a common factor, or round them down for a bound"
        )


def pack(
    items: Integers,
    num_ranks: int,
    *,
    experts: Integers | None = None,
    spread_replicas: bool = False,
    lower_bound: int = 0,
    incumbent: Integers | None = None,
    time_limit: float | None = None,
    node_limit: int | None = None,
    seed: int = 0,
) -> SearchOutcome:
    """The packing of ``items`` on ``num_ranks`` ranks of equal slots with the least largest rank sum.

    Exact when it ends without a limit. S = 1 and S = 2 are closed forms (without ``spread_replicas``):
    the i-th heaviest item meets the i-th lightest. Else depth-first search below the incumbent.
    Deterministic without a time limit.

    Args:
        items: [P] non-negative int64, in any order.
        num_ranks: G, divides P.
        experts: [P] the expert of each item; by default each item is an expert of its own. Items of one
            expert have equal size.
        spread_replicas: no rank may hold an expert twice.
        lower_bound: known to be valid; the search stops when it is met.
        incumbent: [G, S] experts of a known packing, to start from.
        time_limit: seconds, None for no limit.
        node_limit: nodes of the tree search, None for no limit.
        seed: of the local search.

    Raises:
        ValueError: P is no multiple of G, or an expert has more items than ranks with ``spread_replicas``.
        OverflowError: the sums could exceed 64 bits.
    """
    experts = np.arange(len(items)) if experts is None else experts
    _check(items, num_ranks, experts, spread_replicas)
    budget = Budget(time_limit, node_limit)
    size = np.zeros((int(experts.max()) + 1, 2), np.int64)
    size[experts, 1] = items
    order = np.lexsort((experts, -items))
    items, experts = items[order], experts[order]
    bound = max(lower_bound, counting_bound(items, num_ranks))
    bound = residue_bound(items, num_ranks, bound)
    if len(items) == num_ranks or (len(items) == 2 * num_ranks and not spread_replicas):
        ranks = fold(experts, num_ranks)
        value = _value(ranks, size)
        return SearchOutcome(value, value, ranks)
    ranks = (
        first_packing(items, experts, num_ranks, spread_replicas)
        if incumbent is None
        else incumbent
    )
    ranks = np.array(ranks, np.int64)
    random = np.array([seed % 2147483646 + 1])
    ones = np.ones(len(size), np.int64)
    value = int(iterate(ranks, ones, size, bound, spread_replicas, False, KICKS, random))
    generator = np.random.default_rng(seed)
    for goal in (bound, (bound + value) // 2, value - 1):
        if value > bound:
            ranks = repair(
                ranks,
                size[:, 1],
                goal,
                spread=spread_replicas,
                tries=TRIES,
                budget=budget,
                random=generator,
            )
            value = _value(ranks, size)
    start = SearchOutcome(value, bound, ranks)
    return _search(items, experts, start, spread_replicas, budget)


def fold(experts: Integers, num_ranks: int) -> Integers:
    """[G, S] for S <= 2: the i-th heaviest with the i-th lightest, from experts [P] by falling size."""
    if len(experts) == num_ranks:
        return experts[:, None].copy()
    return np.stack((experts[:num_ranks], experts[: num_ranks - 1 : -1]), axis=1)


def _search(
    items: Integers, experts: Integers, start: SearchOutcome, spread: bool, budget: Budget
) -> SearchOutcome:
    """Search below the incumbent until nothing is left; if that takes too long, raise the bound from below."""
    value, bound, ranks = start.value, start.lower_bound, start.ranks
    assert value is not None and ranks is not None
    kind = experts if spread else np.cumsum(np.r_[0, np.diff(items) != 0])
    tree = new_tree(items, len(ranks))
    while bound < value:
        state = run(tree, kind, value - 1, spread, budget, share=0.7)
        if state == FOUND:
            ranks = tree.packed(experts)
            value = int(np.max(tree.partial[:, -2]))
        elif state == EXHAUSTED:
            bound = value
        else:
            break
    while bound < value:
        state = run(tree, kind, bound, spread, budget)
        if state == FOUND:
            ranks, value = tree.packed(experts), bound
        elif state == EXHAUSTED:
            bound = min(value, int(tree.counters[NEXT_THRESHOLD]))
        else:
            break
    return SearchOutcome(value, bound, ranks, budget.used, budget.limit if bound < value else None)


def run(
    tree: Tree, kind: Integers, threshold: int, spread: bool, budget: Budget, share: float = 1.0
) -> int:
    """Search the whole tree for a packing up to ``threshold``, or until ``share`` of the budget is used."""
    restart(tree)
    state = PAUSED
    while state == PAUSED and (nodes := budget.chunk(share)):
        before = int(tree.counters[NODES])
        state = advance(tree, kind, threshold, spread, nodes)
        budget.used += int(tree.counters[NODES]) - before
    return state


def _value(ranks: Integers, size: Integers) -> int:
    return int(size[ranks, 1].sum(axis=1).max())


def _check(items: Integers, num_ranks: int, experts: Integers, spread: bool) -> None:
    if len(items) == 0 or len(items) % num_ranks:
        raise ValueError(f"{len(items)} items are not a positive multiple of num_ranks={num_ranks}")
    if items.min() < 0:
        raise ValueError(f"item {int(items.argmin())} has the negative size {int(items.min())}")
    require_64_bits(sum(int(x) for x in items), num_ranks)
    if spread and (most := int(np.bincount(experts).max())) > num_ranks:
        raise ValueError(
            f"an expert has {most} items, more than num_ranks={num_ranks}: it cannot be spread"
        )
