"""Lower bound on the joint problem: no mix of rank patterns reaches a makespan below T.

A pattern is a multiset of S replicas (e, k), each weighing w_e / k. If a placement has a makespan
below T, its ranks are G patterns lighter than T. Give each replica a price u(e, k) and every
replica the price m besides; then

    sum over e of min_k k (u(e, k) + m)  -  m P  <=  G * max {u(p) : pattern p lighter than T}.

Prices that violate this exclude T, whatever they are. Column generation finds them: the restricted
master problem proposes, a stabilized mixture is rounded to integers, and the integer knapsack
decides. See docs/theory/bounds.md.

References: Gilmore and Gomory, Operations Research 9 (1961) 849; Wentges, Int. Trans. Oper. Res. 4
(1997) 151 (smoothing); Dell'Amico, Iori, Martello, Monaci, EJOR 171 (2006) 725 (patterns with
cardinality limits).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.evidence import Pattern
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import mean_load
from solvers.arrays import Integers
from solvers.bracket import Bracket
from solvers.column_generation.master import Master, Prices
from solvers.column_generation.pricing import ENTRIES, Pricing, price
from solvers.column_generation.replicas import GRID, Bins, ReplicaWindow, bins_of, replica_window
from solvers.options import Budget, OutOfBudgetError

SMOOTHING = 0.8
"""Share of the best prices so far in the mixture that is priced."""
NEW_PATTERNS = 30
"""Patterns that the master takes from one pricing; with all of them it grows slow."""
LARGEST_PRICE = 2**20
"""What the checker accepts."""
FEASIBLE = 1e-7
"""Below so many uncovered replicas a trial is given up as not excluded; it decides nothing that is
claimed."""


@dataclass(frozen=True)
class _Resolution:
    """Bins of replica loads and levels of prices, each divided by S.

    With more items in a pattern each matters less, and the knapsack costs about the same at any S.
    """

    bins: int
    levels: int


RESOLUTIONS = (_Resolution(2_000, 8_000), _Resolution(12_000, 48_000))


@dataclass(frozen=True)
class _Trial:
    """A trial makespan in load units, and the sizes that go with it."""

    makespan: Fraction
    window: ReplicaWindow
    bins: Bins
    num_slots: int
    num_ranks: int
    levels: int

    @property
    def slots_per_rank(self) -> int:
        return self.num_slots // self.num_ranks


@dataclass(frozen=True, eq=False)
class _IntegerPrices:
    """Prices as multiples of 1 / levels, and what the knapsack says about them."""

    replica: Integers
    count: int
    cheapest: Integers
    pricing: Pricing
    gain: int


@dataclass(frozen=True, eq=False)
class _Outcome:
    """``proof`` excludes the trial; ``centre`` are the best prices met, over the relative load
    ``at``.
    """

    proof: _IntegerPrices | None
    at: NDArray[np.float64]
    centre: Prices


@dataclass(frozen=True, eq=False)
class _Search:
    """State of the search for the largest makespan that can be excluded, in load units."""

    excluded: Fraction
    not_excluded: Fraction | None = None
    evidence: Pattern | None = None
    guess: _Outcome | None = None


def pattern_bound(
    layer: Layer,
    budget: Budget | None = None,
    *,
    lower: Fraction | None = None,
    upper: Fraction | None = None,
    counts: Sequence[int] | None = None,
    precision: float = 1e-4,
) -> Bracket:
    """Best lower bound on the makespan, in tokens, that rank patterns with free counts prove.

    Valid for the global rule and, as a relaxation, for the hierarchical one and for
    ``spread_replicas``. It takes the multiplicity of an expert in a rank as free, which costs
    little for S >= 3; for S = 2 use :mod:`solvers.formulations.two_slots`.

    Args:
        layer: the problem; one without load has the bound 0.
        budget: a trial in progress is given up at its end; None for no limit.
        lower: a proven bound in tokens to start from; the mean rank load by default.
        upper: value of an incumbent in tokens; nothing above it is tried, and a bound that comes
            near is tried for equality, which proves the incumbent optimal.
        counts: [E] for a bound on the placements with these counts only; its evidence is then
            not for the checker, which speaks of free counts.
        precision: relative distance between the bound and a trial that could not be excluded at
            which to stop.

    Returns:
        A bracket without a placement. Its evidence is None if nothing above ``lower`` was proven.

    The search doubles its step until a trial is not excluded, then bisects; first with coarse bins
    of replica loads, then with fine ones. Bound, exact integer arithmetic for everything claimed;
    deterministic unless a time limit is reached.
    """
    budget = budget or Budget()
    proven = mean_load(layer) / layer.unit
    if lower is not None:
        proven = max(proven, lower / layer.unit)
    ceiling = None if upper is None else upper / layer.unit
    search = _Search(proven)
    problem = _Problem(layer, counts)
    for resolution in RESOLUTIONS if layer.has_load else ():
        search = _bisect(problem, search, ceiling, resolution, precision, budget)
    if ceiling is not None and search.excluded < ceiling and search.not_excluded is None:
        search = _try(problem, search, ceiling, RESOLUTIONS[-1], budget)
    bound = search.excluded * layer.unit
    return Bracket(None, None, bound, "patterns", search.evidence, budget.limit)


@dataclass(frozen=True)
class _Problem:
    """A layer, and the counts [E] if they are given."""

    layer: Layer
    counts: Sequence[int] | None


def _bisect(
    problem: _Problem,
    search: _Search,
    ceiling: Fraction | None,
    resolution: _Resolution,
    precision: float,
    budget: Budget,
) -> _Search:
    """Raise ``search.excluded`` as far as ``resolution`` allows."""
    search, step = replace(search, not_excluded=None), 4 * precision
    while budget.chunk():
        makespan = _next_makespan(search, ceiling, step, precision)
        if makespan is None:
            break
        search = _try(problem, search, makespan, resolution, budget)
        step *= 2
    return search


def _try(
    problem: _Problem, search: _Search, makespan: Fraction, resolution: _Resolution, budget: Budget
) -> _Search:
    """Exclude ``makespan`` if possible; a trial cut short by the budget decides nothing."""
    try:
        trial = _make_trial(problem, makespan, resolution, budget)
    except OutOfBudgetError:
        return search
    outcome = _exclude(trial, search.guess, budget)
    if outcome is None or outcome.proof is not None:
        evidence = _evidence(trial, outcome, problem.layer.unit)
        search = replace(search, excluded=makespan, evidence=evidence)
    elif budget.chunk():
        search = replace(search, not_excluded=makespan)
    return replace(search, guess=outcome or search.guess)


def _next_makespan(
    search: _Search, ceiling: Fraction | None, step: float, precision: float
) -> Fraction | None:
    """The next trial, None when the interval is narrow enough."""
    excluded, end = search.excluded, search.not_excluded
    if end is not None:
        trial = (excluded + end) / 2
    else:
        end, trial = ceiling, excluded * Fraction(1 + step)
        if end is not None:
            trial = min(trial, end)
    if end is not None and end <= excluded * Fraction(1 + precision):
        return None
    short = trial.limit_denominator(10**6)
    return short if excluded < short <= (end or short) else trial


def _make_trial(
    problem: _Problem, makespan: Fraction, resolution: _Resolution, budget: Budget
) -> _Trial:
    """Raises an OutOfBudgetError where the replicas are too many for the budget."""
    layer = problem.layer
    P, G = layer.topology.num_physical_experts, layer.topology.num_ranks
    window = replica_window(layer.loads, P, makespan, problem.counts)
    budget.spend(window.weights.size // ENTRIES)
    slots_per_rank = layer.topology.slots_per_rank
    bins = bins_of(window.weights, max(resolution.bins // slots_per_rank, 100))
    return _Trial(makespan, window, bins, P, G, max(resolution.levels // slots_per_rank, 400))


def _exclude(trial: _Trial, guess: _Outcome | None, budget: Budget) -> _Outcome | None:
    """Column generation on one trial; None if the counts alone exclude it."""
    if trial.window.spare < 0:
        return None
    at = trial.bins.lightest / GRID
    centre = Prices(at, 0.0, 0.0, 0.0)
    if guess is not None:
        centre = replace(guess.centre, replica=np.interp(at, guess.at, guess.centre.replica))
    master = Master(trial.window, trial.bins, trial.num_slots, trial.num_ranks)
    best, prices, share = None, None, SMOOTHING
    while budget.chunk():
        mixed = centre if prices is None else _mixture(centre, prices, share)
        try:
            integer = _evaluate(trial, mixed, budget)
        except OutOfBudgetError:
            break
        if integer.gain > 0:
            return _Outcome(integer, at, mixed)
        if best is None or integer.gain > best:
            best, centre = integer.gain, mixed
        if _add_columns(master, integer, prices):
            share, prices = SMOOTHING, master.solve()
            if prices is None or prices.uncovered < FEASIBLE:
                break
        elif share == 0:
            break
        else:
            share = share / 2 if share > 0.1 else 0.0
    return _Outcome(None, at, centre)


def _mixture(centre: Prices, prices: Prices, share: float) -> Prices:
    replica = share * centre.replica + (1 - share) * prices.replica
    return replace(prices, replica=replica, count=share * centre.count + (1 - share) * prices.count)


def _evaluate(trial: _Trial, prices: Prices, budget: Budget) -> _IntegerPrices:
    """Round the prices to integers and compute the gain exactly; positive excludes the trial."""
    replica = np.rint(prices.replica * trial.levels).astype(np.int64)
    count = min(max(round(prices.count * trial.levels), -LARGEST_PRICE), LARGEST_PRICE)
    pricing = price(trial.bins.lightest, replica, trial.slots_per_rank, GRID - 1, budget)
    cost = trial.window.counts * (replica[trial.bins.of] + count)
    demand = int(cost.min(axis=1).sum()) - count * trial.num_slots
    gain = demand - trial.num_ranks * max(pricing.best, 0)
    return _IntegerPrices(replica, count, cost.argmin(axis=1), pricing, gain)


def _add_columns(master: Master, integer: _IntegerPrices, prices: Prices | None) -> int:
    """Give the master what its prices ask for; returns how many patterns and counts were new."""
    patterns = integer.pricing.patterns
    if prices is not None:
        worth = prices.replica[patterns].sum(axis=1)
        order = np.argsort(-worth, kind="stable")[:NEW_PATTERNS]
        patterns = patterns[order[worth[order] > prices.rank + 1e-9]]
    added = sum(master.add_pattern(p) for p in patterns.tolist())
    return added + sum(master.add_count(e, k) for e, k in enumerate(integer.cheapest.tolist()))


def _evidence(trial: _Trial, outcome: _Outcome | None, unit: Fraction) -> Pattern:
    """Where the price changes, as (weight, price) in ascending order."""
    levels, count = [(0, 0)], 0
    if outcome is not None and outcome.proof is not None:
        replica, count = outcome.proof.replica, outcome.proof.count
        changes = np.flatnonzero(np.diff(replica, prepend=replica[0] - 1))
        levels = [(int(trial.bins.lightest[b]), int(replica[b])) for b in changes]
    return Pattern(trial.makespan * unit, GRID, count, tuple(levels))
