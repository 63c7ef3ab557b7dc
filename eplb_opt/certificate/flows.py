"""The makespan of each step under optimal dispatch, by flows, where ranks have too many sets.

Tokens of experts on one rank stay there. All others are moved from ranks above a trial makespan to
ranks below it, on shortest paths (Edmonds, Karp, J. ACM 19 (1972) 248). If that does not succeed,
the ranks that can be reached from one above it hold experts that are on no other rank, of more than
the trial makespan for each: their ratio is the next trial. A trial is never above the makespan, so
it is the makespan when all tokens fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.certificate.budget import CheckBudget
from eplb_opt.problem.rationals import Integers, widen


class Flows:
    """A placement, by the ranks ``held`` [E] of each expert, rank g as bit g."""

    def __init__(self, held: Sequence[int], num_ranks: int, budget: CheckBudget) -> None:
        budget.charge(1 + len(held) * num_ranks // 8)
        self.num_ranks, self.budget = num_ranks, budget
        masks: dict[int, list[int]] = {}
        for e, mask in enumerate(held):
            masks.setdefault(mask, []).append(e)
        ranks = {mask: [g for g in range(num_ranks) if mask >> g & 1] for mask in masks}
        self.alone = {row[0]: masks[mask] for mask, row in ranks.items() if len(row) == 1}
        """Experts on one rank, by that."""
        self.shared = [masks[mask] for mask, row in ranks.items() if len(row) > 1]
        """Experts on the same ranks, and those ranks."""
        self.ranks = [row for row in ranks.values() if len(row) > 1]
        self.on: list[list[int]] = [[] for _ in range(num_ranks)]
        for i, row in enumerate(self.ranks):
            for g in row:
                self.on[g].append(i)
        self.arcs = num_ranks + sum(map(len, self.ranks))

    def makespans(self, loads: Integers, least: Sequence[Fraction] | None) -> list[Fraction]:
        """[T] in the unit of ``loads`` [T, E]; ``least`` [T] are lower bounds on them."""
        loads = widen(loads, loads.shape[1])
        longest = int(loads.max(initial=0)).bit_length()
        weight = 1 + longest // 4096
        self.budget.charge(loads.size * weight // (4 if loads.dtype == object else 64))
        still: NDArray[Any] = np.zeros((len(loads), self.num_ranks), dtype=loads.dtype)
        for g, experts in self.alone.items():
            still[:, g] = loads[:, experts].sum(axis=1)
        supply = [loads[:, experts].sum(axis=1) for experts in self.shared]
        listed = np.array(supply, dtype=loads.dtype).reshape(-1, len(loads)).T.tolist()
        rows = zip(still.tolist(), listed, strict=True)
        return [
            self._makespan(base, supply, Fraction(0) if least is None else least[t], weight)
            for t, (base, supply) in enumerate(rows)
        ]

    def _makespan(
        self, base: list[int], supply: list[int], least: Fraction, weight: int
    ) -> Fraction:
        trial = max(Fraction(sum(base) + sum(supply), self.num_ranks), Fraction(max(base)), least)
        while reached := self._reached(base, supply, trial, weight):
            inside = sum(base[g] for g in reached) + sum(
                w for w, ranks in zip(supply, self.ranks, strict=True) if reached.issuperset(ranks)
            )
            trial = Fraction(inside, len(reached))
        return trial

    def _reached(
        self, base: list[int], supply: list[int], trial: Fraction, weight: int
    ) -> set[int]:
        """No ranks if all tokens fit below ``trial`` on each; else those that cannot be relieved.

        In units of ``1 / trial.denominator``, from an even split on.
        """
        self.budget.charge(self.arcs * weight // 2)
        limit, scale = trial.numerator, trial.denominator
        load = [b * scale for b in base]
        flow: list[dict[int, int]] = []
        for w, ranks in zip(supply, self.ranks, strict=True):
            part, rest = divmod(w * scale, len(ranks))
            flow.append(dict.fromkeys(ranks, part))
            flow[-1][ranks[0]] += rest
            for g, tokens in flow[-1].items():
                load[g] += tokens
        while any(tokens > limit for tokens in load):
            self.budget.charge((4 + self.num_ranks // 8) * weight)
            came_from, end = self._search(load, flow, limit)
            self.budget.charge(sum(len(self.on[g]) for g in came_from) * weight // 4)
            if end is None:
                return set(came_from)
            path, g = [], end
            while (step := came_from[g]) is not None:
                path.append((*step, g))
                g = step[0]
            moved = min(load[g] - limit, limit - load[end], *(flow[i][a] for a, i, _ in path))
            for a, i, b in path:
                flow[i][a] -= moved
                flow[i][b] += moved
            load[g] -= moved
            load[end] += moved
        return set()

    def _search(
        self, load: list[int], flow: list[dict[int, int]], limit: int
    ) -> tuple[dict[int, tuple[int, int] | None], int | None]:
        """How each rank was reached, by (rank, expert), from ranks above ``limit``; and the first
        rank found below it.
        """
        queue = [g for g, tokens in enumerate(load) if tokens > limit]
        came_from: dict[int, tuple[int, int] | None] = dict.fromkeys(queue)
        seen: set[int] = set()
        for g in queue:  # grows
            for i in self.on[g]:
                if i in seen or not flow[i][g]:
                    continue
                seen.add(i)
                for h in self.ranks[i]:
                    if h not in came_from:
                        came_from[h] = (g, i)
                        queue.append(h)
                        if load[h] < limit:
                            return came_from, h
        return came_from, None
