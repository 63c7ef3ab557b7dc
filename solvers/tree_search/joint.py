"""Counts and packing together (global rule): all counts that could beat the incumbent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np

from eplb_opt import bounds
from eplb_opt.bounds.closed_form import threshold_counts
from eplb_opt.problem.layer import Layer
from solvers.arrays import Integers
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.local_search.improve import improve
from solvers.options import Budget
from solvers.scaling import replica_sizes, scale_for
from solvers.tree_search.count_vectors import Vectors, new_vectors, search
from solvers.tree_search.sampling import neighbour, try_vector
from solvers.tree_search.splitting import EXHAUSTED, FOUND, PAUSED

KICKS = 100
"""Rounds of local search for the incumbent."""
SAMPLES = 20_000
SAMPLING = 0.3
"""Share of the budget after which sampling gives way to the enumeration."""


def solve_joint(layer: Layer, budget: Budget, initial: Sequence[int] | None = None) -> Bracket:
    """The placement of least makespan over all counts and packings, under the global rule.

    Optimal when it ends without a limit and the scale is exact; when a limit ends it, the bound is
    the closed-form one. Up to C(P - 1, E - 1) count vectors: meant for about a dozen redundant
    experts. Deterministic without a time limit. S = 1 is a closed form: greedy counts.

    Args:
        layer: the problem.
        budget: a vector passed over counts as some steps of the search.
        initial: [P] a known placement.
    """
    bound = bounds.of(layer)
    if layer.topology.slots_per_rank == 1:
        counts = threshold_counts(layer)
        alone = value(layer, [e for e, count in enumerate(counts) for _ in range(count)])
        return Bracket.start(bound, [alone]).with_bound(alone.incumbent, "counts")
    phy2log = improve(
        layer,
        start=initial,
        budget=budget,
        rounds=KICKS,
        seed=budget.options.seed,
        target=bound.value,
    )
    known = Bracket.start(bound, [value(layer, phy2log)])
    if not budget.accepts(known.incumbent, known.bound) and budget.chunk():
        known = _search_counts(layer, known, budget)
    return replace(known, limit=None if known.closed else budget.limit)


@dataclass(eq=False)
class CountSearch:
    """The search over counts of one layer; row ``i`` of ``size`` is expert ``order[i]``.

    It holds the best placement so far, so that an interrupt loses nothing. Only makespans up to
    ``threshold`` steps are of interest still, and none below ``goal``.
    """

    layer: Layer
    order: Integers
    size: Integers
    spread: bool
    budget: Budget
    goal: int
    threshold: int
    known: Bracket

    def sample(self, seed: int) -> None:
        """Try random vectors near the best: one for every hundred there are, SAMPLES at most."""
        vectors = self.window()
        if vectors is None:
            return
        random = np.random.default_rng(seed)
        spare = int((vectors.counts - vectors.least).sum())
        number = min(SAMPLES, comb(spare + len(self.order) - 1, spare) // 100)
        best = np.bincount(self.known.phy2log, minlength=len(self.order))[self.order]
        for _ in range(number):
            if self.threshold < self.goal or not self.budget.chunk(SAMPLING):
                return
            counts = neighbour(best, vectors.least, vectors.most, random)
            success, used = try_vector(vectors, counts, self.size, self.threshold, self.spread)
            self.budget.charge(used)
            if success:
                best = counts
                self.accept(vectors)

    def enumerate(self) -> bool:
        """Go through all vectors; True once nothing up to the threshold is left."""
        vectors = self.window()
        state = EXHAUSTED if vectors is None else PAUSED
        while vectors is not None and state != EXHAUSTED and self.threshold >= self.goal:
            work = self.budget.chunk()
            if not work:
                return False
            state, used = search(vectors, self.size, self.threshold, self.spread, work)
            self.budget.charge(used)
            if state == FOUND:
                self.accept(vectors)
        return True

    def accept(self, vectors: Vectors) -> None:
        """Take over the packing that the tree holds; rounding may hide that it is no better."""
        ranks = self.order[vectors.tree.packing(vectors.experts)]
        found = value(self.layer, tuple(int(e) for e in ranks.ravel()))
        self.known = self.known.with_placement(found)
        self.threshold = self.budget.better_than(int(vectors.tree.partial[:, -2].max()))

    def window(self) -> Vectors | None:
        """The count vectors whose replicas are all within the threshold; None if there are none."""
        if np.any(self.size[:, -1] > self.threshold):
            return None
        topology, sizes = self.layer.topology, self.size[:, 1:]
        least = 1 + (sizes > self.threshold).sum(axis=1)
        spare = max(0, topology.num_physical_experts - int(least.sum()))
        most = np.minimum(sizes.shape[1], least + spare)
        return new_vectors(least, most, topology.num_physical_experts, topology.num_ranks)


def _search_counts(layer: Layer, known: Bracket, budget: Budget) -> Bracket:
    """Sample, then enumerate the window of count vectors below the incumbent."""
    order = np.array(sorted(range(len(layer.loads)), key=lambda e: -layer.loads[e]))
    scale = scale_for(layer, range(1, layer.most_replicas + 1))
    counts = CountSearch(
        layer,
        order,
        replica_sizes(layer, scale, layer.most_replicas)[order],
        layer.spread_replicas,
        budget,
        goal=scale.up(known.bound) if scale.exact else 0,
        threshold=budget.better_than(scale.up(known.incumbent)),
        known=known,
    )
    complete = False
    try:
        counts.sample(budget.options.seed)
        complete = counts.enumerate()
    except KeyboardInterrupt:
        budget.interrupt()
    known = counts.known
    if complete:
        proven = min(known.incumbent, (counts.threshold + 1) * scale.unit)
        known = known.with_bound(proven, "search")
    return known
