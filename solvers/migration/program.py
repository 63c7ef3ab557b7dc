"""The fewest receives as a mixed-integer program.

With old ranks ``R(e)`` of expert e, counts
``k`` that the makespan limit ``T`` leaves, and rank g of S slots::

    y[e, k] in {0, 1}    e has k replicas                 sum_k y[e, k] = 1
    n[e, k, g]           replicas of e on g, if it has k  sum_g n[e, k, g] = k y[e, k]
    h[e, g] in {0, 1}    g not in R(e) receives e         sum_k n[e, k, g] / min(S, k) <= h[e, g]
    sum_e,k n[e, k, g] = S,   sum_e,k (w_e / k) n[e, k, g] <= T,   minimize sum h

Where that is too large, a relaxation gives the bound: ``n`` only for g in R(e) ("kept"), and what
is received as a fluid, of which every rank takes any load, but none without a receive::

    sum_g n[e, k, g] + f[e, k] = k y[e, k],   sum_k f[e, k] / min(S, k) <= a[e] integer
    sum_e,k n[e, k, g] + m[g] = S,   sum_e,k (w_e / k) n[e, k, g] + L[g] <= T
    L[g] <= T u[g],  u[g] <= m[g] <= S u[g],  u[g] <= r[g] <= m[g]
    sum m = sum f,   sum L = sum (w_e / k) f[e, k],   minimize sum a = sum r

There, counts above a few are one choice with the lowest share and any of these numbers of slots.

Replicas are rounded down to integers and the limit is too, which leaves every placement that keeps
the limit: bounds stay valid. A placement that is found is valued in exact arithmetic; where a rank
is above the limit after all, some of what it holds is too much for any rank (a cover), which is
forbidden, and the program is solved again. Bounds rest on the solver's arithmetic, lowered by a
tolerance, as in :mod:`solvers.milp`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.bounds import Window
from eplb_opt.instance import Layer
from eplb_opt.metrics import exact_rank_loads
from solvers import milp
from solvers.migration.relabel import Slots, ranks_of
from solvers.migration.result import MigrationResult
from solvers.options import Clock
from solvers.scaling import scale_for

LARGEST_EXACT = 40_000
"""Variables ``n`` of the whole program at most; beyond, the relaxation bounds."""
FEW_COUNTS = 2
"""Replicas more than now that are choices of their own in the relaxation."""
ROUNDING = 0.25
"""Added to a limit that integers must keep, so that a solver's tolerance cuts off no placement."""
ROUNDED_UP = 1e-7
"""Added to a ratio in a row that must hold for every placement."""


def solve_program(
    layer: Layer, old: Slots, known: MigrationResult, window: Window, clock: Clock
) -> MigrationResult:
    """With what the whole program says, or for a large layer the relaxation; under the global rule.

    ``window``: the counts that the makespan limit leaves.
    """
    choices = _all_counts(layer, window)
    if sum(map(len, choices)) * layer.topology.num_ranks <= LARGEST_EXACT:
        return _solved(_Move(layer, old, known, choices, fluid=False), "milp", clock)
    few = [_few_counts(own, old.count(e)) for e, own in enumerate(choices)]
    return _solved(_Move(layer, old, known, few, fluid=True), "relaxation", clock)


@dataclass(frozen=True)
class _Choice:
    """Between ``low`` and ``high`` replicas of an expert; one carries a share for ``high``."""

    low: int
    high: int


def _all_counts(layer: Layer, window: Window) -> list[list[_Choice]]:
    """Every number of replicas that the window leaves to each expert."""
    most = [min(least + window.spare, layer.most_replicas) for least in window.least]
    pairs = zip(window.least, most, strict=True)
    return [[_Choice(k, k) for k in range(least, top + 1)] for least, top in pairs]


def _few_counts(own: list[_Choice], now: int) -> list[_Choice]:
    """Counts up to a few more than now as they are, larger ones as one choice."""
    few = [choice for choice in own if choice.high <= max(now + FEW_COUNTS, own[0].low)]
    while few[-1].high < own[-1].high:
        low = few[-1].high + 1
        few.append(_Choice(low, min(own[-1].high, low + low // 2)))
    return few


Terms = list[tuple[int, float]]


@dataclass(frozen=True)
class _Move:
    """What to build a program for.

    Attributes:
        layer: under the global rule.
        old: slots [P].
        known: the limit, and the incumbent if there is one.
        choices: of each expert.
        fluid: only what is kept has variables of its own.
    """

    layer: Layer
    old: Slots
    known: MigrationResult
    choices: list[list[_Choice]]
    fluid: bool

    @property
    def size(self) -> int:
        """Slots a rank."""
        return self.layer.topology.slots_per_rank

    def tokens(self, e: int) -> Fraction:
        """The load of an expert."""
        return self.layer.loads[e] * self.layer.unit

    def scaled(self) -> tuple[list[list[int]], float]:
        """Integer loads of one replica, by expert and choice, and the limit."""
        counts = {choice.high for own in self.choices for choice in own}
        scale = scale_for(self.layer, counts, largest_sum=milp.LARGEST_SUM)
        shares = [
            [scale.down(self.tokens(e) / choice.high) for choice in own]
            for e, own in enumerate(self.choices)
        ]
        return shares, scale.down(self.known.makespan_limit) + ROUNDING


def _solved(move: _Move, proof: str, clock: Clock) -> MigrationResult:
    """The incumbent and the bound with what HiGHS says of the program, which asks for fewer
    receives than the incumbent's.
    """
    known, model = move.known, _Model(move)
    while True:
        outcome = milp.run(model.program, "scipy", clock.remaining())
        if outcome.infeasible and known.moves is None:
            return replace(known, infeasible=True, proof=proof)
        bound = known.moves if outcome.infeasible else outcome.bound
        if bound is not None and known.lower_bound < bound:
            bound = bound if known.moves is None else min(bound, known.moves)
            known = replace(known, lower_bound=bound, proof=proof)
        covers = [] if outcome.values is None or move.fluid else model.covers(outcome.values)
        if outcome.limit is not None or not covers:
            break
        for cover in covers:
            model.forbid(cover)
    if outcome.values is not None and not move.fluid:
        known = known.with_placement(move.layer, move.old, model.slots(outcome.values))
    return replace(known, limit=outcome.limit or known.limit)


class _Model:
    """The program, built constraint family by constraint family.

    Attributes:
        y: variables by expert and choice.
        n: by expert, choice and rank, where the rank may hold the expert.
        received: by expert the terms whose sum is how often it is received.
        receives: [G] binary, whether a rank receives anything.
    """

    def __init__(self, move: _Move) -> None:
        self.move, self.program = move, milp.Program()
        slots = move.layer.topology.num_physical_experts
        fewer = slots if move.known.moves is None else move.known.moves - 1
        self.program.objective = self.program.variable(move.known.lower_bound, fewer)
        self.ranks = range(move.layer.topology.num_ranks)
        self.experts = range(len(move.layer.loads))
        self.before = [Counter(rank) for rank in ranks_of("old", move.old, move.layer.topology)]
        self.share, self.top = move.scaled()
        self.y = [[self.program.variable(0, 1) for _ in own] for own in move.choices]
        self.n: dict[tuple[int, int, int], int] = {}
        self.flow: dict[tuple[int, int], int] = {}
        self.received: list[Terms] = []
        self.receives = [self.program.variable(0, 1) for _ in self.ranks]
        for e in self.experts:
            self._one_count(e)
            self._receive(e)
        total = [term for terms in self.received for term in terms]
        self.program.add([*total, (self.program.objective, -1)], 0, 0)
        self._fillranks_of()
        _Cuts(self)

    def _one_count(self, e: int) -> None:
        """One of the choices, and as many replicas as it says."""
        program, layer = self.program, self.move.layer
        program.add([(j, 1) for j in self.y[e]], 1, 1)
        for i, choice in enumerate(self.move.choices[e]):
            most = 1 if layer.spread_replicas else min(self.move.size, choice.high)
            for g in self.ranks:
                if not self.move.fluid or self.before[g][e]:
                    self.n[e, i, g] = j = program.variable(0, most)
                    program.add([(j, 1), (self.y[e][i], -most)], -math.inf, 0)
            terms: Terms = [(self.n[e, i, g], 1) for g in self.ranks if (e, i, g) in self.n]
            if self.move.fluid:
                self.flow[e, i] = program.variable(0, choice.high)
                terms.append((self.flow[e, i], 1))
            program.add([*terms, (self.y[e][i], -choice.low)], 0, math.inf)
            program.add([*terms, (self.y[e][i], -choice.high)], -math.inf, 0)

    def _receive(self, e: int) -> None:
        """A rank that holds what it did not hold has received it."""
        program, size = self.program, self.move.size
        part = [1 / min(size, choice.high) for choice in self.move.choices[e]]
        if self.move.fluid:
            times = program.variable(0, len(self.ranks))
            own: Terms = [(self.flow[e, i], x) for i, x in enumerate(part)]
            program.add([*own, (times, -1)], -math.inf, 0)
            self.received.append([(times, 1)])
            return
        self.received.append([])
        for g in self.ranks:
            if not self.before[g][e]:
                h = program.variable(0, 1)
                own = [(self.n[e, i, g], x) for i, x in enumerate(part)]
                program.add([*own, (h, -1)], -math.inf, 0)
                program.add([(h, 1), (self.receives[g], -1)], -math.inf, 0)
                self.received[e].append((h, 1))

    def _fillranks_of(self) -> None:
        """S slots and at most the limit on each rank."""
        program, size = self.program, self.move.size
        cells: list[list[tuple[int, int, int]]] = [[] for _ in self.ranks]
        for (e, i, g), j in self.n.items():
            cells[g].append((j, e, i))
        landed: list[list[int]] = []
        for g, own in enumerate(cells):
            slots: Terms = [(j, 1) for j, _, _ in own]
            load: Terms = [(j, self.share[e][i]) for j, e, i in own]
            if self.move.fluid:
                landed.append(self._land(g))
                slots.append((landed[-1][0], 1))
                load.append((landed[-1][1], 1))
            program.add(slots, size, size)
            program.add(load, -math.inf, self.top)
        if self.move.fluid:
            self._conserve(*(list(x) for x in zip(*landed, strict=True)))

    def _land(self, g: int) -> list[int]:
        """Slots, load and number of what a rank receives; none without a receive."""
        program, size, any_ = self.program, self.move.size, self.receives[g]
        slots, times = program.variable(0, size), program.variable(0, size)
        load = program.variable(0, math.ceil(self.top), integral=False)
        program.add([(slots, 1), (any_, -size)], -math.inf, 0)
        program.add([(load, 1), (any_, -self.top)], -math.inf, 0)
        program.add([(times, 1), (any_, -1)], 0, math.inf)
        program.add([(slots, 1), (times, -1)], 0, math.inf)
        return [slots, load, times]

    def _conserve(self, slots: list[int], load: list[int], times: list[int]) -> None:
        """What leaves its ranks arrives somewhere."""
        program = self.program
        program.add([*((j, 1.0) for j in slots), *((j, -1.0) for j in self.flow.values())], 0, 0)
        weights = [(j, -self.share[e][i]) for (e, i), j in self.flow.items()]
        program.add([*((j, 1.0) for j in load), *weights], 0, math.inf)
        left = [(j, -a) for terms in self.received for j, a in terms]
        program.add([*((j, 1.0) for j in times), *left], 0, 0)

    def covers(self, values: NDArray[np.int64]) -> list[dict[tuple[int, int], int]]:
        """Of each rank above the limit replicas by (expert, choice) that are too much already, and
        of which none can be spared.
        """
        return [x for x in (self._cover(g, values) for g in self.ranks) if x]

    def _cover(self, g: int, values: NDArray[np.int64]) -> dict[tuple[int, int], int]:
        cells = self.n.items()
        held = {(e, i): int(values[j]) for (e, i, at), j in cells if at == g and values[j]}
        tokens = {(e, i): self.move.tokens(e) / self.move.choices[e][i].high for e, i in held}
        over = sum(tokens[x] * times for x, times in held.items()) - self.move.known.makespan_limit
        if over <= 0:
            return {}
        for x in sorted(held, key=lambda x: tokens[x]):
            while held[x] and over > tokens[x]:
                held[x], over = held[x] - 1, over - tokens[x]
        return {x: times for x, times in held.items() if times}

    def forbid(self, cover: dict[tuple[int, int], int]) -> None:
        """No rank holds at least this much of each."""
        program = self.program
        for g in self.ranks:
            enough: Terms = []
            for (e, i), times in cover.items():
                j, many = self.n[e, i, g], program.variable(0, 1)
                program.add([(j, 1), (many, times - 1 - program.upper[j])], -math.inf, times - 1)
                enough.append((many, 1))
            program.add(enough, -math.inf, len(cover) - 1)

    def slots(self, values: NDArray[np.int64]) -> Slots:
        """The placement of a solution of the whole program."""
        ranks: list[list[int]] = [[] for _ in self.ranks]
        for (e, _, g), j in self.n.items():
            ranks[g] += [e] * int(values[j])
        return tuple(e for rank in ranks for e in rank)


class _Cuts:
    """What integers know and fractions do not: an overloaded rank must change.

    Binary ``gone[e, g]``: g drops e; ``more[e, g]``: g holds more of e than before; ``changed[g]``:
    g holds more of something. ``up_e`` and ``down_e``: e has more or fewer replicas than before.
    Every inequality holds for every placement.
    """

    def __init__(self, model: _Model) -> None:
        self.model, self.program, move = model, model.program, model.move
        self.now = Counter(move.old)
        pairs = [(e, g) for g in model.ranks for e in sorted(model.before[g])]
        self.gone = {pair: self.program.variable(0, 1) for pair in pairs}
        self.more = {pair: self.program.variable(0, 1) for pair in pairs}
        self.changed = [self.program.variable(0, 1) for _ in model.ranks]
        self.holders = {e: [g for g in model.ranks if model.before[g][e]] for e in model.experts}
        self.load = exact_rank_loads(move.layer, move.old)
        for e, g in pairs:
            self._define(e, g)
        for e in model.experts:
            self._replicas(e)
        for g in model.ranks:
            self._rank(g)

    def _up(self, e: int) -> Terms:
        choices = enumerate(self.model.move.choices[e])
        return [(self.model.y[e][i], 1) for i, c in choices if c.low > self.now[e]]

    def _down(self, e: int, count: int) -> Terms:
        """Whether e has at most ``count`` replicas."""
        choices = enumerate(self.model.move.choices[e])
        return [(self.model.y[e][i], 1) for i, c in choices if c.high <= count]

    def _define(self, e: int, g: int) -> None:
        model, size = self.model, self.model.move.size
        held: Terms = [(model.n[e, i, g], 1) for i in range(len(model.y[e]))]
        self.program.add([*held, (self.gone[e, g], 1)], 1, math.inf)
        self.program.add([*held, (self.gone[e, g], size)], -math.inf, size)
        mine = model.before[g][e]
        self.program.add([*held, (self.more[e, g], mine - size)], -math.inf, mine)
        self.program.add([(self.more[e, g], 1), (self.changed[g], -1)], -math.inf, 0)

    def _replicas(self, e: int) -> None:
        """Someone holds e; more replicas, and one dropped without there being fewer, go
        somewhere.
        """
        model, holders = self.model, self.holders[e]
        received = model.received[e]
        more: Terms = [(self.more[e, g], 1) for g in holders]
        gone: Terms = [(self.gone[e, g], -1) for g in holders]
        self.program.add([*gone, *received], 1 - len(holders), math.inf)
        minus = [(j, -a) for j, a in self._up(e)]
        self.program.add([*received, *more, *minus], 0, math.inf)
        for g in holders:
            rest = [(self.more[e, other], 1.0) for other in holders if other != g]
            fewer = self._down(e, self.now[e] - 1)
            self.program.add([*received, *rest, *fewer, (self.gone[e, g], -1)], 0, math.inf)

    def _rank(self, g: int) -> None:
        """A rank that would be over the limit, as it is or with fewer replicas of an expert, must
        change, or its other experts have so many more replicas that this makes up for it.
        """
        before, limit = self.model.before[g], self.model.move.known.makespan_limit
        more: Terms = [(self.more[e, g], 1) for e in before]
        self.program.add([*more, (self.changed[g], -1)], 0, math.inf)
        if sum(before.values()) == len(before):  # else a copy may be dropped, and none is gone
            gone: Terms = [(self.gone[e, g], 1) for e in before]
            self.program.add([*gone, (self.changed[g], -1)], 0, math.inf)
        if self.load[g] > limit:
            self._relieve(g, self.load[g] - limit, [], None)
        for e, times in before.items():
            tokens, now = self.model.move.tokens(e) * times, self.now[e]
            for k in range(1, now):
                over = self.load[g] + tokens / k - tokens / now - limit
                few = self._down(e, k)
                if over > 0 and few:
                    self._relieve(g, over, few, e)

    def _relieve(self, g: int, over: Fraction, when: Terms, but: int | None) -> None:
        """``change + sum of min(1, relief / over) >= when``, where fewer tokens than ``over``
        leave no rank unchanged; a term a little too large takes nothing away.
        """
        terms: Terms = [(self.model.receives[g], 1), (self.changed[g], 1)]
        for e, times in self.model.before[g].items():
            tokens, now = self.model.move.tokens(e) * times, self.now[e]
            for i, choice in enumerate(self.model.move.choices[e]):
                if choice.high > now and e != but:
                    relief = (tokens / now - tokens / choice.high) / over
                    share = min(1.0, float(min(relief, Fraction(1))) + ROUNDED_UP)
                    terms.append((self.model.y[e][i], share))
        terms += [(j, -a) for j, a in when]
        self.program.add(terms, 0 if when else 1, math.inf)
