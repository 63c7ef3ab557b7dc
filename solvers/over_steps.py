"""The strongest combination of this package's methods for a placement over several steps.

The tree search (:mod:`solvers.tree_search.steps`) proves more than the models in nearly every shape
that was tried (docs/results/served_exact.md). It gets a short run first, for small layers; what
that leaves open gets a better placement by local search, then the tree search again. Layers that it
refuses, with many ranks, go to cuts (``even``: to the model of counts) in CP-SAT. Only under
``fixed`` dispatch a mixed-integer program has the better bounds; they are a solver's word, in
floats, so that the tree search has to mend the last digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from eplb_opt import bounds
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
FEW_EXPERTS = 32
"""Beyond, most of a budget is for local search."""
SECONDS_OF_BOUND = 5.0
"""Left of a limit on time where the slow arguments of :func:`eplb_opt.bounds.of` are tried."""
WORK_OF_BOUND = 20_000_000
"""What they count."""
REDO_EXPERTS = 16
"""Up to so many experts the checker of certificates can redo an exhaustive search."""


def solve_joint(
    layer: Layer,
    cost: Cost,
    budget: Budget,
    initial: tuple[int, ...] | None = None,
    counts: Sequence[int] | None = None,
) -> Bracket:
    """Best constant placement and best bound over several steps, by global or hierarchical rule.

    Args:
        layer: the problem.
        cost: any but the sum under ``even`` dispatch.
        budget: seconds and work; without a limit the tree search runs to its end.
        initial: [P] a placement to start from.
        counts: [E] of all placements that are considered, under ``even`` dispatch.
    """
    return run(Methods(layer, cost, counts), first_over_steps(layer, cost, initial, counts), budget)


def run(methods: Methods, known: Bracket, budget: Budget) -> Bracket:
    """What the methods of a plan make of what is known."""
    for method, share, work in methods.plan(budget):
        if _ended(known, budget):
            break
        try:
            known = method(known, budget.part(share, work=work))
        except KeyboardInterrupt:
            budget.interrupt()
        except TooLargeError:
            known = replace(known, limit=Limit.WORK)
        budget.tell(known.value or known.bound, known.bound)
    if known.infeasible:
        return known
    return replace(known, limit=None if known.closed else _reason(known, budget))


Method = Callable[[Bracket, Budget], Bracket]


@dataclass(frozen=True)
class Methods:
    """Each takes what is known and brings value and bound closer."""

    layer: Layer
    cost: Cost
    counts: Sequence[int] | None

    def plan(self, budget: Budget) -> list[tuple[Method, float, int | None]]:
        """What is done one after another, each with its share of the budget left and most work."""
        plan: list[tuple[Method, float, int | None]] = [
            (self.search, 0.2, SHORT),
            (self.improve, 0.2 if self.layer.num_logical_experts <= FEW_EXPERTS else 0.7, None),
            (self.raise_bound, 1.0, None),
        ]
        fixed = model_cost(self.cost, self.layer).dispatch == Dispatch.FIXED
        if fixed and budget.seconds is not None:
            plan.append((self.solve_program, 0.6, None))  # these engines know no limit but time
        return [*plan, (self.search, 1.0, None)]

    def search(self, known: Bracket, budget: Budget) -> Bracket:
        """The tree search, or a model where there are too many ranks for it."""
        even = self.cost.dispatch == Dispatch.EVEN
        model = ("cp-sat", cp_sat.solve_joint) if even else ("cuts", cuts.solve_joint)
        for name, solver in (("search", search), model):
            try:
                found = solver(self.layer, self.cost, budget, known.phy2log, self.counts)
            except TooLargeError:
                continue
            few = self.layer.num_logical_experts <= REDO_EXPERTS
            evidence: Evidence = Exhaustive() if few else Trusted(name)
            known = known.with_placement(found).with_bound(found.bound, name, evidence)
            return replace(known, limit=found.limit or (None if known.closed else Limit.PRECISION))
        return replace(known, limit=Limit.WORK)

    def improve(self, known: Bracket, budget: Budget) -> Bracket:
        """Local search."""
        if known.value is None:
            return known
        keep = self.counts is not None
        found = improve_over_steps(self.layer, self.cost, known, budget, keep_counts=keep)
        return replace(found, limit=budget.limit or Limit.WORK)

    def raise_bound(self, known: Bracket, budget: Budget) -> Bracket:
        """The arguments that take seconds and cannot be stopped, if there is room for them."""
        seconds, work = budget.seconds_left(), budget.work_left()
        hurry = seconds is not None and seconds < SECONDS_OF_BOUND
        if hurry or self.counts is not None or (work is not None and work < WORK_OF_BOUND):
            return known
        budget.charge(WORK_OF_BOUND)
        found = bounds.of(self.layer, *self.cost)
        return known.with_bound(found.value, found.source, found.evidence)

    def solve_program(self, known: Bracket, budget: Budget) -> Bracket:
        """The mixed-integer program."""
        found = mip.solve_joint(
            self.layer, self.cost, budget, known.placement, self.counts, backend="scipy"
        )
        known = known.with_placement(found).with_bound(found.bound, "scipy", Trusted("scipy"))
        return replace(known, limit=budget.limit or found.limit)


def _ended(known: Bracket, budget: Budget) -> bool:
    """Whether no further step can be of use."""
    enough = known.value is not None and budget.accepts(known.value, known.bound)
    return known.infeasible or enough or known.limit == Limit.PRECISION or not budget.chunk()


def _reason(known: Bracket, budget: Budget) -> Limit | None:
    """What ended the steps before value and bound met; None if no more was asked."""
    done = known.value is not None and budget.accepts(known.value, known.bound)
    if done and not budget.interrupted:
        return None
    budget.chunk()
    if known.limit == Limit.PRECISION:
        return known.limit
    return budget.limit or known.limit
