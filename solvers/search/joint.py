"""Counts and packing together (global rule), by search over all counts that could beat the incumbent."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.instance import Layer
from eplb_opt.metrics import exact_makespan
from eplb_opt.result import Result
from solvers.incumbents.improve import improve
from solvers.incumbents.start import greedy_counts
from solvers.search.count_vectors import Vectors, new_vectors, search
from solvers.search.grid import Grid, make_grid
from solvers.search.outcome import Budget
from solvers.search.splitting import EXHAUSTED, FOUND

Integers = NDArray[np.int64]

BACKEND = "search"
KICKS = 300


def solve_joint(
    layer: Layer,
    *,
    spread_replicas: bool = False,
    lower_bound: Fraction = Fraction(0),
    initial: Sequence[int] | None = None,
    time_limit: float | None = None,
    node_limit: int | None = None,
    seed: int = 0,
) -> Result:
    """The placement with the least makespan over all counts and packings (the layer's rule is taken as global).

    Exact when it ends without a limit and the grid is exact; else the bound is the best of ``lower_bound``
    and the mean. The number of count vectors is up to C(P - 1, E - 1): meant for P - E up to about 12.
    Deterministic without a time limit. S = 1 is a closed form: greedy counts.

    Args:
        layer: the problem.
        spread_replicas: no rank may hold an expert twice.
        lower_bound: known to be valid, in tokens.
        initial: [P] slots of a known placement.
        time_limit: seconds.
        node_limit: nodes of the tree search; a vector passed over counts as some.
        seed: of the local search for the incumbent.
    """
    budget = Budget(time_limit, node_limit)
    G, P, E = layer.topology.num_ranks, layer.topology.num_physical_experts, len(layer.loads)
    most = min(P - E + 1, G) if spread_replicas else P - E + 1
    if P > most * E:
        return Result(
            "joint", BACKEND, lower_bound, infeasible=True, bound_source="spread_replicas"
        )
    if layer.topology.slots_per_rank == 1:
        counts = greedy_counts(layer.loads, P, most)
        slots = tuple(int(e) for e in np.repeat(np.arange(E), counts))
        return _result(layer, slots, exact_makespan(layer, slots), "counts", budget)
    bound = max(lower_bound, Fraction(sum(layer.loads), G) * layer.unit)
    slots = improve(
        layer, start=initial, rounds=KICKS, seed=seed, target=bound, spread_replicas=spread_replicas
    )
    if exact_makespan(layer, slots) == bound:
        return _result(layer, slots, bound, "mean" if bound > lower_bound else "given", budget)
    order = sorted(range(E), key=lambda e: -layer.loads[e])
    sorted_layer = Layer(tuple(layer.loads[e] for e in order), layer.unit, layer.topology)
    grid = make_grid(sorted_layer, range(1, most + 1))
    slots, proven = _enumerate(layer, np.array(order), grid, slots, bound, spread_replicas, budget)
    return _result(layer, slots, max(bound, proven), "search" if proven > bound else "mean", budget)


def _enumerate(
    layer: Layer,
    order: Integers,
    grid: Grid,
    slots: tuple[int, ...],
    bound: Fraction,
    spread: bool,
    budget: Budget,
) -> tuple[tuple[int, ...], Fraction]:
    """The best placement and what is proven; row ``i`` of the grid is expert ``order[i]``."""
    value = exact_makespan(layer, slots)
    threshold = grid.steps_not_below(value) - 1
    vectors = _window(grid, len(slots), layer.topology.num_ranks, threshold)
    state = EXHAUSTED if vectors is None else FOUND
    while vectors is not None and state != EXHAUSTED and value > bound:
        nodes = budget.chunk()
        if not nodes:
            return slots, bound
        state, used = search(vectors, grid.size, threshold, spread, nodes)
        budget.used += used
        if state == FOUND:
            ranks = vectors.tree.packed(vectors.experts)
            found = tuple(int(e) for e in order[ranks].ravel())
            threshold = int(vectors.tree.partial[:, -2].max()) - 1
            if (better := exact_makespan(layer, found)) < value:
                slots, value = found, better
                threshold = min(threshold, grid.steps_not_below(value) - 1)
    return slots, min(value, max(bound, grid.tokens(threshold + 1)))


def _window(grid: Grid, num_slots: int, num_ranks: int, threshold: int) -> Vectors | None:
    """The count vectors whose replicas are all within ``threshold``."""
    size = grid.size[:, 1:]
    if np.any(size[:, -1] > threshold):
        return None
    least = 1 + (size > threshold).sum(axis=1)
    most = np.minimum(size.shape[1], least + max(0, num_slots - int(least.sum())))
    return new_vectors(least, most, num_slots, num_ranks)


def _result(
    layer: Layer, slots: tuple[int, ...], bound: Fraction, source: str, budget: Budget
) -> Result:
    value = exact_makespan(layer, slots)
    return Result(
        "joint",
        BACKEND,
        lower_bound=bound,
        objective=value,
        placement=slots,
        counts=tuple(slots.count(e) for e in range(len(layer.loads))),
        bound_source=source,
        limit=budget.limit if value > bound else None,
        runtime=budget.elapsed,
    )
