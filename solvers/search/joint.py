"""Counts and packing together (global rule): all counts that could beat the incumbent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.bounds import Bound, global_bound
from eplb_opt.instance import Layer
from eplb_opt.metrics import exact_makespan
from eplb_opt.result import Result
from solvers.incumbents.improve import improve
from solvers.incumbents.start import greedy_counts
from solvers.options import Options
from solvers.scaling import scale_for
from solvers.search.count_vectors import Vectors, new_vectors, search
from solvers.search.outcome import Budget
from solvers.search.sizes import most_replicas, replica_sizes
from solvers.search.splitting import EXHAUSTED, FOUND, PAUSED

Integers = NDArray[np.int64]

KICKS = 500
"""Rounds of local search for the incumbent."""


@dataclass(frozen=True)
class Known:
    """The best placement so far, its value, and what is proven."""

    slots: tuple[int, ...]
    value: Fraction
    bound: Bound


def solve_joint(
    layer: Layer,
    options: Options,
    initial: Sequence[int] | None = None,
    *,
    spread_replicas: bool = False,
    node_limit: int | None = None,
) -> Result:
    """The placement of least makespan over all counts and packings, under the global rule.

    Optimal when it ends without a limit and the scale is exact; when a limit ends it, the bound is
    the closed-form one. Up to C(P - 1, E - 1) count vectors: meant for about a dozen redundant
    experts. Deterministic without a time limit. S = 1 is a closed form: greedy counts.

    Args:
        layer: the problem.
        options: time limit, seed of the local search.
        initial: [P] slots of a known placement.
        spread_replicas: no rank may hold an expert twice.
        node_limit: nodes of the tree search; a vector passed over counts as some.
    """
    budget = Budget(options.time_limit, node_limit)
    P, most = layer.topology.num_physical_experts, most_replicas(layer, spread_replicas)
    bound = global_bound(layer)
    if most * len(layer.loads) < P:
        return Result("joint", "search", bound.value, infeasible=True, bound_source=bound.source)
    if layer.topology.slots_per_rank == 1:
        counts = greedy_counts(layer, most)
        slots = tuple(int(e) for e in np.repeat(np.arange(len(counts)), counts))
        value = exact_makespan(layer, slots)
        return _result(layer, Known(slots, value, Bound(value, "counts")), budget)
    slots = improve(
        layer,
        start=initial,
        time_limit=None if options.time_limit is None else options.time_limit / 5,
        rounds=KICKS,
        seed=options.seed,
        target=bound.value,
        spread_replicas=spread_replicas,
    )
    known = Known(slots, exact_makespan(layer, slots), bound)
    if known.value > bound.value:
        known = _search_counts(layer, known, most, spread_replicas, budget)
    return _result(layer, known, budget)


def _search_counts(layer: Layer, known: Known, most: int, spread: bool, budget: Budget) -> Known:
    """Go through the window of count vectors below the incumbent, which shrinks with it."""
    slots, value, bound = known.slots, known.value, known.bound
    order = np.array(sorted(range(len(layer.loads)), key=lambda e: -layer.loads[e]))
    scale = scale_for(layer, range(1, most + 1))
    size = replica_sizes(layer, scale, most)[order]
    threshold = scale.up(value) - 1
    vectors = _window(layer, size, threshold)
    state = EXHAUSTED if vectors is None else PAUSED
    try:
        while vectors is not None and state != EXHAUSTED and value > bound.value:
            nodes = budget.chunk()
            if not nodes:
                return Known(slots, value, bound)
            state, used = search(vectors, size, threshold, spread, nodes)
            budget.used += used
            if state == FOUND:
                found = order[vectors.tree.packed(vectors.experts)]
                threshold = int(vectors.tree.partial[:, -2].max()) - 1
                better = tuple(int(e) for e in found.ravel())
                slots = min(slots, better, key=lambda s: exact_makespan(layer, s))
                value = exact_makespan(layer, slots)
    except KeyboardInterrupt:
        budget.limit = "interrupt"
        return Known(slots, value, bound)
    proven = min(value, (threshold + 1) * scale.unit)
    return Known(slots, value, max(bound, Bound(proven, "search"), key=lambda b: b.value))


def _window(layer: Layer, size: Integers, threshold: int) -> Vectors | None:
    """The count vectors whose replicas are all within ``threshold``; None if there are none."""
    if np.any(size[:, -1] > threshold):
        return None
    P, sizes = layer.topology.num_physical_experts, size[:, 1:]
    least = 1 + (sizes > threshold).sum(axis=1)
    spare = max(0, P - int(least.sum()))
    return new_vectors(
        least, np.minimum(sizes.shape[1], least + spare), P, layer.topology.num_ranks
    )


def _result(layer: Layer, known: Known, budget: Budget) -> Result:
    return Result(
        "joint",
        "search",
        known.bound.value,
        known.value,
        known.slots,
        tuple(known.slots.count(e) for e in range(len(layer.loads))),
        bound_source=known.bound.source,
        limit=budget.limit if known.value > known.bound.value else None,
        runtime=budget.elapsed,
    )
