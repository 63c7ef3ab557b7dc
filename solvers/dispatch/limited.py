r"""Optimal dispatch with few tokens off home: the rule ``home`` and its limit X of traffic.

With makespan M let tau(M) be the fewest tokens that can be off home, a flow of least cost. It is
convex, and by duality, with W tokens in all and ``away[e, g] = 1`` where rank g is off e's home,

    tau(M) = max over integers rho >= 0 of  sum over e of w_e min over ranks g of e of
             (away[e, g] + rho_g)  -  M sum over g of rho_g.

The makespan is the least M, not below that without a limit, with ``tau(M) <= X W``. Newton steps
find it: an M that is too small has prices rho, whose line reaches X W at the next M. The prices of
the last step prove it. Prices of steps before come first: they often hold again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.homes import find_homes
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.rationals import Integers, integer_array, widen
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import NO_HOME
from solvers.dispatch.cheapest import compiled_send_cheapest, send_cheapest
from solvers.dispatch.classes import classes_of, holders
from solvers.dispatch.optimal import UNCOMPILED_PAIRS, optimal_makespans
from solvers.dispatch.shares import BestShares, best_shares_anywhere, check_slots

KNOWN_PRICES = 8
"""Of steps before."""

Prices = tuple[int, ...]


@dataclass(frozen=True)
class Flow:
    """Tokens in units of ``unit`` loads.

    Attributes:
        sent: [pairs] from expert to rank.
        away: off home.
        prices: [G] rho.
    """

    unit: Fraction
    sent: list[int]
    away: int
    prices: Prices


@dataclass(frozen=True)
class LimitedMakespans:
    """Of T steps, in the unit of the loads.

    Attributes:
        values: [T].
        prices: [T] rho [G]: those of a set of ranks, 1 on each, where no limit is felt.
        traffic_prices: [T] 1 where the limit holds the makespan up, else 0.
        away: [T] fewest tokens off home with this makespan.
    """

    values: list[Fraction]
    prices: list[Prices]
    traffic_prices: list[int]
    away: list[Fraction]


@dataclass(frozen=True)
class Sharing:
    """Which ranks may serve the experts of a placement, and which of them are off home.

    Attributes:
        loads: [T, E].
        held: [E, G] bool.
        off_home: [E, G] bool.
    """

    loads: Integers
    held: NDArray[np.bool_]
    off_home: NDArray[np.bool_]

    @cached_property
    def several(self) -> NDArray[np.int64]:
        """[n] experts on two or more ranks."""
        return np.flatnonzero(self.held.sum(axis=1) > 1)

    @cached_property
    def pairs(self) -> tuple[list[int], list[int], list[int]]:
        """Of each pair of an expert of ``several`` and a rank: the expert's number there, the rank,
        and 1 if that is off home; ascending.
        """
        held = self.held[self.several]
        expert, rank = np.nonzero(held)
        away = self.off_home[self.several][held].astype(int)
        return expert.tolist(), rank.tolist(), away.tolist()

    @cached_property
    def columns(self) -> Integers:
        """[T, G + n] load of the experts on each rank alone, then of each of ``several``."""
        alone = self.held.sum(axis=1) == 1
        loads = widen(self.loads, self.loads.shape[1])
        base = [loads[:, alone & on_rank].sum(axis=1) for on_rank in self.held.T]
        return np.stack([*base, *loads[:, self.several].T], axis=1)

    @cached_property
    def still_away(self) -> list[int]:
        """[T] tokens of experts on one rank, off home: 0 but for placements without homes."""
        alone = self.held.sum(axis=1) == 1
        away = (self.held & self.off_home).any(axis=1) & alone
        return [int(tokens) for tokens in self.loads[:, away].astype(object).sum(axis=1)]

    @property
    def num_ranks(self) -> int:
        """G."""
        return int(self.held.shape[1])

    def cheapest(self, t: int, makespan: Fraction) -> Flow:
        """Of step t with this makespan, which is not below the one without a limit."""
        scale, G = makespan.denominator, self.num_ranks
        row, pairs = self._rows[t], self.pairs
        amounts: Any = (
            [load * scale for load in row[G:]],
            [makespan.numerator - load * scale for load in row[:G]],
            [0] * len(pairs[0]),
        )
        of: Any = pairs
        prices: Any = [0] * G
        send: Any = send_cheapest
        if len(self.loads) * len(pairs[0]) >= UNCOMPILED_PAIRS and makespan.numerator * G < 2**63:
            amounts = [np.array(part, dtype=np.int64) for part in amounts]
            of, prices, send = self._compiled_pairs, np.zeros(G, np.int64), compiled_send_cheapest()
        send(*amounts, *of, prices)
        sent = [int(tokens) for tokens in amounts[2]]
        away = sum(tokens for tokens, off in zip(sent, pairs[2], strict=True) if off)
        away += self.still_away[t] * scale
        return Flow(Fraction(1, scale), sent, away, tuple(int(price) for price in prices))

    def worth(self, t: int, prices: Prices) -> int:
        """Sum over e of w_e min over its ranks g of (away[e, g] + rho_g)."""
        least: dict[int, int] = {}
        for e, g, off in zip(*self.pairs, strict=True):
            least[e] = min(off + prices[g], least.get(e, off + prices[g]))
        row, G = self._rows[t], self.num_ranks
        alone = sum(price * load for price, load in zip(prices, row, strict=False))
        return alone + self.still_away[t] + sum(row[G + e] * price for e, price in least.items())

    def total(self, t: int) -> int:
        """W."""
        return sum(self._rows[t])

    @cached_property
    def _rows(self) -> list[list[int]]:
        rows: list[list[int]] = self.columns.tolist()
        return rows

    @cached_property
    def _compiled_pairs(self) -> list[NDArray[np.int64]]:
        return [np.array(part, dtype=np.int64) for part in self.pairs]


def sharing_of(
    layer: Layer, phy2log: Sequence[int], loads: Integers, *, present: bool = True
) -> Sharing:
    """The ranks of a placement's experts; ``present`` as of :func:`find_homes`.

    Raises:
        ValueError: not P slots, or no homes.
    """
    check_slots(layer, phy2log)
    homes = find_homes(layer, phy2log, present=present)
    if homes is None:
        raise ValueError(f"phy2log is no valid placement: {NO_HOME}")
    topology, num_experts = layer.topology, len(layer.loads)
    home = np.repeat(homes, num_experts // topology.num_groups)
    node = np.arange(topology.num_ranks) // topology.ranks_per_node
    return Sharing(loads, holders(phy2log, num_experts, topology.num_ranks), home[:, None] != node)


def is_limited(layer: Layer) -> bool:
    """Whether a limit of traffic may cost something."""
    return layer.rule == Rule.HOME and layer.traffic_limit < 1 and layer.topology.num_nodes > 1


def limited_makespans(sharing: Sharing, limit: Fraction) -> LimitedMakespans:
    """Exact, in integers of any size; ``limit`` is X."""
    free = optimal_makespans(classes_of(sharing.loads, sharing.held))
    found = LimitedMakespans([], [], [], [])
    known: list[Prices] = []
    for t, makespan in enumerate(free.values):
        proof = tuple(free.critical[t].astype(int).tolist())
        most, felt = limit * sharing.total(t), 0
        for prices in known:
            reached = (sharing.worth(t, prices) - most) / sum(prices)
            if reached > makespan:
                makespan, proof, felt = reached, prices, 1
        while (flow := sharing.cheapest(t, makespan)).away * flow.unit > most:
            proof, felt = flow.prices, 1
            makespan = (sharing.worth(t, proof) - most) / sum(proof)
        if felt:
            known = [proof, *(prices for prices in known if prices != proof)][:KNOWN_PRICES]
        found.values.append(makespan)
        found.prices.append(proof)
        found.traffic_prices.append(felt)
        found.away.append(flow.away * flow.unit)
    return found


def best_shares(layer: Layer, phy2log: Sequence[int]) -> BestShares:
    """The token split of ``phy2log`` [P] that minimizes the largest rank load; under the rule
    ``home`` one with the least traffic, which meets the layer's limit. Exact.

    Raises:
        ValueError: ``phy2log`` has not P entries, an expert with load has no slot, or there are no
            homes.
    """
    if layer.rule != Rule.HOME:
        return best_shares_anywhere(layer, phy2log)
    loads = integer_array([layer.loads])
    sharing = sharing_of(layer, phy2log, loads)
    found = limited_makespans(sharing, layer.traffic_limit)
    inside = {g for g, price in enumerate(found.prices[0]) if price}
    ranks = [set(np.flatnonzero(row).tolist()) for row in sharing.held]
    critical = frozenset(e for e, held in enumerate(ranks) if held and held <= inside)
    tokens = [{min(held): layer.loads[e] * layer.unit} for e, held in enumerate(ranks)]
    flow, (expert, rank, _) = sharing.cheapest(0, found.values[0]), sharing.pairs
    for e in sharing.several.tolist():
        tokens[e] = {}
    for i, g, sent in zip(expert, rank, flow.sent, strict=True):
        if sent:
            tokens[sharing.several[i]][g] = sent * flow.unit * layer.unit
    return BestShares(
        found.values[0] * layer.unit,
        frozenset() if found.traffic_prices[0] else critical,
        tuple({g: part for g, part in row.items() if part} for row in tokens),
    )
