"""What is known about the optimum of each layer, to measure policies against."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from eplb_opt import bounds
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost, mean_load
from solvers.bracket import Bracket
from solvers.options import SearchOptions


@dataclass(frozen=True)
class Reference:
    """What is known about the optimum of one layer.

    Attributes:
        layer: index.
        bracket: the best placement known, a policy's or the search's, and what is proven.
        mean_load: mean rank load, exact.
        searched: an exact search was made.
        runtime: seconds.
    """

    layer: int
    bracket: Bracket
    mean_load: Fraction
    searched: bool
    runtime: float

    @property
    def status(self) -> str:
        """``optimal`` (the bound is attained), ``feasible`` (an exact search ended with an
        incumbent above the bound), ``bound`` (no search was made), or ``no-load``.
        """
        if not self.mean_load:
            return "no-load"
        return "optimal" if self.bracket.closed else "feasible" if self.searched else "bound"

    @property
    def lower_bound(self) -> Fraction:
        """Proven, in tokens, exact."""
        return self.bracket.bound

    @property
    def incumbent(self) -> Fraction | None:
        """Value of the best placement known, exact; None if there is none and for ``no-load``."""
        return self.bracket.value

    @property
    def bound_source(self) -> str:
        """The argument that proves the bound."""
        return self.bracket.source


def find_reference(
    layer: Layer,
    known: Sequence[Bracket],
    cost: Cost,
    search: SearchOptions,
    *,
    before_search: Callable[[], None] | None = None,
) -> Reference:
    """What can be found out about the optimum of a layer.

    Args:
        layer: of an instance.
        known: placements that are known, valued.
        cost: objective and dispatch.
        search: limits of the search, if no placement meets the closed-form bound.
        before_search: called if there is a search to come.

    Raises:
        KeyboardInterrupt: Ctrl-C came outside of the search; one that ends the search is its
            bracket's ``limit``.
    """
    start, mean = time.perf_counter(), mean_load(layer, cost.objective)
    bracket = Bracket.start(bounds.of(layer, *cost), known if layer.has_load else [])
    searched = layer.has_load and not bracket.closed and search.time_limit != 0
    if searched:
        if before_search is not None:
            before_search()
        bracket = search_further(layer, bracket, cost, search)
    return Reference(layer.index, bracket, mean, searched, time.perf_counter() - start)


def search_further(layer: Layer, known: Bracket, cost: Cost, search: SearchOptions) -> Bracket:
    """What a search finds, with placement and bound that are known if they are better."""
    from solvers import solve

    result = solve(layer, objective=cost.objective, dispatch=cost.dispatch, search=search)
    found = Bracket(
        result.placement,
        result.objective,
        result.lower_bound,
        result.bound_source,
        result.certificate,
        result.limit,
    )
    return found.with_placement(known).with_bound(known.bound, known.source, known.evidence)
