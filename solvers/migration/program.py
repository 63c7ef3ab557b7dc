"""The fewest receives as a mixed-integer program.

With old ranks ``R(e)`` of expert e, counts ``k`` that the makespan limit ``T`` leaves, and rank g
of S slots::

    y[e, k] in {0, 1}    e has k replicas                 sum_k y[e, k] = 1
    n[e, k, g]           replicas of e on g, if it has k  sum_g n[e, k, g] = k y[e, k]
    h[e, g] in {0, 1}    g not in R(e) receives e         sum_k n[e, k, g] / min(S, k) <= h[e, g]
    sum_e,k n[e, k, g] = S,   sum_e,k (w_e / k) n[e, k, g] <= T,   minimize sum h

Replicas are rounded down to integers and the limit is too, which leaves every placement that keeps
the limit: bounds stay valid. A placement that is found is valued in exact arithmetic; where a rank
is above the limit after all, some of what it holds is too much for any rank (a cover), which is
forbidden, and the program is solved again. Bounds rest on the solver's arithmetic, lowered by a
tolerance, as in :mod:`solvers.engines.mip`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from eplb_opt.bounds.closed_form import Window
from eplb_opt.problem.layer import Layer
from solvers.engines import mip
from solvers.migration.relabel import Phy2Log, split_by_rank
from solvers.migration.result import MigrationResult
from solvers.options import Budget
from solvers.scaling import scale_for

LARGEST = 40_000
"""Variables ``n`` at most, for a program that HiGHS gets anywhere with."""
ROUNDING = 0.25
"""Added to a limit that integers must keep, so that a solver's tolerance cuts off no placement."""

Read = Callable[[int], int]
"""The value of a variable in a solution."""
Copies = dict[tuple[int, int], int]
"""How many replicas of an expert that has ``k``, by expert and ``k``."""


def counts_within(layer: Layer, window: Window) -> list[range]:
    """Of each expert the numbers of replicas that the window leaves."""
    most = [min(least + window.spare, layer.most_replicas) for least in window.least]
    return [range(a, b + 1) for a, b in zip(window.least, most, strict=True)]


def num_variables(layer: Layer, counts: list[range]) -> int:
    """Variables ``n`` of the program."""
    return sum(map(len, counts)) * layer.topology.num_ranks


def solve_program(
    layer: Layer, old: Phy2Log, known: MigrationResult, counts: list[range], budget: Budget
) -> MigrationResult:
    """The incumbent and the bound with what HiGHS says of the program, which asks for fewer
    receives than the incumbent's; for a layer under the global rule.
    """
    model = _Model(layer, old, known, counts)
    while True:
        budget.charge(model.program.nonzeros)
        outcome = mip.run(model.program, "scipy", budget)
        if outcome.infeasible and known.transfers is None:
            return replace(known, infeasible=True, proof="milp")
        bound = known.transfers if outcome.infeasible else outcome.bound
        if bound is not None and known.lower_bound < bound:
            known = replace(known, lower_bound=bound, proof="milp")
        covers = [] if outcome.value is None else model.covers(outcome.value)
        if outcome.limit is not None or not covers:
            break
        for cover in covers:
            model.forbid(cover)
    if outcome.value is not None:
        known = known.with_placement(layer, old, model.slots(outcome.value))
    return replace(known, limit=outcome.limit)


class _Model:
    """The program, built constraint family by constraint family."""

    def __init__(
        self, layer: Layer, old: Phy2Log, known: MigrationResult, counts: list[range]
    ) -> None:
        self.layer, self.known, self.counts = layer, known, counts
        self.program, self.size = mip.Program(), layer.topology.slots_per_rank
        self.ranks = range(layer.topology.num_ranks)
        fewer = len(old) if known.transfers is None else known.transfers - 1
        self.program.objective = self.program.variable(known.lower_bound, fewer)
        self.n: dict[tuple[int, int, int], int] = {}
        before = [Counter(rank) for rank in split_by_rank("old", old, layer.topology)]
        received = [h for e in range(len(counts)) for h in self._place(e, before)]
        self.program.add([*((h, 1.0) for h in received), (self.program.objective, -1)], 0, 0)
        self._fill_ranks()

    def _place(self, e: int, before: list[Counter[int]]) -> list[int]:
        """Every replica of an expert has a rank; the variables for where it is received."""
        program, chosen = self.program, list[int]()
        for k in self.counts[e]:
            y, most = program.variable(0, 1), 1 if self.layer.spread_replicas else min(self.size, k)
            for g in self.ranks:
                self.n[e, k, g] = j = program.variable(0, most)
                program.add([(j, 1), (y, -most)], -math.inf, 0)
            program.add([*((self.n[e, k, g], 1.0) for g in self.ranks), (y, -k)], 0, 0)
            chosen.append(y)
        program.add([(y, 1) for y in chosen], 1, 1)
        received = {g: program.variable(0, 1) for g in self.ranks if not before[g][e]}
        for g, h in received.items():
            held = [(self.n[e, k, g], 1 / min(self.size, k)) for k in self.counts[e]]
            program.add([*held, (h, -1)], -math.inf, 0)
        return list(received.values())

    def _fill_ranks(self) -> None:
        """S slots and at most the limit on each rank."""
        used = {k for own in self.counts for k in own}
        scale = scale_for(self.layer, used, largest_sum=mip.LARGEST_SUM)
        top = scale.down(self.known.makespan_limit) + ROUNDING
        for g in self.ranks:
            cells = [
                (j, scale.down(self._share(e, k))) for (e, k, at), j in self.n.items() if at == g
            ]
            self.program.add([(j, 1) for j, _ in cells], self.size, self.size)
            self.program.add([(j, share) for j, share in cells], -math.inf, top)

    def _share(self, e: int, k: int) -> Fraction:
        """Tokens of one of k replicas."""
        return Fraction(self.layer.loads[e], k) * self.layer.unit

    def covers(self, read: Read) -> list[Copies]:
        """Of each rank above the limit replicas that are too much already, of which none can be
        spared.
        """
        return [cover for cover in (self._cover(g, read) for g in self.ranks) if cover]

    def _cover(self, g: int, read: Read) -> Copies:
        held = {(e, k): read(j) for (e, k, at), j in self.n.items() if at == g and read(j)}
        share = {pair: self._share(*pair) for pair in held}
        over = sum(share[x] * times for x, times in held.items()) - self.known.makespan_limit
        if over <= 0:
            return {}
        for x in sorted(held, key=lambda x: share[x]):
            while held[x] and over > share[x]:
                held[x], over = held[x] - 1, over - share[x]
        return {x: times for x, times in held.items() if times}

    def forbid(self, cover: Copies) -> None:
        """No rank holds at least this much of each."""
        program = self.program
        for g in self.ranks:
            enough = []
            for (e, k), times in cover.items():
                j, many = self.n[e, k, g], program.variable(0, 1)
                program.add([(j, 1), (many, times - 1 - program.upper[j])], -math.inf, times - 1)
                enough.append((many, 1.0))
            program.add(enough, -math.inf, len(cover) - 1)

    def slots(self, read: Read) -> Phy2Log:
        """The placement of a solution."""
        ranks: list[list[int]] = [[] for _ in self.ranks]
        for (e, _, g), j in self.n.items():
            ranks[g] += [e] * read(j)
        return tuple(e for rank in ranks for e in rank)
