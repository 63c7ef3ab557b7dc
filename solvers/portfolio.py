"""The strongest combination of this package's methods for one layer under the global rule.

Each step takes what is known, a placement and a lower bound, and brings the two closer. Which steps
there are depends on the slots per rank and on the number of experts; they end when value and bound
meet (or are as close as asked), or when the time is up.

- S = 1: the counts decide everything, and the greedy ones are optimal.
- S = 2: bisection on the makespan with Hall's condition (:mod:`solvers.formulations.two_slots`).
- few experts: all count vectors that could beat the incumbent (:mod:`solvers.tree_search.joint`).
- else local search for the placement and rank patterns for the bound, twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from eplb_opt.bounds import global_bound, threshold_counts
from eplb_opt.problem.instance import Layer
from eplb_opt.problem.result import Result
from solvers.bracket import Known
from solvers.column_generation import pattern_bound
from solvers.formulations.two_slots import solve_pairs
from solvers.local_search.greedy import largest_first
from solvers.local_search.improve import improve
from solvers.options import Clock, Options
from solvers.tree_search.joint import solve_joint as search_counts
from solvers.tree_search.outcome import Budget

FEW_EXPERTS = 40
"""Up to so many experts the count vectors are searched."""
REDO_EXPERTS = 16
"""Up to so many experts the checker of certificates can redo an exhaustive search."""
ROUNDS = 2_000
"""Rounds of local search where no time limit is given."""


Step = Callable[[Known, Options], Known]


def solve_joint(layer: Layer, options: Options, initial: tuple[int, ...] | None = None) -> Result:
    """Best placement and best bound of one layer under the global rule.

    ``initial`` [P] is a placement to start from. Without a time limit the search for count vectors
    and pairs runs to the end, local search for a fixed number of rounds, patterns as far as they
    go.
    """
    clock = Clock(options)
    starts = [largest_first(layer, threshold_counts(layer)), *([initial] if initial else [])]
    known = Known.start(layer, global_bound(layer), starts)
    for step, share in _plan(layer):
        if options.satisfied(known.value, known.bound) or known.limit == "interrupt":
            break
        try:
            known = step(known, clock.remaining(share))
        except KeyboardInterrupt:  # a step that cannot be stopped half-way
            known = replace(known, limit="interrupt")
        if options.progress is not None:
            options.progress(known.value, known.bound)
    if known.limit is None:
        known = replace(known, limit="time" if clock.expired() else "tolerance")
    return known.result("joint", "portfolio", clock)


def _plan(layer: Layer) -> list[tuple[Step, float]]:
    """The steps for a layer, each with its share of the time that is left."""
    if layer.topology.slots_per_rank == 1:
        return [(_searched, 1.0)]
    if layer.topology.slots_per_rank == 2:
        return [(_paired, 0.9), (_bounded, 0.5), (_improved, 1.0)]
    if layer.num_logical_experts <= FEW_EXPERTS:
        return [(_searched, 0.8), (_bounded, 0.5), (_improved, 1.0)]
    return [(_improved, 0.1), (_bounded, 0.7), (_improved, 1.0)]


def _improved(known: Known, options: Options) -> Known:
    target, budget = known.bound * (1 + options.tolerance), Budget(options.time_limit)
    slots = improve(
        known.layer,
        start=known.slots,
        budget=budget,
        rounds=ROUNDS if options.time_limit is None else None,
        seed=options.seed,
        target=target if options.target is None else max(target, options.target),
    )
    limit = "interrupt" if budget.limit == "interrupt" else None
    return replace(known.with_placement(slots), limit=limit)


def _bounded(known: Known, options: Options) -> Known:
    found = pattern_bound(
        known.layer,
        lower=known.bound,
        upper=known.value,
        time_limit=60.0 if options.time_limit is None else options.time_limit,
    )
    if found.certificate is None:
        return known
    return known.with_bound(found.value, "patterns", found.certificate)


def _searched(known: Known, options: Options) -> Known:
    result = search_counts(known.layer, options, known.slots)
    return _taken(known, result)


def _paired(known: Known, options: Options) -> Known:
    return _taken(known, solve_pairs(known.layer, options, known.slots))


def _taken(known: Known, result: Result) -> Known:
    """What a solver found; its bound rests on its search."""
    few = known.layer.num_logical_experts <= REDO_EXPERTS
    evidence = {"kind": "exhaustive"} if few else {"kind": "trusted", "solver": result.backend}
    known = replace(known, limit=result.limit)
    if result.placement is not None:
        known = known.with_placement(result.placement)
    return known.with_bound(result.lower_bound, result.backend, evidence)
