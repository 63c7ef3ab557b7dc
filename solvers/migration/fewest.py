"""The fewest transfers with which a layer keeps a makespan limit."""

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
from solvers.migration.relabel import Phy2Log
from solvers.migration.result import MigrationResult
from solvers.migration.transfer_search import EXHAUSTED, TransferSearch
from solvers.options import Budget, SearchOptions

WORK = 1 << 28
"""Work of a search for which the caller sets no limit: half a minute or so."""
FIRST_WORK = 1 << 20
"""Work to find any placement that keeps the limit, or that there is none."""


def fewest_transfers(
    layer: Layer,
    old: Sequence[int],
    makespan_limit: Fraction,
    *,
    time_limit: float | None = None,
    initial: Iterable[Sequence[int]] = (),
    search: SearchOptions | None = None,
) -> MigrationResult:
    """The fewest transfers with which a layer keeps a makespan limit.

    A search asks for a placement with 0, 1, 2, .. transfers: small layers are solved to optimality
    if time allows, larger layers are bounded. A mixed-integer program beside it, with half of the
    time, proved nothing more in 136 layers that the search left open (of up to 72 slots, 2 to
    30 s), and lost 23 bounds.

    Under the hierarchical rule every node is solved for itself: moving whole groups takes at least
    ``2 E / K`` transfers, so the answer is exact below that number, and no bound exceeds it. Under
    ``home`` the search is that of the global rule, and passes over what breaks the rule or the
    limit of traffic: exact, but slow where most placements do.

    Args:
        layer: the loads now.
        old: [P] a valid placement, the expert in each slot; with any traffic.
        makespan_limit: tokens on a rank at most.
        time_limit: seconds, None for none.
        initial: placements [P] that may be good already, such as a heuristic's.
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
    found = _solve(layer, old, makespan_limit, budget, initial)
    limit = Limit.INTERRUPT if budget.interrupted else found.limit
    return replace(found, runtime=budget.elapsed(), limit=limit)


def _solve(
    layer: Layer,
    old: Sequence[int],
    makespan_limit: Fraction,
    budget: Budget,
    initial: Iterable[Sequence[int]],
) -> MigrationResult:
    old = tuple(int(e) for e in old)
    starts = [old, *(tuple(int(e) for e in phy2log) for phy2log in initial)]
    known = MigrationResult(makespan_limit, 0)
    for phy2log in starts:
        wrong = layer_violation(layer, phy2log)
        if wrong is not None:
            raise ValueError(f"{'old' if phy2log == old else 'initial'} is not valid: {wrong}")
        known = known.with_placement(layer, old, phy2log)
    if known.transfers != 0 and not _changes_without_transfers(layer):
        known = replace(known, lower_bound=1, proof="old is above the limit")
    return _prove(layer, old, known, budget) if known.open else known


def _changes_without_transfers(layer: Layer) -> bool:
    """Whether a rank may drop a replica for a second copy of an expert that it holds."""
    several = layer.topology.slots_per_rank > 1 and layer.num_redundant_experts > 0
    return several and not layer.spread_replicas


def _prove(layer: Layer, old: Phy2Log, known: MigrationResult, budget: Budget) -> MigrationResult:
    """With a lower bound, and perhaps a better placement."""
    if known.makespan_limit < bounds.of(layer).value:
        return replace(known, infeasible=True, proof="makespan bound")
    if layer.rule == Rule.HIERARCHICAL and layer.topology.num_nodes > 1:
        return _solve_by_node(layer, old, known, budget)
    window = count_window(layer, known.makespan_limit)
    if isinstance(window, str):
        return replace(known, infeasible=True, proof=window)
    return _search(layer, old, known, budget)


def _search(layer: Layer, old: Phy2Log, known: MigrationResult, budget: Budget) -> MigrationResult:
    """With one transfer more after the other, until a placement keeps the limit."""
    search = TransferSearch.of(layer, old, known.makespan_limit)
    try:
        if known.transfers is None:
            outcome, phy2log = search.find(len(old), budget.part(work=FIRST_WORK))
            if outcome == EXHAUSTED:
                return replace(known, infeasible=True, proof="search")
            known = known.with_placement(layer, old, phy2log)
        rest = budget.part(work=None if budget.limited else WORK)
        while known.open:
            outcome, phy2log = search.find(known.lower_bound, rest)
            if outcome != EXHAUSTED:
                return replace(known.with_placement(layer, old, phy2log), limit=rest.limit)
            known = replace(known, lower_bound=known.lower_bound + 1, proof="search")
    except KeyboardInterrupt:
        budget.interrupt()
        return replace(known, limit=budget.limit)
    return known


def _solve_by_node(
    layer: Layer, old: Phy2Log, known: MigrationResult, budget: Budget
) -> MigrationResult:
    """The sum over the nodes, each with the groups that it has, up to the transfers that moving
    whole groups takes.
    """
    per_node, group_size = layer.topology.slots_per_node, len(layer.groups[0])
    cap, total, phy2log, limit = 2 * group_size, 0, list[int](), known.limit
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
        phy2log += [experts[j] for j in result.placement or ()]
        limit = limit or result.limit
    complete = tuple(phy2log) if len(phy2log) == len(old) else None
    known = known.with_placement(layer, old, complete)
    bound = max(min(total, cap), known.lower_bound)
    proof = "nodes" if total <= cap else "moving groups"
    return replace(known, lower_bound=bound, proof=proof, limit=limit)
