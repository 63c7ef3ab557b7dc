"""What a placement costs under optimal dispatch and a limit of traffic, computed again.

All tokens start at home. They are moved from ranks above a trial makespan to ranks below it on the
paths that take the fewest tokens off home, of these the shortest (Jewell 1958): then no shares with
this makespan have fewer tokens off home. If these are too many, a token of room on rank g would
save rho_g of them, and prices rho prove a larger makespan
(:class:`~eplb_opt.problem.evidence.LimitedCuts`), which is the next trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from eplb_opt.certificate.budget import CheckBudget, product_cost
from eplb_opt.certificate.flows import Flows
from eplb_opt.certificate.homes import require_budget_for_homes
from eplb_opt.certificate.statement import CertificateError
from eplb_opt.problem.evidence import LimitedCuts
from eplb_opt.problem.homes import find_homes
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.rationals import Integers
from eplb_opt.problem.topology import Rule

FAR = 2**60
"""Of a rank that no path reaches."""


def is_limited(layer: Layer) -> bool:
    """Whether a limit of traffic may cost something."""
    return layer.rule == Rule.HOME and layer.traffic_limit < 1 and layer.topology.num_nodes > 1


def masks_off_home(layer: Layer, phy2log: Sequence[int], budget: CheckBudget) -> list[int]:
    """[E] the ranks off each expert's home, rank g as bit g, whether or not they hold it.

    Raises:
        CertificateError: there are no homes.
    """
    topology = layer.topology
    require_budget_for_homes(layer, budget)
    homes = find_homes(layer, phy2log)
    if homes is None:
        raise CertificateError("phy2log has no homes of the groups")
    of_node = (1 << topology.ranks_per_node) - 1
    group_size = len(layer.loads) // topology.num_groups
    return [
        ~(of_node << homes[e // group_size] * topology.ranks_per_node)
        for e in range(len(layer.loads))
    ]


def limited_makespans(
    layer: Layer,
    held: Sequence[int],
    off_home: Sequence[int],
    loads: Integers,
    cuts: LimitedCuts | None,
    budget: CheckBudget,
) -> list[Fraction]:
    """[T] in the unit of ``loads`` [T, E], of experts on the ranks ``held`` [E], rank g as bit g.

    Raises:
        CertificateError: ``cuts`` do not show that it takes as much.
    """
    num_ranks, limit = layer.topology.num_ranks, layer.traffic_limit
    paths = _Paths(held, off_home, num_ranks, budget)
    if cuts is None:
        free = Flows(held, num_ranks, budget).makespans(loads, None)
        rows = zip(loads.tolist(), free, strict=True)
        return [paths.makespan([int(w) for w in row], least, limit) for row, least in rows]
    if not len(cuts.prices) == len(cuts.traffic_prices) == len(loads):
        raise CertificateError(f"{len(cuts.prices)} cuts of {len(loads)} steps")
    found = []
    for t, listed in enumerate(loads.tolist()):
        row, prices, of_traffic = [int(w) for w in listed], cuts.prices[t], cuts.traffic_prices[t]
        if len(prices) != num_ranks or min(*prices, of_traffic) < 0:
            raise CertificateError(f"cut {t} is not {num_ranks} prices that are not negative")
        proven = paths.proven(row, prices, of_traffic, limit)
        moved = paths.fewest_away(row, proven)
        if moved is None or moved[0] > limit * sum(row) * proven.denominator:
            raise CertificateError(f"the prices of cut {t} do not prove the makespan of its step")
        found.append(proven)
    return found


class _Paths:
    """A placement, by the ranks ``held`` [E] of each expert and those ``off_home`` [E]."""

    def __init__(
        self, held: Sequence[int], off_home: Sequence[int], num_ranks: int, budget: CheckBudget
    ) -> None:
        budget.charge(1 + len(held) * num_ranks // 8)
        self.num_ranks, self.budget = num_ranks, budget
        self.away = [
            {g: off >> g & 1 for g in range(num_ranks) if mask >> g & 1}
            for mask, off in zip(held, off_home, strict=True)
        ]
        """[E] whether each rank of an expert is off its home."""
        self.shared = [e for e, ranks in enumerate(self.away) if len(ranks) > 1]
        self.known: dict[tuple[tuple[int, ...], int], list[int]] = {}
        """[E] what a token costs at prices."""

    def proven(
        self, row: Sequence[int], prices: tuple[int, ...], of_traffic: int, limit: Fraction
    ) -> Fraction:
        """No makespan of a step is less, with prices of a token on each rank and off home."""
        longest = max(*prices, of_traffic).bit_length()
        weight = product_cost(max(row).bit_length(), longest + 64)
        self.budget.charge(8 + len(row) * weight)
        if (prices, of_traffic) not in self.known:
            self.budget.charge(len(row) + sum(map(len, self.away)))
            self.known[prices, of_traffic] = [
                min((prices[g] + of_traffic * off for g, off in ranks.items()), default=0)
                for ranks in self.away
            ]
        worth = sum(w * price for w, price in zip(row, self.known[prices, of_traffic], strict=True))
        return max(Fraction(0), (worth - of_traffic * limit * sum(row)) / (sum(prices) or 1))

    def makespan(self, row: Sequence[int], least: Fraction, limit: Fraction) -> Fraction:
        """Of a step, which takes ``least`` without a limit."""
        trial = least
        while True:
            moved = self.fewest_away(row, trial)
            if moved is None:
                raise ValueError(f"least={least} is below the makespan without a limit")
            away, flow = moved
            if away <= limit * sum(row) * trial.denominator:
                return trial
            length, _ = self._search(flow, range(self.num_ranks))
            saved = tuple(max(0, -(steps // (2 * self.num_ranks))) for steps in length)
            trial = self.proven(row, saved, 1, limit)

    def fewest_away(
        self, row: Sequence[int], makespan: Fraction
    ) -> tuple[int, list[dict[int, int]]] | None:
        """The fewest tokens off home, and what each of ``shared`` sends to its ranks; None if a
        makespan is too small. In units of ``1 / makespan.denominator``.
        """
        bits, of_scale = max(row).bit_length(), makespan.denominator.bit_length()
        weight = product_cost(bits, of_scale) + (bits + of_scale) // 2048
        self.budget.charge(2 * len(row) * weight)
        most, scale = makespan.as_integer_ratio()
        load, flow = [0] * self.num_ranks, []
        for e, ranks in enumerate(self.away):
            at_home = [g for g, off in ranks.items() if not off]
            part, rest = divmod(row[e] * scale, len(at_home))
            sent = dict.fromkeys(ranks, 0) | dict.fromkeys(at_home, part)
            sent[at_home[0]] += rest
            for g, tokens in sent.items():
                load[g] += tokens
            if len(ranks) > 1:
                flow.append(sent)
        while any(tokens > most for tokens in load):
            self.budget.charge((16 + self.num_ranks // 2) * weight)
            starts = [g for g, tokens in enumerate(load) if tokens > most]
            length, via = self._search(flow, starts)
            ends = [g for g, tokens in enumerate(load) if tokens < most and length[g] < FAR]
            if not ends:
                return None
            g = end = min(ends, key=length.__getitem__)
            path = []
            while (step := via[g]) is not None:
                path.append((*step, g))
                g = step[0]
            moved = min(load[g] - most, most - load[end], *(flow[i][a] for a, i, _ in path))
            for a, i, b in path:
                flow[i][a] -= moved
                flow[i][b] += moved
            load[g] -= moved
            load[end] += moved
        away = sum(
            tokens
            for e, sent in zip(self.shared, flow, strict=True)
            for g, tokens in sent.items()
            if self.away[e][g]
        )
        return away, flow

    def _search(
        self, flow: Sequence[dict[int, int]], starts: Iterable[int]
    ) -> tuple[list[int], list[tuple[int, int] | None]]:
        """The length of the shortest path from ``starts`` to each rank, 2 G for a token off home
        and 1 for each step; and the last step, by (rank, expert). Bellman and Ford.
        """
        length: list[int] = [FAR] * self.num_ranks
        via: list[tuple[int, int] | None] = [None] * self.num_ranks
        for g in starts:
            length[g] = 0
        shorter = True
        while shorter:
            self.budget.charge(8 + 2 * sum(map(len, flow)))
            shorter = False
            for i, (e, sent) in enumerate(zip(self.shared, flow, strict=True)):
                off = self.away[e]
                at = [(length[a] - 2 * self.num_ranks * off[a], a) for a in sent if sent[a]]
                near, a = min((pair for pair in at if length[pair[1]] < FAR), default=(FAR, -1))
                for b in sent if near < FAR else ():
                    through = near + 2 * self.num_ranks * off[b] + 1
                    if b != a and through < length[b]:
                        length[b], via[b], shorter = through, (a, i), True
        return length, via
