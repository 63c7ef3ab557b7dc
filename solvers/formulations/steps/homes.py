r"""The rule ``home`` in a model, for any engine: rows over z[k,n], 1 where group k is at home on n.

Every expert has a replica at home, ``sum_{g in n} (replicas of e on g) >= z[group of e, n]``.

**The limit X under** ``even`` **dispatch.** With r[e,k,n] replicas on node n of an expert that has
k, of which a[e,k,n] count as at home,

    a[e,k,n] <= r[e,k,n],  a[e,k,n] <= k z[group of e, n]
    sum_{e,k,n} (w_e / k) a[e,k,n] >= (1 - X) sum_e w_e

**Under** ``optimal`` **and** ``fixed`` **dispatch** tokens f[e,g] count as at home in the same way.
But there the homes are those of the least traffic with replicas alike, the lexicographically least
of equal ones, and shares are limited for these. A solution whose z is not the homes h of its
placement is cut off: with tokens at home H(z) = sum of (w_e / k) r[e,k,z] over the groups where z
and h differ,

    H(z) >= H(h)        if all their experts are present at h   (greater, where h comes before z)

and where rounding hides this, by its numbers of replicas on nodes.
Weights that had to be rounded are rounded so that no placement within the limit is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

from eplb_opt.problem.homes import find_homes
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Dispatch
from eplb_opt.problem.topology import Rule
from solvers.scaling import Scale, scale_for

LARGEST_WEIGHT = 2**30
"""Tokens of a row in CP-SAT, in scaled units, at most: with weights from 2^39 on its presolve was
seen to lose the optimum of a layer of 3 experts (OR-Tools 9.15), and to claim another one's bound.
"""
Variable = Any
"""Whatever the engine calls one."""
Terms = list[tuple[Variable, float]]
"""A sum of variables with coefficients."""


Changes = tuple[tuple[int, int, int], ...]
"""Groups, the node of each, and a better one."""


class Rows(Protocol):
    """A model that is built row by row."""

    def variable(self, lower: int, upper: int) -> Variable:
        """A new integer variable."""

    def add(self, terms: Terms, low: float, high: float) -> None:
        """``low <= sum of coefficient * variable <= high``."""


def limits_shares(layer: Layer, dispatch: Dispatch) -> bool:
    """Whether the layer has a limit of traffic that is one of shares, not of the placement."""
    return layer.rule == Rule.HOME and layer.traffic_limit < 1 and dispatch != Dispatch.EVEN


def by_node(layer: Layer, row: Sequence[Variable]) -> list[Sequence[Variable]]:
    """What is there for each rank, [G], by node."""
    per_node = layer.topology.ranks_per_node
    return [row[i : i + per_node] for i in range(0, len(row), per_node)]


def keep_at_home(
    rows: Rows,
    layer: Layer,
    node: Sequence[Sequence[Variable]],
    replicas: Mapping[int, Sequence[Sequence[Variable]]],
) -> None:
    """Every expert in ``replicas`` has one at home; those on a rank are a sum of variables there,
    for each expert rows [G].
    """
    size = len(layer.groups[0])
    for e, parts in replicas.items():
        there = [by_node(layer, row) for row in parts]
        for n, z in enumerate(node[e // size]):
            rows.add([*((j, 1) for part in there for j in part[n]), (z, -1)], 0, math.inf)


def tokens_at_home(
    rows: Rows,
    layer: Layer,
    node: Sequence[Sequence[Variable]],
    replicas: Mapping[tuple[int, int], Sequence[Variable]],
    largest_sum: int,
) -> tuple[Terms, Scale]:
    """What is served at home under ``even`` dispatch, at most: in units of the scale, no less than
    it is. ``replicas[e, k]`` [G] are those on the ranks of an expert that has k.
    """
    scale = scale_for(layer, {k for _, k in replicas}, largest_sum=largest_sum)
    size, served = len(layer.groups[0]), Terms()
    for (e, k), row in replicas.items():
        weight = scale.up(Fraction(layer.loads[e], k) * layer.unit)
        for own, z in zip(by_node(layer, row), node[e // size], strict=True):
            at_home = rows.variable(0, k)
            rows.add([(at_home, 1), *((j, -1) for j in own)], -math.inf, 0)
            rows.add([(at_home, 1), (z, -k)], -math.inf, 0)
            served.append((at_home, weight))
    return served, scale


def limit_replicas(
    rows: Rows,
    layer: Layer,
    node: Sequence[Sequence[Variable]],
    replicas: Mapping[tuple[int, int], Sequence[Variable]],
    largest_sum: int,
) -> None:
    """The limit under ``even`` dispatch; see :func:`tokens_at_home`."""
    if layer.traffic_limit == 1:
        return
    served, scale = tokens_at_home(rows, layer, node, replicas, largest_sum)
    needed = (1 - layer.traffic_limit) * sum(layer.loads) * layer.unit
    rows.add(served, scale.up(needed), math.inf)


class Homes:
    """Where shares are limited: all replicas, which decide the homes, and cuts for these.

    Attributes:
        replicas: m[e][g] on each rank, of which there is one or more where x[e][g] is 1.
    """

    def __init__(
        self,
        rows: Rows,
        layer: Layer,
        node: Sequence[Sequence[Variable]],
        x: Sequence[Sequence[Variable]],
        largest_sum: int,
    ) -> None:
        """Every slot is filled; ``x`` [E][G] are bools."""
        self.rows, self.layer, self.node = rows, layer, node
        self.scale = scale_for(layer, range(1, layer.most_replicas + 1), largest_sum=largest_sum)
        self.preferred: set[Changes] = set()
        self.excluded: set[tuple[Changes, tuple[int, ...]]] = set()
        slots = layer.topology.slots_per_rank
        most = 1 if layer.spread_replicas else slots
        self.replicas = [[rows.variable(0, most) for _ in row] for row in x]
        for held, row in zip(self.replicas, x, strict=True):
            for m, j in zip(held, row, strict=True):
                rows.add([(m, 1), (j, -1)], 0, math.inf)
                rows.add([(m, 1), (j, -most)], -math.inf, 0)
        for g in range(layer.topology.num_ranks):
            rows.add([(held[g], 1) for held in self.replicas], slots, slots)
        self.present = [self._presence(row) for row in self.replicas]
        self.shares = [self._shares(e, row) for e, row in enumerate(self.replicas)]

    def _presence(self, row: Sequence[Variable]) -> list[Variable]:
        """[N] whether an expert has a replica on the node."""
        present = []
        for own in by_node(self.layer, row):
            present.append(self.rows.variable(0, 1))
            here: Terms = [(m, 1) for m in own]
            self.rows.add([*here, (present[-1], -1)], 0, math.inf)
            self.rows.add([*here, (present[-1], -self.layer.topology.slots_per_node)], -math.inf, 0)
        return present

    def _shares(self, expert: int, row: Sequence[Variable]) -> dict[int, list[Variable]]:
        """r[k][n] replicas on the node of an expert with load that has k of them."""
        if not self.layer.loads[expert]:
            return {}
        add, nodes = self.rows.add, range(self.layer.topology.num_nodes)
        counts = range(1, self.layer.most_replicas + 1)
        chosen = {k: self.rows.variable(0, 1) for k in counts}
        shares = {k: [self.rows.variable(0, k) for _ in nodes] for k in counts}
        add([(y, 1) for y in chosen.values()], 1, 1)
        for k, y in chosen.items():
            add([*((r, 1) for r in shares[k]), (y, -k)], 0, 0)
        for n, own in enumerate(by_node(self.layer, row)):
            add([*((m, 1) for m in own), *((r[n], -1) for r in shares.values())], 0, 0)
        return shares

    def correct(self, phy2log: Sequence[int], homes: Sequence[int]) -> bool:
        """Cut off the placement with ``homes`` [K], if they are not those of the placement; False
        if nothing was to be cut, or cannot be.
        """
        better = find_homes(self.layer, phy2log)
        if better is None:
            return False
        pairs = enumerate(zip(homes, better, strict=True))
        changes = tuple((k, mine, other) for k, (mine, other) in pairs if mine != other)
        slots = tuple(phy2log)
        if not changes or (changes, slots) in self.excluded:
            return False
        if changes in self.preferred:
            self.excluded.add((changes, slots))
            self._exclude(changes, slots)
        else:
            self.preferred.add(changes)
            self._prefer(changes)
        return True

    def _exclude(self, changes: Changes, phy2log: tuple[int, ...]) -> None:
        """Where rounding hides that others are better: no such homes with as many replicas of the
        groups' experts on each node.
        """
        per_node, terms = self.layer.topology.slots_per_node, Terms()
        for k, mine, _ in changes:
            terms.append((self.node[k][mine], -1))
            for e in self.layer.groups[k]:
                for n, own in enumerate(by_node(self.layer, self.replicas[e])):
                    here = phy2log[n * per_node : (n + 1) * per_node].count(e)
                    more, fewer = self.rows.variable(0, 1), self.rows.variable(0, 1)
                    held: Terms = [(m, 1) for m in own]
                    self.rows.add([*held, (more, -here - 1)], 0, math.inf)
                    room = per_node - here + 1
                    self.rows.add([*held, (fewer, room)], -math.inf, per_node)
                    terms += [(more, 1), (fewer, 1)]
        self.rows.add(terms, 1 - len(changes), math.inf)

    def _prefer(self, changes: Changes) -> None:
        """For ``changes`` (group, home, better home): the home is as good, or is not one, or an
        expert is not present at the better one.
        """
        terms, groups = Terms(), self.layer.groups
        _, home, other = changes[0]
        least = int(other < home and self.scale.exact)
        enough = least + self.scale.up(sum(self.layer.loads) * self.layer.unit)
        for k, mine, better in changes:
            terms.append((self.node[k][mine], -enough))
            least -= enough
            for e in groups[k]:
                terms.append((self.present[e][better], -enough))
                least -= enough
                for count, shares in self.shares[e].items():
                    part = Fraction(self.layer.loads[e], count) * self.layer.unit
                    terms.append((shares[mine], self.scale.up(part)))
                    terms.append((shares[better], -self.scale.down(part)))
        self.rows.add(terms, least, math.inf)

    def placement(self, read: Callable[[Variable], int]) -> tuple[int, ...]:
        """The placement [P] of a solution."""
        return tuple(
            e
            for g in range(self.layer.topology.num_ranks)
            for e, row in enumerate(self.replicas)
            for _ in range(read(row[g]))
        )
