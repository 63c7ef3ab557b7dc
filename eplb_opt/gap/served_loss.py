r"""Why a placement loses over the steps that it serves: its loss over the mean load, split.

An objective o (mean, worst, cvar, sum) makes one number of the makespans of the steps. Every line
decides more, so the least numbers that remain possible do not decrease; all but the last are under
``optimal`` dispatch:

    ===  ===================================================================
    V_0  o of the mean rank loads
    V_1  o of the best makespan of each step alone, any replica on any rank (wait-and-see)
    V_2  the same under the layer's rule
    V_3  the best placement that stays for all steps
    V_4  this placement
    V_5  this placement under the dispatch in force
    ===  ===================================================================

The loss ``(V_5 - V_0) / V_0`` is the sum of five terms ``(V_i - V_{i-1}) / V_0``, none negative:

- **granularity**, V_1 - V_0: replicas cannot be cut, not even by a dispatcher;
- **rule**, V_2 - V_1: the price of keeping groups of experts on nodes (0 under the global rule);
- **constancy**, V_3 - V_2: one placement for all steps. In stochastic programming that is the
  expected value of perfect information, EVPI;
- **placement**, V_4 - V_3: experts on the wrong ranks;
- **dispatch**, V_5 - V_4: tokens shared otherwise than best in each step.

If the policy saw other steps than are served, all of this is on the served ones, and placement is
the sum of two terms. With the same numbers of the steps seen in capitals of another alphabet,
``A_i``:

- **optimality**, (A_4 - A_3) / A_0: how far the policy is from the best on the steps that it saw;
- **staleness**, the rest: what the change of steps adds; of any sign, 0 where the steps are
  proportional.

Beside them, and no term: **vss**, the value of the stochastic solution, what the placement costs
above V_3 that is the best known for the sum of the steps under even dispatch, the problem that
engines solve. Many placements are (nearly) best for the sum, and this is what one of them loses.

Under the rule ``home`` with a limit of traffic in force under another dispatch than ``optimal``,
V_1 to V_4 are without that limit: it is one of all steps together, and a single step may exceed it.

V_0, V_4 and V_5 are known, V_1 to V_3 are intervals of a proven bound and the best known, treated
as in :mod:`eplb_opt.gap.attribution`.

**Where wait-and-see is exact.** If a node has at least ``ranks - 1`` redundant experts, every step
alone can be spread evenly over the ranks of each node: sort the experts by load, give a rank the
first S neighbours whose load reaches the mean, cut the last of them there and sort its rest in
again (the moving window of Shachnai and Tamir, Algorithmica 29 (2001) 442). So V_1 = V_0, and V_2
is the best partition of the groups at each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np

from eplb_opt import bounds
from eplb_opt.bounds.each_step import has_few_partitions
from eplb_opt.gap.loss_split import (
    Interval,
    LayerSplit,
    PolicySplit,
    Progress,
    Split,
    collect,
    not_negative,
    point,
)
from eplb_opt.gap.optima import NO_SEARCH, nested
from eplb_opt.gap.reference import search_further
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import SUM, Cost, Dispatch, Objective, mean_load
from eplb_opt.problem.result import Limit
from eplb_opt.problem.topology import Rule
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.dispatch.classes import classes_of, holders
from solvers.dispatch.optimal import optimal_makespans
from solvers.options import SearchOptions

TERMS = ("granularity", "rule", "constancy", "placement", "dispatch")
"""Term i leads from V_i to V_{i+1}."""
STEPS_ALONE = 64
"""Up to so many steps are searched one by one for wait-and-see."""

Slots = Sequence[int]
"""[P] the expert in each slot."""


@dataclass(frozen=True)
class Placed:
    """A placement of one layer, and what it costs on the served steps under the dispatch in force,
    in tokens.
    """

    phy2log: Slots
    paid: Fraction


def split_served_loss(
    served: Layer,
    placements: Mapping[str, Placed],
    cost: Cost,
    search: SearchOptions = NO_SEARCH,
    seen: Layer | None = None,
    constant: Bracket | None = None,
    others: Sequence[Slots] = (),
) -> dict[str, LayerSplit]:
    """Split the loss of each policy's placement on the steps of one layer.

    All placements are incumbents for each other. With a ``search``, optima are searched that are
    not known well enough: of a constant placement, of few steps alone, and of the sum.

    Args:
        served: the layer as it is served, with load.
        placements: by policy, valid under the layer's rule.
        cost: objective, and the dispatch in force.
        search: limits of each search; by default there is none.
        seen: the layer as the policies saw it, if that was another.
        constant: what is known of V_3, if something is.
        others: further placements that are known.

    Returns:
        By policy, the terms :data:`TERMS`; with ``seen``, ``optimality`` and ``staleness`` in place
        of ``placement``, which is their sum. Guarantee: the intervals contain the true terms.

    Raises:
        ValueError: the layer has no load.
        KeyboardInterrupt: Ctrl-C ended a search.
    """
    if not served.has_load:
        raise ValueError(f"layer {served.index} has no load to serve: there is no loss to split")
    if cost.dispatch != Dispatch.OPTIMAL:  # steps may exceed a limit of their sum
        served, seen = served.without_limit(), None if seen is None else seen.without_limit()
    known = [*(placed.phy2log for placed in placements.values()), *others]
    objective = cost.objective
    optima = _Optima(served, objective, known, search, constant)
    changed = seen is not None and not _proportional(seen, served, objective)
    before = _best_constant(seen, objective, known, search) if changed and seen else None
    found = {}
    for policy, placed in placements.items():
        split = optima.split(placed, cost.dispatch)
        if seen is not None:
            regret = _regret(seen, objective, placed.phy2log, before) if before else None
            split = _with_staleness(split, regret)
        found[policy] = LayerSplit(served.index, split)
    return found


def split_layers(
    served: Sequence[Layer],
    placements: Mapping[str, Sequence[Placed]],
    cost: Cost,
    search: SearchOptions,
    progress: Progress,
    seen: Sequence[Layer] | None = None,
    constant: Sequence[Bracket] | None = None,
    others: Sequence[Sequence[Slots]] = (),
) -> tuple[tuple[PolicySplit, ...], bool]:
    """:func:`split_served_loss` for all layers with served load; ``placements`` are [L] by policy.

    Also returns whether Ctrl-C ended it early.
    """

    def split(row: int) -> dict[str, LayerSplit]:
        placed = {policy: rows[row] for policy, rows in placements.items()}
        before = None if seen is None else seen[row]
        best = None if constant is None else constant[row]
        further = [phy2log[row] for phy2log in others]
        return split_served_loss(served[row], placed, cost, search, before, best, further)

    rows = [i for i, layer in enumerate(served) if layer.has_load and placements]
    return collect("attribution", split, rows, progress)


def void_terms(layer: Layer, objective: Objective, dispatch: Dispatch) -> frozenset[str]:
    """The terms that are 0 whatever the loads: ``rule`` under the global rule or with one node,
    ``constancy`` with one step, ``dispatch`` where it is optimal.
    """
    void = {
        "rule": _has_no_nodes(layer),
        "constancy": len(objective.loads_of(layer)) == 1,
        "dispatch": dispatch == Dispatch.OPTIMAL,
    }
    return frozenset(term for term, nothing_to_decide in void.items() if nothing_to_decide)


class _Optima:
    """V_0 to V_3 of a layer, and what the best placement of its sum costs."""

    def __init__(
        self,
        layer: Layer,
        objective: Objective,
        known: Sequence[Slots],
        search: SearchOptions,
        constant: Bracket | None,
    ) -> None:
        self.layer, self.objective = layer, objective
        self.mean = mean_load(layer, objective)
        of_sum = min(known, key=lambda phy2log: value(layer, phy2log).incumbent)
        self.of_sum = _optimal_value(layer, of_sum, objective)
        self.constant = _best_constant(layer, objective, known, search, constant)
        known = [*known, self.constant.phy2log]
        self.ruled = _wait_and_see(layer, objective, known, search)
        self.anywhere = self.ruled
        if not _has_no_nodes(layer):
            self.anywhere = _wait_and_see(layer.without_nodes(), objective, known, search)

    def split(self, placed: Placed, dispatch: Dispatch) -> Split:
        """The loss of one placement."""
        V4 = _optimal_value(self.layer, placed.phy2log, self.objective)
        constant = Interval(self.constant.bound, self.constant.incumbent)
        known = (point(self.mean), self.anywhere, self.ruled, constant, point(V4))
        void = void_terms(self.layer, self.objective, dispatch)
        equal = [i for i, term in enumerate(TERMS) if term in void]
        optima = nested((*known, point(placed.paid)), equal)
        steps = dict(zip(TERMS, pairwise(optima), strict=True))
        terms = {t: not_negative(inner - outer) / self.mean for t, (outer, inner) in steps.items()}
        beside = {}
        if "constancy" not in void:
            beside["vss"] = not_negative(point(self.of_sum) - optima[3]) / self.mean
        return Split(
            total=(placed.paid - self.mean) / self.mean,
            terms=terms | {term: point(0) for term in void},
            shown={t: (b.high - a.high) / self.mean for t, (a, b) in steps.items()},
            sums={},
            beside=beside,
        )


def _with_staleness(split: Split, regret: Interval | None) -> Split:
    """``placement`` in two: what ``regret`` on the steps seen is, all of it if None, and the rest.

    The best known on the steps seen is the lower end of the regret that is shown.
    """
    placement, shown = split.terms["placement"], split.shown["placement"]
    optimality = placement if regret is None else regret
    best = shown if regret is None else regret.low
    stale = point(0) if regret is None else placement - regret
    parts = {
        "optimality": (optimality, best),
        "staleness": (stale, shown - best),
    }
    terms, amounts = {}, {}
    for term, interval in split.terms.items():
        for name, (part, amount) in (
            parts if term == "placement" else {term: (interval, split.shown[term])}
        ).items():
            terms[name], amounts[name] = part, amount
    return replace(split, terms=terms, shown=amounts, sums={"placement": placement})


def _regret(seen: Layer, objective: Objective, phy2log: Slots, best: Bracket) -> Interval:
    """(A_4 - A_3) / A_0; 0 where nothing was seen, where every placement is the best."""
    if not seen.has_load:
        return point(0)
    mine, mean = _optimal_value(seen, phy2log, objective), mean_load(seen, objective)
    return (point(mine) - Interval(best.bound, best.incumbent)) / mean


def _optimal_value(layer: Layer, phy2log: Slots, objective: Objective) -> Fraction:
    return value(layer, phy2log, objective, Dispatch.OPTIMAL).incumbent


def _best_constant(
    layer: Layer,
    objective: Objective,
    known: Sequence[Slots],
    search: SearchOptions,
    before: Bracket | None = None,
) -> Bracket:
    """The best placement for all steps under optimal dispatch, or what is known of it."""
    cost = Cost(objective, Dispatch.OPTIMAL)
    found = Bracket.start(bounds.of(layer, *cost), []) if before is None else before
    for phy2log in known:
        found = found.with_placement(value(layer, phy2log, *cost))
    if search.asks_for(found.incumbent, found.bound):
        found = search_further(layer, found, cost, search)
    if found.limit == Limit.INTERRUPT:
        raise KeyboardInterrupt
    return found


def _wait_and_see(
    layer: Layer, objective: Objective, known: Sequence[Slots], search: SearchOptions
) -> Interval:
    """The objective of the optima of each step alone under optimal dispatch."""
    counted = replace(layer, steps=objective.loads_of(layer))
    low = bounds.wait_and_see(counted, objective, Dispatch.OPTIMAL).value
    if _spreads_evenly(layer):
        return point(low)
    values = _least_makespans(counted, known)
    if len(values) > STEPS_ALONE or not search.asks_for(objective.over(values), low):
        return Interval(low, objective.over(values))
    alone = [
        _step_alone(step, most, search, len(values))
        for step, most in zip(counted.each_step(), values, strict=True)
    ]
    low = max(low, objective.over([step.low for step in alone]))
    return Interval(low, objective.over([step.high for step in alone]))


def _spreads_evenly(layer: Layer) -> bool:
    """Whether every step alone has its closed-form bound as optimum, see above."""
    if layer.rule == Rule.HOME and layer.topology.num_nodes > 1:
        return False
    nodes = 1 if _has_no_nodes(layer) else layer.topology.num_nodes
    spare, ranks = layer.num_redundant_experts // nodes, layer.topology.num_ranks // nodes
    return spare >= ranks - 1 and (nodes == 1 or has_few_partitions(layer.topology))


def _least_makespans(layer: Layer, known: Sequence[Slots]) -> list[Fraction]:
    """[T] in tokens, the least of the known placements at each step under optimal dispatch."""
    if layer.traffic_limit < 1:
        steps = layer.each_step()
        return [min(_optimal_value(step, phy2log, SUM) for phy2log in known) for step in steps]
    experts, ranks = layer.num_logical_experts, layer.topology.num_ranks
    makespans = [
        optimal_makespans(classes_of(layer.steps, holders(phy2log, experts, ranks))).values
        for phy2log in known
    ]
    return [min(column) * layer.unit for column in zip(*makespans, strict=True)]


def _step_alone(step: Layer, most: Fraction, search: SearchOptions, steps: int) -> Interval:
    """Its optimum under optimal dispatch, at most ``most``; a share of the time of the search."""
    from solvers import solve

    low = bounds.of(step, SUM, Dispatch.OPTIMAL).value
    if most == low:
        return Interval(low, most)
    seconds = None if search.time_limit is None else search.time_limit / steps
    found = solve(step, dispatch=Dispatch.OPTIMAL, search=replace(search, time_limit=seconds))
    if found.limit == Limit.INTERRUPT:
        raise KeyboardInterrupt
    best = most if found.objective is None else min(most, found.objective)
    return Interval(max(low, found.lower_bound), best)


def _has_no_nodes(layer: Layer) -> bool:
    return layer.rule == Rule.GLOBAL or layer.topology.num_nodes == 1


def _proportional(a: Layer, b: Layer, objective: Objective) -> bool:
    """Whether the steps that count are the same up to one factor."""
    one, other = (objective.loads_of(layer).astype(object) for layer in (a, b))
    if one.shape != other.shape:
        return False
    return bool(one.sum() > 0 and np.all(one * other.sum() == other * one.sum()))
