"""The fewest received experts with which a layer keeps a makespan limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from eplb_opt import bounds
from eplb_opt.bounds.closed_form import count_window
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import Limit
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import layer_violation
from solvers.migration.program import LARGEST, counts_within, num_variables, solve_program
from solvers.migration.relabel import Phy2Log
from solvers.migration.result import MigrationResult
from solvers.migration.transfer_search import EXHAUSTED, TransferSearch
from solvers.options import Budget, SearchOptions

NODES = 1 << 28
"""Nodes of a search at most: half a minute or so."""
FIRST_NODES = 1 << 20
"""Nodes to find any placement that keeps the limit, or that there is none."""


def fewest_transfers(
    layer: Layer,
    old: Sequence[int],
    makespan_limit: Fraction,
    *,
    time_limit: float | None = None,
    initial: Iterable[Sequence[int]] = (),
    at_least: int = 0,
    search: SearchOptions | None = None,
) -> MigrationResult:
    """The fewest received experts with which a layer keeps a makespan limit.

    Small layers are solved to optimality if time allows: by search, with one receive more until
    there is a placement, and if half of the time is not enough for that, by a mixed-integer
    program. Larger layers are bounded. Under the hierarchical rule every node is solved for itself:
    moving whole groups receives at least ``2 E / K`` experts, so the answer is exact below that
    number, and no bound exceeds it.

    Args:
        layer: the loads now.
        old: slots [P], a valid placement.
        makespan_limit: tokens on a rank at most.
        time_limit: seconds, None for none.
        initial: placements [P] that may be good already, such as a heuristic's.
        at_least: a proven lower bound, such as that of a higher limit.
        search: all limits at once, in place of ``time_limit``.

    Raises:
        ValueError: ``old`` or one of ``initial`` is no valid placement of the layer.

    Example:
        >>> from eplb_opt import Instance, Topology
        >>> layer = Instance([[4, 3, 2, 1]], Topology(4, 2)).layer(0)
        >>> result = fewest_transfers(layer, (0, 1, 2, 3), Fraction(5))
        >>> result.transfers, str(result.status), str(result.makespan)
        (2, 'optimal', '5')
    """
    budget = Budget(search or SearchOptions(time_limit))
    found = _solve(layer, old, makespan_limit, budget, initial, at_least)
    limit = Limit.INTERRUPT if budget.interrupted else found.limit
    return replace(found, runtime=budget.elapsed(), limit=limit)


def _solve(
    layer: Layer,
    old: Sequence[int],
    makespan_limit: Fraction,
    budget: Budget,
    initial: Iterable[Sequence[int]],
    at_least: int = 0,
) -> MigrationResult:
    old = tuple(int(e) for e in old)
    starts = [old, *(tuple(int(e) for e in slots) for slots in initial)]
    for slots in starts:
        wrong = layer_violation(layer, slots)
        if wrong is not None:
            raise ValueError(f"{'old' if slots == old else 'initial'} is not valid: {wrong}")
    known = MigrationResult(makespan_limit, at_least, proof="higher limit" if at_least else "none")
    for slots in starts:
        known = known.with_placement(layer, old, slots)
    if known.transfers != 0 and known.lower_bound == 0 and not _changes_for_free(layer):
        known = replace(known, lower_bound=1, proof="old is above the limit")
    if known.transfers is None or known.transfers > known.lower_bound:
        known = _prove(layer, old, known, budget)
    return known


def _changes_for_free(layer: Layer) -> bool:
    """Whether a rank may change without a receive: it drops a replica for a copy of its own."""
    size = layer.topology.slots_per_rank
    return size > 1 and layer.num_redundant_experts > 0 and not layer.spread_replicas


def pareto(
    layer: Layer,
    old: Sequence[int],
    makespan_limits: Iterable[Fraction],
    *,
    time_limit: float | None = None,
    initial: Iterable[Sequence[int]] = (),
) -> list[MigrationResult]:
    """:func:`fewest_transfers` for each limit, the highest limit first: what each step down costs.

    A bound also holds for every lower limit, and a placement for every higher one. ``time_limit``
    is for each of them.
    """
    starts, bound, results = [tuple(slots) for slots in initial], 0, list[MigrationResult]()
    for limit in sorted(set(makespan_limits), reverse=True):
        result = fewest_transfers(
            layer, old, limit, time_limit=time_limit, initial=starts, at_least=bound
        )
        bound = max(bound, result.lower_bound)
        starts += [] if result.placement is None else [result.placement]
        results.append(result)
    return results


def _prove(layer: Layer, old: Phy2Log, known: MigrationResult, budget: Budget) -> MigrationResult:
    """With a bound, and perhaps a better placement, from optimization."""
    if known.makespan_limit < bounds.of(layer).value:
        return replace(known, infeasible=True, proof="makespan bound")
    if layer.rule == Rule.HIERARCHICAL and layer.topology.num_nodes > 1:
        return _by_node(layer, old, known, budget)
    window = count_window(layer, known.makespan_limit)
    if isinstance(window, str):
        return replace(known, infeasible=True, proof=window)
    counts = counts_within(layer, window)
    programmed = num_variables(layer, counts) <= LARGEST
    known = _searched(layer, old, known, budget.part(0.5 if programmed else 1.0))
    if programmed and known.open and budget.chunk():
        return solve_program(layer, old, known, counts, budget)
    return known


def _searched(
    layer: Layer, old: Phy2Log, known: MigrationResult, budget: Budget
) -> MigrationResult:
    """With one receive more after the other, until a placement keeps the limit."""
    search = TransferSearch.of(layer, old, known.makespan_limit)
    try:
        if known.transfers is None:
            state, slots = search.find(len(old), budget.part(work=FIRST_NODES))
            if state == EXHAUSTED:
                return replace(known, infeasible=True, proof="search")
            known = known.with_placement(layer, old, slots)
        rest = budget.part(work=NODES)
        while known.open:
            state, slots = search.find(known.lower_bound, rest)
            if state != EXHAUSTED:
                return replace(known.with_placement(layer, old, slots), limit=rest.limit)
            known = replace(known, lower_bound=known.lower_bound + 1, proof="search")
    except KeyboardInterrupt:
        budget.interrupt()
        return replace(known, limit=budget.limit)
    return known


def _by_node(layer: Layer, old: Phy2Log, known: MigrationResult, budget: Budget) -> MigrationResult:
    """Each node with the groups that it has: the sum, as far as moving groups costs no less."""
    per_node, group_size = layer.topology.slots_per_node, len(layer.groups[0])
    cap, total, slots, limit = 2 * group_size, 0, list[int](), known.limit
    nodes = [old[i : i + per_node] for i in range(0, len(old), per_node)]
    given = known.placement or ()
    for i, node in enumerate(nodes):
        groups = sorted({e // group_size for e in node})
        experts = layer.experts_of(groups)
        number = {e: j for j, e in enumerate(experts)}
        initial = given[i * per_node : (i + 1) * per_node]
        result = _solve(
            layer.node_problem(groups),
            [number[e] for e in node],
            known.makespan_limit,
            budget.part(1 / (len(nodes) - i)),
            initial=[[number[e] for e in initial]] if set(initial) == set(experts) else [],
        )
        total += cap if result.infeasible else result.lower_bound
        slots += [experts[j] for j in result.placement or ()]
        limit = limit or result.limit
    known = known.with_placement(layer, old, tuple(slots) if len(slots) == len(old) else None)
    bound = min(total, cap)
    proof = "nodes" if total <= cap else "moving groups"
    return replace(known, lower_bound=max(bound, known.lower_bound), proof=proof, limit=limit)
