"""The strongest combination of this package's methods for one layer under the global rule.

Each step takes what is known, a placement and a lower bound, and brings the two closer. Which steps
there are depends on the stage, on the slots per rank and on the number of experts; they end when
value and bound meet (or are as close as asked), or when the budget is used up.

Joint:

- S = 1: the counts decide everything, and the greedy ones are optimal.
- S = 2: bisection on the makespan with Hall's condition (:mod:`solvers.formulations.two_slots`).
- few experts: all count vectors that could beat the incumbent (:mod:`solvers.tree_search.joint`).
- else local search for the placement and rank patterns for the bound, twice.

Packing: the tree search (:mod:`solvers.tree_search.packing`), then rank patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from eplb_opt import bounds
from eplb_opt.problem.evidence import Evidence, Exhaustive, Trusted
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.result import Limit
from solvers.bracket import Bracket
from solvers.column_generation.pattern_bound import pattern_bound
from solvers.dispatch import value
from solvers.formulations import two_slots
from solvers.local_search.improve import improve
from solvers.local_search.start import first_bracket, largest_first
from solvers.model_size import TooLargeError
from solvers.options import Budget
from solvers.tree_search.joint import solve_joint as search_joint
from solvers.tree_search.packing import solve_packing as search_packing

FEW_EXPERTS = 40
"""Up to so many experts the count vectors are searched."""
REDO_EXPERTS = 16
"""Up to so many experts the checker of certificates can redo an exhaustive search."""
ROUNDS = 2_000
"""Rounds of local search where no time limit is given."""
PATTERN_SECONDS = 60.0
"""For the patterns, where no limit is given."""
PACKING_SEARCH = 0.7
"""Share of the budget for the tree search of a packing."""


Method = Callable[[Layer, Bracket, Budget], Bracket]


def solve_joint(layer: Layer, budget: Budget, initial: Sequence[int] | None = None) -> Bracket:
    """Best placement and best bound of one layer under the global rule.

    ``initial`` [P] is a placement to start from. Without a limit the search for count vectors and
    pairs runs to the end, local search for a fixed number of rounds, patterns for a minute.
    """
    known = first_bracket(layer, initial)
    for step, share in _plan(layer):
        searched_through = known.limit == Limit.PRECISION
        if budget.accepts(known.incumbent, known.bound) or searched_through or not budget.chunk():
            break
        try:
            known = step(layer, known, budget.part(share))
        except KeyboardInterrupt:  # a step that cannot be stopped half-way
            budget.interrupt()
        except TooLargeError:
            known = replace(known, limit=Limit.WORK)
        budget.tell(known.incumbent, known.bound)
    return replace(known, limit=None if known.closed else _reason(known, budget))


def _reason(known: Bracket, budget: Budget) -> Limit | None:
    """What ended the steps before value and bound met; None if no more was asked."""
    if not budget.interrupted and budget.accepts(known.incumbent, known.bound):
        return None
    budget.chunk()
    if known.limit == Limit.PRECISION:
        return known.limit
    return budget.limit or known.limit  # of a step: a share of the time, or its rounds


def _plan(layer: Layer) -> list[tuple[Method, float]]:
    """The steps for a layer, each with its share of the budget that is left."""
    if layer.topology.slots_per_rank == 1:
        return [(_search_counts, 1.0)]
    if layer.topology.slots_per_rank == 2:
        return [(_solve_two_slots, 0.9), (_raise_bound, 0.5), (_improve, 1.0)]
    if layer.num_logical_experts <= FEW_EXPERTS:
        return [(_search_counts, 0.8), (_raise_bound, 0.5), (_improve, 1.0)]
    return [(_improve, 0.1), (_raise_bound, 0.7), (_improve, 1.0)]


def _improve(layer: Layer, known: Bracket, budget: Budget) -> Bracket:
    target = known.bound * (1 + budget.options.tolerance)
    phy2log = improve(
        layer,
        start=known.phy2log,
        budget=budget,
        rounds=ROUNDS if budget.seconds is None else None,
        seed=budget.options.seed,
        target=target if budget.target is None else max(target, budget.target),
    )
    return replace(known.with_placement(value(layer, phy2log)), limit=budget.limit or Limit.WORK)


def _raise_bound(layer: Layer, known: Bracket, budget: Budget) -> Bracket:
    if budget.seconds is None and budget.work is None:
        budget.seconds = PATTERN_SECONDS
    found = pattern_bound(layer, budget, lower=known.bound, upper=known.value)
    known = replace(known, limit=found.limit)
    if found.evidence is None:
        return known
    return known.with_bound(found.bound, found.source, found.evidence)


def _search_counts(layer: Layer, known: Bracket, budget: Budget) -> Bracket:
    return _take(layer, known, search_joint(layer, budget, known.phy2log), "search")


def _solve_two_slots(layer: Layer, known: Bracket, budget: Budget) -> Bracket:
    return _take(layer, known, two_slots.solve_joint(layer, budget, known.phy2log), "two-slots")


def _take(layer: Layer, known: Bracket, found: Bracket, solver: str) -> Bracket:
    """What a solver found; its bound rests on its search."""
    few = layer.num_logical_experts <= REDO_EXPERTS
    evidence: Evidence = Exhaustive() if few else Trusted(solver)
    known = known.with_placement(found).with_bound(found.bound, solver, evidence)
    return replace(known, limit=found.limit or Limit.PRECISION)


def solve_packing(layer: Layer, counts: Sequence[int], budget: Budget) -> Bracket:
    """Best packing for ``counts`` [E] under the global rule, with a proven bound."""
    try:
        known = search_packing(layer, counts, budget.part(PACKING_SEARCH))
    except TooLargeError:
        start = value(layer, largest_first(layer, counts))
        known = replace(Bracket.start(bounds.of(layer, counts=counts), [start]), limit=Limit.WORK)
    if known.limit in (None, Limit.INTERRUPT):
        return known
    part = budget.part()
    if part.seconds is None and part.work is None:
        part.seconds = PATTERN_SECONDS
    try:
        found = pattern_bound(layer, part, lower=known.bound, upper=known.value, counts=counts)
    except TooLargeError:
        return known
    if found.bound <= known.bound:
        return known
    known = known.with_bound(found.bound, found.source)
    return replace(known, limit=None) if known.closed else known
