"""Which ranks hold which expert: the placements of least cost under ``optimal`` dispatch.

Under this rule a second copy of an expert on a rank is wasted, so every rank holds different
experts, and what counts is the set of ranks N(e) of each. Expert by expert, the heaviest first, the
search chooses N(e). With the sets of the first experts chosen, in step t, for every set U of ranks,

    m_t >= (w_t{chosen e : N(e) within U} + the lightest k of the others) / |U|,

where k is by how many the others are more than the slots still free outside of U: so many of them
are within U altogether. For U of all ranks that is the mean. With all experts chosen the largest of
them is m_t (max-flow min-cut). The others alone give a bound as well: any i of them are on no more
than i + r ranks, with r slots left for second copies.

Nodes follow one another, each with its own experts, and meet only in the makespan of each step.
Ranks of a node with the same experts so far are alike: the first of them are taken first. Of equal
experts the earlier one has the lexicographically larger set. Both hold together for the placement
whose table of experts by ranks is lexicographically largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.topology import Topology
from solvers.arrays import Integers
from solvers.compiled import compiled
from solvers.model_size import TooLargeError, require_table
from solvers.tree_search.splitting import EXHAUSTED, FOUND, PAUSED
from solvers.tree_search.steps_fixed import Prices, excludes, new_prices
from solvers.tree_search.steps_scale import NOTHING, ScaledSteps, over

MOST_RANKS = 12
"""In a node: every set of them has its own sums."""

LEVEL = 0
LEAF_STAGES = 6
PRICE_WORK = 20
"""Work that a bound by prices counts for."""


class RankSets(NamedTuple):
    """Where the search stands: level j chooses the ranks of expert j; nodes one after the other.

    A set of ranks of a node is a number below 2^R; the first rank has the highest bit. Tokens are
    in scaled units, makespans ``lcm(1..R)`` times as large.

    Attributes:
        loads: [E, T] tokens.
        twin: [E] 1 if the expert has the loads of the one before, in the same node.
        weights: [k] of the largest, second largest, .. makespan.
        factor: [2^R] lcm(1..R) / |U|; 0 for no ranks.
        members: [2^R] |U|.
        light: [E, n, T] tokens of the lightest 0, 1, .. experts of the node after expert j.
        rest: [E, r + 1, T] makespans that the experts after j cause by themselves, with 0, 1, ..
            slots left for second copies in the node.
        inside: [E + 1, 2^R, T] tokens of the chosen experts whose ranks are within U.
        reached: [E + 1, T] makespans of the nodes before.
        free: [E + 1, R] slots left on each rank.
        spare: [E + 1] slots left for second copies in the node.
        alike: [E + 1] ranks that hold what the rank before holds.
        options: [E, 2^R] sets for expert j, the one of the least bound first.
        bounds: [E, 2^R] on the objective with each of them.
        number: [E] how many there are.
        following: [E] which of them is next.
        chosen: [E] the set in hand.
        counters: [1] the level.
    """

    loads: Integers
    twin: Integers
    weights: Integers
    factor: Integers
    members: Integers
    light: Integers
    rest: Integers
    inside: Integers
    reached: Integers
    free: Integers
    spare: Integers
    alike: Integers
    options: Integers
    bounds: Integers
    number: Integers
    following: Integers
    chosen: Integers
    counters: Integers

    def ranks(self) -> NDArray[np.bool_]:
        """[E, R] whether the expert is on the rank of its node."""
        R = self.free.shape[1]
        held: NDArray[np.bool_] = (self.chosen[:, None] >> np.arange(R - 1, -1, -1)) & 1 == 1
        return held

    def open_bound(self) -> int:
        """The least bound of what is left."""
        levels = range(int(self.counters[LEVEL]) + 1)
        todo = [j for j in levels if self.following[j] < self.number[j]]
        return min((int(self.bounds[j, self.following[j]]) for j in todo), default=NOTHING)


def require_few_ranks(ranks: int) -> None:
    """Refuse more than 12 ranks in a node.

    Raises:
        TooLargeError: there are more.
    """
    if ranks > MOST_RANKS:
        raise TooLargeError(
            f"{ranks} ranks in a node are too many for a search over sets of ranks (at most "
            f"{MOST_RANKS}): use backend='auto'"
        )


def new_rank_sets(
    loads: Integers,
    twin: Integers,
    weights: Integers,
    num_nodes: int,
    ranks_per_node: int,
    slots_per_rank: int,
) -> RankSets:
    """The search at its root.

    Args:
        loads: [E, T] tokens, experts node by node.
        twin: [E] 1 if the expert has the loads of the one before, in the same node.
        weights: [k] of the makespans.
        num_nodes: N.
        ranks_per_node: R.
        slots_per_rank: of different experts; no more than a node has experts.

    Raises:
        TooLargeError: the tables would be too large.
    """
    (E, T), R = loads.shape, ranks_per_node
    n, sets = E // num_nodes, 1 << R
    require_table("a search over sets of ranks", (E + 1) * T, sets + n)
    spare = R * slots_per_rank - n
    members = np.array([mask.bit_count() for mask in range(sets)])
    multiple = math.lcm(*range(1, R + 1))
    light, rest = tables_of_rest(loads, n, R, spare, multiple)
    tree = RankSets(
        loads=np.ascontiguousarray(loads),
        twin=twin,
        weights=weights,
        factor=np.where(members > 0, multiple // np.maximum(members, 1), 0),
        members=members,
        light=light,
        rest=rest,
        inside=np.zeros((E + 1, sets, T), np.int64),
        reached=np.zeros((E + 1, T), np.int64),
        free=np.full((E + 1, R), slots_per_rank),
        spare=np.full(E + 1, spare),
        alike=np.full(E + 1, (1 << (R - 1)) - 1),
        options=np.zeros((E, sets), np.int64),
        bounds=np.zeros((E, sets), np.int64),
        number=np.zeros(E, np.int64),
        following=np.zeros(E, np.int64),
        chosen=np.zeros(E, np.int64),
        counters=np.zeros(1, np.int64),
    )
    list_options(tree, 0)
    return tree


def tables_of_rest(
    loads: Integers, n: int, R: int, spare: int, multiple: int
) -> tuple[Integers, Integers]:
    """``light`` and ``rest`` of :class:`RankSets`; n experts a node, of R ranks."""
    E, T = loads.shape
    light = np.zeros((E, n, T), np.int64)
    rest = np.zeros((E, spare + 1, T), np.int64)
    later = np.zeros(T, np.int64)  # what the nodes after cause
    for j in range(E - 1, -1, -1):
        end = (j // n + 1) * n
        rising = np.sort(loads[j + 1 : end], axis=0)
        light[j, 1 : end - j] = np.cumsum(rising, axis=0)
        rest[j] = np.maximum(later, _alone(rising, R, spare, multiple))
        if j % n == 0:
            whole = np.sort(loads[j:end], axis=0)
            mean = whole.sum(axis=0) * (multiple // R)
            later = np.maximum(later, np.maximum(mean, _alone(whole, R, spare, multiple)[spare]))
    return light, rest


def _alone(rising: Integers, R: int, spare: int, multiple: int) -> Integers:
    """[spare + 1, T] makespans that experts [i, T] cause, with 0, 1, .. slots for second copies."""
    heaviest = np.cumsum(rising[::-1], axis=0)
    found = np.zeros((spare + 1, rising.shape[1]), np.int64)
    for r in range(spare + 1):
        for i, tokens in enumerate(heaviest, 1):
            found[r] = np.maximum(found[r], tokens * (multiple // min(R, i + r)))
    return found


@compiled
def makespans_with(tree: RankSets, level: int, mask: int, found: Integers) -> None:
    """Lower bounds on the makespans with the expert of ``level`` on the ranks ``mask``.

    Args:
        tree: where the search stands.
        level: the expert.
        mask: its ranks.
        found: [T] makespans; written.
    """
    sets, T, R = tree.inside.shape[1], tree.loads.shape[1], tree.free.shape[1]
    n = tree.light.shape[1]
    others = n - 1 - level % n
    left = tree.spare[level] + 1 - tree.members[mask]
    for t in range(T):
        found[t] = max(tree.reached[level, t], tree.rest[level, left, t])
    for U in range(1, sets):
        inside_too = others  # less the slots outside of U
        for g in range(R):
            bit = 1 << (R - 1 - g)
            if U & bit == 0:
                inside_too -= tree.free[level, g] - (1 if mask & bit else 0)
        k, factor = max(0, inside_too), tree.factor[U]
        if mask & U == mask:
            for t in range(T):
                tokens = tree.inside[level, U, t] + tree.loads[level, t] + tree.light[level, k, t]
                found[t] = max(found[t], tokens * factor)
        elif k > 0:
            for t in range(T):
                tokens = tree.inside[level, U, t] + tree.light[level, k, t]
                found[t] = max(found[t], tokens * factor)
        else:
            for t in range(T):
                found[t] = max(found[t], tree.inside[level, U, t] * factor)


@compiled
def list_options(tree: RankSets, level: int) -> int:
    """Bound and sort the sets of ranks that the expert of ``level`` may take; how many were bound.

    Args:
        tree: changed in place.
        level: the expert.
    """
    sets, T, R = tree.inside.shape[1], tree.loads.shape[1], tree.free.shape[1]
    n = tree.light.shape[1]
    others = n - 1 - level % n
    full, must = 0, 0
    for g in range(R):
        bit = 1 << (R - 1 - g)
        full += bit if tree.free[level, g] == 0 else 0
        must += bit if tree.free[level, g] > others else 0
    makespans = np.empty(T, np.int64)
    number = 0
    for mask in range(1, sets):
        if mask & full or must & ~mask or tree.members[mask] > tree.spare[level] + 1:
            continue
        if mask & tree.alike[level] & ~(mask >> 1):
            continue
        if tree.twin[level] == 1 and mask > tree.chosen[level - 1]:
            continue
        makespans_with(tree, level, mask, makespans)
        bound = over(makespans, tree.weights)
        i = number
        while i > 0 and tree.bounds[level, i - 1] > bound:
            tree.bounds[level, i] = tree.bounds[level, i - 1]
            tree.options[level, i] = tree.options[level, i - 1]
            i -= 1
        tree.bounds[level, i], tree.options[level, i] = bound, mask
        number += 1
    tree.number[level], tree.following[level] = number, 0
    return number


@compiled
def place(tree: RankSets, level: int, mask: int) -> None:
    """Put the expert of ``level`` on the ranks ``mask``, and go one level down.

    Args:
        tree: changed in place.
        level: the expert.
        mask: its ranks.
    """
    sets, T, R = tree.inside.shape[1], tree.loads.shape[1], tree.free.shape[1]
    n = tree.light.shape[1]
    tree.chosen[level] = mask
    below = level + 1
    if below % n == 0:
        makespans_with(tree, level, mask, tree.reached[below])
        for U in range(sets):
            for t in range(T):
                tree.inside[below, U, t] = 0
        for g in range(R):
            tree.free[below, g] = tree.free[0, g]
        tree.spare[below], tree.alike[below] = tree.spare[0], tree.alike[0]
        return
    for t in range(T):
        tree.reached[below, t] = tree.reached[level, t]
    for U in range(1, sets):
        if mask & U == mask:
            for t in range(T):
                tree.inside[below, U, t] = tree.inside[level, U, t] + tree.loads[level, t]
        else:
            for t in range(T):
                tree.inside[below, U, t] = tree.inside[level, U, t]
    for g in range(R):
        taken = 1 if mask & (1 << (R - 1 - g)) else 0
        tree.free[below, g] = tree.free[level, g] - taken
    tree.spare[below] = tree.spare[level] + 1 - tree.members[mask]
    tree.alike[below] = tree.alike[level] & ~(mask ^ (mask >> 1))


@compiled
def advance(
    tree: RankSets, prices: Prices, use_prices: bool, most: int, budget: int
) -> tuple[int, int]:
    """Search on: FOUND (``chosen`` holds a placement), EXHAUSTED or PAUSED; and the work done.

    Args:
        tree: changed in place.
        prices: bounds for ``fixed`` dispatch; changed in place.
        use_prices: whether they hold.
        most: the objective of a placement that is of interest, at most.
        budget: work, about: a set of ranks that is bound counts for one, more if there are many
            steps and ranks.
    """
    E, sets, T = len(tree.chosen), tree.inside.shape[1], tree.loads.shape[1]
    allowed = np.empty(E, np.int64)
    each = 1 + sets * T // 256
    level, work = tree.counters[LEVEL], 0
    while work < budget:
        i = tree.following[level]
        if i >= tree.number[level] or tree.bounds[level, i] > most:
            tree.following[level] = tree.number[level]
            if level == 0:
                return EXHAUSTED, work
            level -= 1
            tree.counters[LEVEL] = level
            work += 1
            continue
        tree.following[level] += 1
        tree.chosen[level] = tree.options[level, i]
        if use_prices:
            work += PRICE_WORK
            list_allowed(tree, level, allowed)
            if excludes(prices, allowed, level + 1, LEAF_STAGES if level == E - 1 else 1):
                continue
        if level == E - 1:
            return FOUND, work + 1
        place(tree, level, tree.options[level, i])
        level += 1
        tree.counters[LEVEL] = level
        work += each * (1 + list_options(tree, level))
    return PAUSED, work


@compiled
def list_allowed(tree: RankSets, level: int, allowed: Integers) -> None:
    """Which ranks every expert may have, those up to ``level`` being chosen.

    Args:
        tree: where the search stands.
        level: the last expert with a set of ranks.
        allowed: [E] sets of ranks; written.
    """
    R, n = tree.free.shape[1], tree.light.shape[1]
    free = 0
    for g in range(R):
        bit = 1 << (R - 1 - g)
        if tree.free[level, g] > (1 if tree.chosen[level] & bit else 0):
            free += bit
    for j in range(len(allowed)):
        if j <= level:
            allowed[j] = tree.chosen[j]
        else:
            allowed[j] = free if j // n == level // n else (1 << R) - 1


class SetTree:
    """The placements with given experts on each node."""

    def __init__(
        self,
        experts: Sequence[int],
        loads: Integers,
        twin: Integers,
        scale: ScaledSteps,
        topology: Topology,
        fixed: bool,
    ) -> None:
        """Row j of ``loads`` [E, T] is ``experts[j]``, node by node; ``twin`` [E] those that have
        the loads of the row before. ``fixed`` is the dispatch.

        Raises:
            TooLargeError: the tables would be too large.
        """
        self.experts, self.slots_per_rank = experts, topology.slots_per_rank
        different = min(topology.slots_per_rank, len(experts) // topology.num_nodes)
        self.sets = new_rank_sets(
            loads, twin, scale.weights, topology.num_nodes, topology.ranks_per_node, different
        )
        self.scale, self.fixed = scale, fixed
        self.prices = new_prices(loads, scale.most_weight, topology.num_nodes, topology.num_ranks)

    def exclude_from(self, cost: Fraction) -> None:
        """Placements that cost so many tokens are of no interest. A cost under ``fixed`` dispatch
        is no multiple of a scaled unit: prices must not exclude all that is above a whole number.
        """
        load = self.scale.unit * self.scale.multiple  # what 1 in the loads stands for, in tokens
        limit = math.ceil(cost / load * int(self.prices.limits[0])) - 1
        self.prices.limits[2] = min(NOTHING, limit)

    def advance(self, most: int, work: int) -> tuple[int, int]:
        """Search on for a placement whose objective in scaled units is at most ``most``: FOUND,
        EXHAUSTED or PAUSED; and the work done, about ``work``.
        """
        return advance(self.sets, self.prices, self.fixed, most, work)

    def placement(self) -> tuple[int, ...]:
        """[P] the placement found. Slots for which a node has too few experts get one again."""
        ranks, n = self.sets.ranks(), self.sets.light.shape[1]
        phy2log: list[int] = []
        for first in range(0, len(self.experts), n):
            for g in range(ranks.shape[1]):
                held = [self.experts[j] for j in range(first, first + n) if ranks[j, g]]
                phy2log += held + held[:1] * (self.slots_per_rank - len(held))
        return tuple(phy2log)

    def open_bound(self) -> int:
        """What every placement costs that was not looked at, in scaled units."""
        return self.sets.open_bound()
