"""Packing with the counts given: the tree search, then rank patterns where it leaves a gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eplb_opt.problem.instance import Layer
from eplb_opt.problem.result import Result
from solvers.column_generation import pattern_bound
from solvers.options import Clock, Options
from solvers.tree_search.packing import solve_packing as search

SEARCH = 0.7
"""Share of the time for the search."""
SECONDS = 60.0
"""For the patterns, where no time limit is given."""


def solve_packing(layer: Layer, counts: Sequence[int], options: Options) -> Result:
    """Best packing for ``counts`` [E] under the global rule, with a proven bound."""
    clock = Clock(options)
    result = search(layer, counts, clock.remaining(SEARCH))
    if result.limit in (None, "interrupt") or result.objective is None:
        return result
    left = clock.remaining().time_limit
    found = pattern_bound(
        layer,
        counts=counts,
        lower=result.lower_bound,
        upper=result.objective,
        time_limit=SECONDS if left is None else left,
    )
    if found.value > result.lower_bound:
        result = replace(result, lower_bound=found.value, bound_source="patterns", certificate=None)
    return replace(result, backend="portfolio", runtime=clock.elapsed())
