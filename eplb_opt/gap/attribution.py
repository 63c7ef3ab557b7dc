r"""Why a placement loses: its loss over the mean rank load, split by what was decided where.

Let ``m`` be the mean rank load of a layer and ``x`` a placement with the groups-to-nodes ``g(x)``
and the replica counts ``c(x)``. Every step decides more, so the least makespans that remain
possible do not decrease:

    ===  ===================================================================
    V_0  m itself, what an even spread would have
    V_1  the optimum if any replica may go to any rank (the global optimum)
    V_2  the optimum under the layer's rule
    V_3  the optimum under the rule with the groups on the nodes ``g(x)``
    V_4  the optimum with ``g(x)`` and ``c(x)``
    V_5  the makespan of ``x``
    ===  ===================================================================

The total loss ``(V_5 - m) / m`` is the sum of five terms ``(V_i - V_{i-1}) / m``, none negative:

- **granularity**, V_1 - V_0: replicas cannot be cut, so even the best placement is not even;
- **rule**, V_2 - V_1: the price of keeping groups of experts on nodes (0 under the global rule);
- **groups**, V_3 - V_2: groups on the wrong nodes (0 under the global rule);
- **counts**, V_4 - V_3: the wrong experts have replicas, given those groups;
- **packing**, V_5 - V_4: replicas on the wrong ranks, given groups and counts.

The last three are the policy's **own** loss, ``(V_5 - V_2) / m``.

V_0 and V_5 are known. The others are optima of hard problems, known as an interval ``[L_i, U_i]``
of a proven bound and an incumbent, with L and U made monotone in i. So term i lies in
``[max(0, L_i - U_{i-1}), U_i - L_{i-1}] / m``. The number shown is ``(U_i - U_{i-1}) / m``, with
the best known placement in place of each optimum: never negative, and adding up to the total
exactly.

**Under the rule** ``home`` a placement's own loss is not split: its terms are granularity, rule and
**placement**, V_5 - V_2. Beside them, and no part of the total, stands what that rule is worth. The
hierarchical rule, with the optimum V_h, is one of its special cases, so V_1 <= V_2 <= V_h, and the
cost (V_h - V_1) / m of that tighter rule is the sum of two terms, none negative:

- **rule**, V_2 - V_1: what it still costs with further replicas anywhere, within the limit;
- **recovered**, V_h - V_2.

Where all experts have load, a limit of 0 has V_2 = V_h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

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
from eplb_opt.gap.optima import NO_SEARCH, HomeOptimum, Optima, Part, nested
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import mean_load
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import layer_violation
from solvers.dispatch import value
from solvers.options import SearchOptions

TERMS = ("granularity", "rule", "groups", "counts", "packing")
"""Term i leads from V_i to V_{i+1}."""
OWN = ("groups", "counts", "packing")
"""What the policy decides."""
HOME_TERMS = ("granularity", "rule", "placement")
"""Under the rule ``home`` with several nodes."""
HIERARCHICAL, RECOVERED = "hierarchical", "recovered"
"""Beside them: what the hierarchical rule costs, and what comes back of it."""


def attribute(
    layer: Layer,
    placements: Mapping[str, Sequence[int]],
    search: SearchOptions = NO_SEARCH,
    others: Sequence[Sequence[int]] = (),
) -> dict[str, LayerSplit]:
    """Split the loss of each policy's placement on one layer.

    All placements are incumbents for each other. Without a ``search`` the intervals come from
    closed-form bounds and these placements alone. With one, every optimum is searched that is not
    known well enough: the global one, the one under the rule, and of each policy those of its worst
    nodes with free counts and with its counts.

    Args:
        layer: with load.
        placements: [P] by policy, valid under the layer's rule.
        search: limits of each search; by default there is none.
        others: [P] each, further placements that are known under the hierarchical rule, for a layer
            under the rule ``home``.

    Returns:
        By policy, the terms :data:`TERMS` and the sum ``own``; under the rule ``home`` the terms
        :data:`HOME_TERMS`. Guarantee: the intervals contain the true terms.

    Raises:
        ValueError: the layer has no load.
        KeyboardInterrupt: Ctrl-C ended a search.

    Example:
        >>> from eplb_opt import Instance, Topology
        >>> layer = Instance([[4, 2, 1, 1]], Topology(6, 2)).layer(0)
        >>> split = attribute(layer, {"mine": [0, 0, 1, 0, 2, 3]})["mine"].split
        >>> str(split.total), sum(split.shown.values()) == split.total
        ('1/6', True)
    """
    if not layer.has_load:
        raise ValueError(f"layer {layer.index} has no load: there is no loss to split")
    if layer.rule == Rule.HOME and layer.topology.num_nodes > 1:
        return _attribute_home(layer, placements, search, others)
    ruled = Optima(layer, search)
    anywhere = Optima(layer.without_nodes(), search) if layer.rule == Rule.HIERARCHICAL else ruled
    parts: dict[str, tuple[Part, ...]] = {}
    for policy, phy2log in placements.items():
        anywhere.learn(phy2log)
        parts[policy] = ruled.learn(phy2log)
    anywhere.sharpen_rule()
    ruled.sharpen_rule()
    for counted in parts.values():
        ruled.sharpen([part.free for part in counted])
        ruled.sharpen(counted)
    return {
        policy: LayerSplit(layer.index, _split(layer, anywhere, ruled, parts[policy], phy2log))
        for policy, phy2log in placements.items()
    }


def attribute_layers(
    layers: Sequence[Layer],
    placements: Mapping[str, Sequence[Sequence[int]]],
    search: SearchOptions,
    progress: Progress,
    others: Sequence[Sequence[Sequence[int]]] = (),
) -> tuple[tuple[PolicySplit, ...], bool]:
    """:func:`attribute` for all layers with load; ``placements`` are [L, P] by policy, ``others``
    [L, P] each.

    Also returns whether Ctrl-C ended it early.
    """

    def split(row: int) -> dict[str, LayerSplit]:
        placed = {policy: rows[row] for policy, rows in placements.items()}
        return attribute(layers[row], placed, search, [rows[row] for rows in others])

    rows = [i for i, layer in enumerate(layers) if layer.has_load and placements]
    return collect("attribution", split, rows, progress)


def _attribute_home(
    layer: Layer,
    placements: Mapping[str, Sequence[int]],
    search: SearchOptions,
    others: Sequence[Sequence[int]],
) -> dict[str, LayerSplit]:
    """The terms under the rule ``home``, and beside them what the hierarchical rule costs."""
    anywhere = Optima(layer.without_nodes(), search)
    home = HomeOptimum(layer, search)
    tighter = Optima(replace(layer.without_limit(), rule=Rule.HIERARCHICAL), search)
    for phy2log in (*placements.values(), *others):
        anywhere.learn(phy2log)
        if layer_violation(tighter.layer, phy2log) is None:
            tighter.learn(phy2log)
        home.learn(phy2log)
    ruled: list[Optima | HomeOptimum] = [anywhere, home, *[tighter] * tighter.has_placement()]
    for optimum in ruled:
        optimum.sharpen_rule()
    mean = mean_load(layer)
    equal = [2] if layer.traffic_limit == 0 and all(layer.loads) else []
    optima = nested([point(mean), *(optimum.under_rule() for optimum in ruled)], equal)
    return {
        policy: LayerSplit(layer.index, _split_home(mean, optima, value(layer, phy2log).incumbent))
        for policy, phy2log in placements.items()
    }


def _split_home(mean: Fraction, optima: Sequence[Interval], paid: Fraction) -> Split:
    """``optima`` are V_0, V_1, V_2 and V_h if it is known, already nested; ``paid`` is V_5."""
    _, anywhere, home, *tighter = optima
    steps = dict(zip(HOME_TERMS, pairwise((*optima[:3], point(paid))), strict=True))
    return Split(
        total=(paid - mean) / mean,
        terms={t: not_negative(inner - outer) / mean for t, (outer, inner) in steps.items()},
        shown={t: (inner.high - outer.high) / mean for t, (outer, inner) in steps.items()},
        sums={},
        beside={
            name: not_negative(ruled - looser) / mean
            for ruled in tighter
            for name, looser in ((HIERARCHICAL, anywhere), (RECOVERED, home))
        },
    )


def void_terms(layer: Layer) -> frozenset[str]:
    """The terms that are 0 whatever the loads, because nothing is left to decide.

    ``rule`` under the global rule or with one node, ``groups`` then, too, and with one group a
    node, ``counts`` without redundant experts, ``packing`` with one rank a node.
    """
    one_node = layer.rule == Rule.GLOBAL or layer.topology.num_nodes == 1
    ranks = layer.topology.num_ranks if one_node else layer.topology.ranks_per_node
    void = {
        "rule": one_node,
        "groups": one_node or layer.topology.groups_per_node == 1,
        "counts": layer.num_redundant_experts == 0,
        "packing": ranks == 1,
    }
    return frozenset(term for term, nothing_to_decide in void.items() if nothing_to_decide)


def _split(
    layer: Layer, anywhere: Optima, ruled: Optima, parts: Sequence[Part], phy2log: Sequence[int]
) -> Split:
    """The split of one placement from all that is known in the end."""
    mean = mean_load(layer)
    known = (
        point(mean),
        anywhere.under_rule(),
        ruled.under_rule(),
        ruled.interval([part.free for part in parts]),
        ruled.interval(parts),
        point(value(layer, phy2log).incumbent),
    )
    void = void_terms(layer)
    optima = nested(known, [i for i, term in enumerate(TERMS) if term in void])
    steps = dict(zip(TERMS, pairwise(optima), strict=True))

    def loss(outer: Interval, inner: Interval) -> Interval:
        return not_negative((inner - outer) / mean)

    return Split(
        total=(optima[-1].high - mean) / mean,
        terms={t: point(0) if t in void else loss(*steps[t]) for t in TERMS},
        shown={t: (inner.high - outer.high) / mean for t, (outer, inner) in steps.items()},
        sums={"own": loss(steps[OWN[0]][0], optima[-1])},
    )
