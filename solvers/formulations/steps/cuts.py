r"""Cuts in place of flows and shares: which rank holds which expert is all that CP-SAT decides.

``optimal``: for every set U of ranks the experts that are nowhere else are served there,

    |U| m_t >= sum_e w[t,e] b[e,U],    b[e,U] >= 1 - sum_{g not in U} x[e,g].

Of all sets U and steps t they say the same as flows (:mod:`solvers.dispatch`). Of few ranks all are
there from the start; else a solution is valued, and the critical sets of its steps are added.

``fixed``: prices p[t,g] >= 0 whose sums over g are weights of the steps that the objective admits
make a token of e on rank g worth a[e,g] = sum_t p[t,g] w[t,e] over all steps, and

    cost >= sum_e (a_e - sum_g (a_e - a[e,g])+ x[e,g])

for any a_e; with a_e the least a[e,g] of the ranks of e in a solution it is the dual bound there.
Under a limit of traffic a token off home costs the price q more, so that x[e,g] is worth ``(a_e -
a[e,g] - q w_e)+``, what is missing of the above only at home, and q times the limit is taken off.

Reference: Benders, Numerische Mathematik 4 (1962) 238; Magnanti and Wong, Operations Research 29
(1981) 464 (cuts of location problems).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

from ortools.sat.python import cp_model

from eplb_opt.problem.evidence import Cuts, Prices
from eplb_opt.problem.homes import find_homes
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Cost, Dispatch
from solvers.bracket import Bracket
from solvers.dispatch import value_evidence
from solvers.engines import cp_sat
from solvers.formulations.steps.cp_sat import HeldModel
from solvers.formulations.steps.linear import model_cost
from solvers.local_search.steps import first_over_steps
from solvers.model_size import require_size
from solvers.options import Budget, OutOfBudgetError

MOST_AT_ONCE = 100_000
"""Nonzeros of the cuts of all sets of ranks up to which they are all there from the start."""
LARGEST_COEFFICIENTS = 2**55
"""Sum of the coefficients of a cut at most; beyond it they are rounded, to a weaker cut."""
OBJECTIVE_STEPS = 2**30
"""Under ``fixed`` dispatch the model's objective counts such parts of the incumbent's value."""


def solve_joint(
    layer: Layer,
    cost: Cost,
    budget: Budget,
    initial: tuple[int, ...] | None = None,
    counts: Sequence[int] | None = None,
) -> Bracket:
    """Best placement over several steps, with a bound that rests on CP-SAT's word.

    Args:
        layer: under any rule; a limit of traffic under ``fixed`` dispatch only.
        cost: with ``optimal`` or ``fixed`` dispatch.
        budget: seconds and work.
        initial: [P] a placement to start from.
        counts: None.

    Raises:
        ValueError: the model is too large.
    """
    known = first_over_steps(layer, cost, initial, counts)
    if known.closed:
        return known
    fixed = model_cost(cost, layer).dispatch == Dispatch.FIXED
    try:
        model = (PriceModel if fixed else SetModel)(layer, cost, known, budget)
        model.add_cuts(known.phy2log)
        while budget.chunk() and not known.closed:
            outcome = cp_sat.run(model.model, budget)
            known = model.take(known, outcome)
            budget.tell(known.incumbent, known.bound)
            if outcome.value is None or outcome.limit:
                return known
            better = known.incumbent < model.incumbent
            cut = model.add_cuts(model.placement(outcome.value))
            cut = model.correct_homes(outcome.value) or cut
            if not cut and not better:
                return known  # neither cut off nor better: its value is not known exactly
            model.improve_on(known.incumbent)
    except OutOfBudgetError:
        return replace(known, limit=budget.limit)
    except KeyboardInterrupt:
        budget.interrupt()
    return replace(known, limit=None if known.closed else budget.limit)


class SetModel(HeldModel):
    """``optimal``: makespans of the steps, cuts from sets of ranks."""

    def __init__(self, layer: Layer, cost: Cost, known: Bracket, budget: Budget) -> None:
        """See :class:`HeldModel`."""
        parts = math.lcm(*range(1, layer.topology.num_ranks + 1))
        super().__init__(layer, cost, known, budget, parts)
        self.hold()
        self.m = self.makespans()
        self.sent = [self.scaled(step, parts) for step in self.steps]
        self.inside: dict[tuple[int, ...], list[cp_model.IntVar]] = {}
        self.known_cuts: set[tuple[int, tuple[int, ...]]] = set()
        ranks, experts = len(self.ranks), len(layer.loads)
        if 2**ranks * experts * (len(self.steps) + ranks // 2) <= MOST_AT_ONCE:
            for size in range(1, ranks):
                for chosen in combinations(self.ranks, size):
                    for t in range(len(self.steps)):
                        self._add(t, chosen)

    def add_cuts(self, phy2log: tuple[int, ...]) -> bool:
        """The critical sets of a placement; False if all of them were there."""
        evidence = value_evidence(self.asked, phy2log, model_cost(self.cost, self.asked))
        if not isinstance(evidence, Cuts):
            raise TypeError(f"{evidence} are no cuts")
        chosen = [ranks for ranks in evidence.ranks if ranks]
        return sum(self._add(t, ranks) for t, ranks in enumerate(chosen)) > 0

    def _add(self, t: int, chosen: tuple[int, ...]) -> bool:
        if (t, chosen) in self.known_cuts or len(chosen) == len(self.ranks):
            return False
        self.known_cuts.add((t, chosen))
        b = self._inside(chosen)
        self.budget.spend(len(b))
        self.model.add(cp_model.LinearExpr.weighted_sum(b, self.sent[t]) <= len(chosen) * self.m[t])
        return True

    def _inside(self, chosen: tuple[int, ...]) -> list[cp_model.IntVar]:
        """b[e], 1 where all ranks of e are ``chosen``."""
        if chosen not in self.inside:
            self.inside[chosen] = [self.model.new_bool_var("") for _ in self.x]
            outside = [g for g in self.ranks if g not in chosen]
            self.budget.spend(len(self.x) * len(outside))
            for b, row in zip(self.inside[chosen], self.x, strict=True):
                self.model.add_bool_or([b, *(row[g] for g in outside)])
        return self.inside[chosen]


class PriceModel(HeldModel):
    """``fixed``: the cost alone, cuts from prices."""

    def __init__(self, layer: Layer, cost: Cost, known: Bracket, budget: Budget) -> None:
        """See :class:`HeldModel`."""
        super().__init__(layer, cost, known, budget, 1)
        self.hold()
        self.loads = cost.objective.loads_of(layer).tolist()
        self.step_unit = known.incumbent / OBJECTIVE_STEPS
        self.total = self.model.new_int_var(
            math.floor(known.bound / self.step_unit), OBJECTIVE_STEPS, "cost"
        )
        self.model.minimize(self.total)
        self.seen: set[tuple[Prices, tuple[int, ...]]] = set()
        self.at_homes = [self._at_home(e, row) for e, row in enumerate(self.x)]
        self.rows: list[tuple[cp_model.LinearExprT, Fraction]] = []
        require_size("cuts", len(layer.loads) * len(self.ranks), 0)

    @property
    def unit(self) -> Fraction:
        """Tokens that 1 in the objective of the model stands for."""
        return self.step_unit

    def add_cuts(self, phy2log: tuple[int, ...]) -> bool:
        """The cut by the prices of a placement; False if it was there."""
        prices = value_evidence(self.asked, phy2log, self.cost)
        if not isinstance(prices, Prices):
            raise TypeError(f"{prices} are no prices")
        limit = self.layer.traffic_limit
        a, away = self._worth(prices), [0] * len(self.x)
        if prices.traffic_price:  # in whole numbers: limit * price * loads
            a = [[worth * limit.denominator for worth in row] for row in a]
            away = [prices.traffic_price * limit.denominator * w for w in self.layer.loads]
        least = self._least(a, away, phy2log)
        if (prices, tuple(least)) in self.seen:
            return False
        self.seen.add((prices, tuple(least)))
        gains = [
            [max(0, low - off - v) for v in row]
            for low, off, row in zip(least, away, a, strict=True)
        ]
        more = [
            [max(0, low - v) - gain for v, gain in zip(row, own, strict=True)]
            for low, row, own in zip(least, a, gains, strict=True)
        ]
        taken_off = prices.traffic_price * limit.numerator * sum(self.layer.loads)
        scale = prices.scale * (limit.denominator if prices.traffic_price else 1)
        self._add(sum(least) - taken_off, [*gains, *more], scale)
        return True

    def _at_home(self, expert: int, row: list[cp_model.IntVar]) -> list[cp_model.IntVar]:
        """[G] whether a rank holds the expert at home; nothing where that makes no difference."""
        if self.homes is None:
            return []
        found = [self.model.new_bool_var("") for _ in row]
        for g, (at_home, x) in enumerate(zip(found, row, strict=True)):
            self.model.add(at_home <= x)
            self.model.add(at_home <= self.on_node(expert, g))
        return found

    def _least(self, a: list[list[int]], away: list[int], phy2log: tuple[int, ...]) -> list[int]:
        """[E] what a token is worth on the cheapest rank that holds it."""
        S, per_node = self.S, self.layer.topology.ranks_per_node
        homes = find_homes(self.layer, phy2log) if any(away) else None
        least = []
        for e, row in enumerate(a):
            ranks = {p // S for p, held in enumerate(phy2log) if held == e}
            home = None if homes is None else homes[e // self.group_size]
            off = {g: away[e] if home not in (None, g // per_node) else 0 for g in ranks}
            least.append(min(row[g] + off[g] for g in ranks))
        return least

    def _worth(self, prices: Prices) -> list[list[int]]:
        """a[e][g] in units of ``layer.unit / prices.scale``."""
        return [
            [
                sum(p[g] * w[e] for p, w in zip(prices.prices, self.loads, strict=True) if p)
                for g in self.ranks
            ]
            for e in range(len(self.x))
        ]

    def _add(self, constant: int, gains: list[list[int]], scale: int) -> None:
        """``cost >= (constant - sum gains x) * layer.unit / scale``, below the incumbent."""
        self.budget.spend(2 * len(self.x) * len(self.ranks))
        unit = self.layer.unit / scale
        divisor = -(-(constant + sum(map(sum, gains))) // LARGEST_COEFFICIENTS)
        self.rows.append((self._row(constant, gains, divisor), unit * divisor))
        self._below(*self.rows[-1])
        numerator, denominator = (self.step_unit / unit).as_integer_ratio()
        coarse = [[gain * denominator for gain in row] for row in gains]
        self.model.add(self.total >= self._row(constant * denominator, coarse, numerator))

    def _row(self, constant: int, gains: list[list[int]], divisor: int) -> cp_model.LinearExprT:
        """``(constant - sum of gains * x) / divisor``, rounded down term by term."""
        terms = [
            -(-gain // divisor) * x
            for row, own in zip(gains, [*self.x, *self.at_homes], strict=True)
            for gain, x in zip(row, own, strict=False)
            if gain
        ]
        return constant // divisor - sum(terms)

    def _below(self, row: cp_model.LinearExprT, unit: Fraction) -> None:
        self.model.add(row <= math.ceil(self.incumbent / unit) - 1)

    def improve_on(self, incumbent: Fraction) -> None:
        """Only placements below ``incumbent`` from now on."""
        if incumbent < self.incumbent:
            self.incumbent = incumbent
            for row, unit in self.rows:
                self._below(row, unit)
