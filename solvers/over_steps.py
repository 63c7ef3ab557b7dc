"""The strongest combination of this package's methods for a placement over several steps.

The tree search (:mod:`solvers.tree_search.steps`) proves more than the models in nearly every shape
that was tried (docs/results/served_exact.md). It gets a short run first, for small layers; what
that leaves open gets a better placement by local search, then the tree search again, and local
search for the rest of the budget. Layers that it refuses, with many ranks, go to cuts (``even``: to
the model of counts) in CP-SAT. Only under ``fixed`` dispatch a mixed-integer program has the better
bounds; they are a solver's word, in floats, so that the tree search has to mend the last digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eplb_opt.problem.evidence import Evidence, Exhaustive, Trusted
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost, Dispatch
from eplb_opt.problem.result import Limit
from solvers.bracket import Bracket
from solvers.formulations.steps import cp_sat, cuts, mip
from solvers.formulations.steps.linear import model_cost
from solvers.local_search.steps import first_over_steps
from solvers.local_search.swaps import improve_over_steps
from solvers.model_size import TooLargeError
from solvers.options import Budget
from solvers.tree_search.steps import solve_joint as search

SHORT = 3_000_000
"""Work of the first tree search: some tenths of a second."""
REDO_EXPERTS = 16
"""Up to so many experts the checker of certificates can redo an exhaustive search."""


def solve_joint(
    layer: Layer,
    cost: Cost,
    budget: Budget,
    initial: tuple[int, ...] | None = None,
    counts: Sequence[int] | None = None,
) -> Bracket:
    """Best constant placement and best bound over several steps, under either rule.

    Args:
        layer: the problem.
        cost: any but the sum under ``even`` dispatch.
        budget: seconds and work; without a limit the tree search runs to its end.
        initial: [P] a placement to start from.
        counts: [E] of all placements that are considered, under ``even`` dispatch.
    """
    known = first_over_steps(layer, cost, initial, counts)

    def search_tree(part: Budget) -> Bracket:
        return _search(layer, cost, part, known, counts)

    def improve(part: Budget) -> Bracket:
        found = improve_over_steps(layer, cost, known, part, keep_counts=counts is not None)
        return replace(found, limit=part.limit or Limit.WORK)

    def solve_program(part: Budget) -> Bracket:
        found = mip.solve_joint(layer, cost, part, known.phy2log, counts, backend="scipy")
        found = known.with_placement(found).with_bound(found.bound, "scipy", Trusted("scipy"))
        return replace(found, limit=part.limit)

    steps = [(search_tree, 0.2, SHORT), (improve, 0.2, None), (search_tree, 0.7, None)]
    if budget.seconds is not None and model_cost(cost, layer).dispatch == Dispatch.FIXED:
        steps[2:2] = [(solve_program, 0.6, None)]  # these engines know no limit but time
    if budget.limited:
        steps.append((improve, 1.0, None))
    else:
        steps[-1] = (search_tree, 1.0, None)
    for step, share, work in steps:
        if _ended(known, budget):
            break
        try:
            known = step(budget.part(share, work=work))
        except KeyboardInterrupt:
            budget.interrupt()
        except TooLargeError:
            known = replace(known, limit=Limit.WORK)
        budget.tell(known.incumbent, known.bound)
    return replace(known, limit=None if known.closed else _reason(known, budget))


def _ended(known: Bracket, budget: Budget) -> bool:
    """Whether no further step can be of use."""
    enough = budget.accepts(known.incumbent, known.bound)
    return enough or known.limit == Limit.PRECISION or not budget.chunk()


def _reason(known: Bracket, budget: Budget) -> Limit | None:
    """What ended the steps before value and bound met; None if no more was asked."""
    if not budget.interrupted and budget.accepts(known.incumbent, known.bound):
        return None
    budget.chunk()
    if known.limit == Limit.PRECISION:
        return known.limit
    return budget.limit or known.limit


def _search(
    layer: Layer, cost: Cost, budget: Budget, known: Bracket, counts: Sequence[int] | None
) -> Bracket:
    """``known`` with what the tree search finds, or a model where there are too many ranks."""
    model = cp_sat if cost.dispatch == Dispatch.EVEN else cuts
    for name, solver in (
        ("search", search),
        (model.__name__.rpartition(".")[2], model.solve_joint),
    ):
        try:
            found = solver(layer, cost, budget, known.phy2log, counts)
        except TooLargeError:
            continue
        few = layer.num_logical_experts <= REDO_EXPERTS
        evidence: Evidence = Exhaustive() if few else Trusted(name)
        known = known.with_placement(found).with_bound(found.bound, name, evidence)
        return replace(known, limit=found.limit or (None if known.closed else Limit.PRECISION))
    return replace(known, limit=Limit.WORK)
