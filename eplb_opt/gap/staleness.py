r"""Loads that placed against loads that are served: what a placement loses because loads change.

A policy sees the loads ``a`` of a layer, makes the placement ``x``, and x serves the loads ``b``.
Let ``M_a, M_b`` be the makespans of x under either loads and ``OPT_a, OPT_b`` the optima under the
layer's rule, each divided by the mean rank load of a or b. The loss on the served loads is

    ``M_b - 1  =  (OPT_b - 1)  +  (M_a - OPT_a)  +  ((M_b - OPT_b) - (M_a - OPT_a))``

- **hindsight**, OPT_b - 1: the loss of the best placement that knows the served loads; at least 0;
- **optimality**, M_a - OPT_a: how far the policy is from the best on the loads it saw; at least 0;
- **staleness**, the rest: what the change of loads adds to the distance from the best. It is
  negative where the change happens to favour x, and exactly 0 where b is proportional to a.

The last two together are the **regret** M_b - OPT_b, at least 0: the loss against the best
placement in hindsight.

M_a and M_b are known. The optima are intervals of a proven bound and an incumbent, and so are the
terms. The number shown for each is the term with the incumbents in place of the optima; these add
up to the loss exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from eplb_opt.gap.loss_split import (
    Interval,
    LayerSplit,
    PolicySplit,
    Progress,
    Split,
    collect,
    point,
)
from eplb_opt.gap.optima import NO_SEARCH, optima_of
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import mean_load
from solvers.dispatch import value
from solvers.options import SearchOptions

TERMS = ("hindsight", "optimality", "staleness")


@dataclass(frozen=True)
class _Balance:
    """A makespan and where the optimum lies, in multiples of the mean rank load."""

    makespan: Fraction
    optimum: Interval

    @property
    def regret(self) -> Interval:
        return point(self.makespan) - self.optimum


def split_by_change(
    seen: Layer,
    served: Layer,
    placements: Mapping[str, Sequence[int]],
    search: SearchOptions = NO_SEARCH,
) -> dict[str, LayerSplit]:
    """Split the loss of each policy's placement, made for one layer's loads, on other loads.

    All placements are incumbents for both optima; with a ``search`` these are searched where they
    are not known well enough. Where nothing is seen, every placement is the best on what it saw.

    Args:
        seen: the layer as the policies saw it.
        served: the layer as it is served, with load, on the same machine under the same rule.
        placements: [P] by policy, valid under that rule.
        search: limits of each search; by default there is none.

    Returns:
        By policy, the terms :data:`TERMS` and the sum ``regret``. Guarantee: the intervals contain
        the true terms.

    Raises:
        ValueError: the served layer has no load.
        KeyboardInterrupt: Ctrl-C ended a search.
    """
    if not served.has_load:
        raise ValueError(f"layer {served.index} has no load to serve: there is no loss to split")
    known = list(placements.values())
    optimum = _relative_optimum(served, known, search)
    unchanged = _proportional(seen, served)
    before = optimum if unchanged else _relative_optimum(seen, known, search)
    return {
        policy: LayerSplit(
            served.index,
            _split(
                _Balance(_relative(seen, placed), before),
                _Balance(_relative(served, placed), optimum),
                unchanged,
            ),
        )
        for policy, placed in placements.items()
    }


def split_layers(
    seen: Sequence[Layer],
    served: Sequence[Layer],
    placements: Mapping[str, Sequence[Sequence[int]]],
    search: SearchOptions,
    progress: Progress,
) -> tuple[tuple[PolicySplit, ...], bool]:
    """:func:`split_by_change` for all layers with served load; ``placements`` are [L, P] by policy.

    Also returns whether Ctrl-C ended it early.
    """

    def split(row: int) -> dict[str, LayerSplit]:
        placed = {policy: phy2log[row] for policy, phy2log in placements.items()}
        return split_by_change(seen[row], served[row], placed, search)

    rows = [i for i, layer in enumerate(served) if layer.has_load and placements]
    return collect("staleness", split, rows, progress)


def same_problem(instance: Instance, other: Instance) -> Instance:
    """``other``, if placements for ``instance`` fit it.

    Raises:
        ValueError: it differs in machine, rule, layers or experts.
    """
    for name in ("topology", "rule", "spread_replicas", "num_layers", "num_logical_experts"):
        mine, theirs = getattr(instance, name), getattr(other, name)
        if mine != theirs:
            raise ValueError(
                f"{other.source} has {name}={theirs}, but {instance.source}, on which the policies "
                f"place, has {mine}: serve loads of the same shape"
            )
    return other


def next_window(instance: Instance, steps: int = 1) -> tuple[Instance, Instance]:
    """Windows of so many ``steps`` of a trace, and for each the one that follows.

    The trace is cut into W windows; what is left over is left out, since a short window would weigh
    like a whole one. Both are instances with traces of ``steps`` steps and (W - 1) L layers; layer
    ``w * L + i`` is row i of window w, and of window w + 1 in the second.

    Raises:
        ValueError: the instance has no trace of at least two windows, or they are empty.
    """
    trace = instance.trace
    if steps < 1:
        raise ValueError(f"next:{steps} has no steps: give one or more")
    if trace is None or len(trace) < 2 * steps:
        found = "layers, experts" if trace is None else f"{len(trace)} steps, layers, experts"
        needed = f"{2 * steps}" if steps > 1 else "two"
        raise ValueError(
            f"{instance.source}: the next window needs a trace of at least {needed} steps, "
            f"but the loads are [{found}]"
        )
    windows = len(trace) // steps
    shape = (windows, steps, *trace.shape[1:])
    cut = trace[: windows * steps].reshape(shape).swapaxes(0, 1)  # [steps, W, L, E]

    def rows(chosen: slice, first: int, last: int) -> Instance:
        flat = cut[:, chosen].reshape(steps, -1, trace.shape[2])
        source = f"{instance.source}, steps {first} to {last}"
        if steps > 1:
            source += f" by {steps}"
        found = Instance(
            flat,
            instance.topology,
            instance.rule,
            source,
            instance.spread_replicas,
            traffic_limit=instance.traffic_limit,
        )
        object.__setattr__(found, "normalize_steps", instance.normalize_steps)  # of the whole trace
        return found

    end = windows * steps
    return rows(slice(-1), 0, end - steps - 1), rows(slice(1, None), steps, end - 1)


def _split(seen: _Balance, served: _Balance, unchanged: bool) -> Split:
    best_seen, best_served = seen.optimum.high, served.optimum.high
    hindsight, optimality = best_served - 1, seen.makespan - best_seen
    stale = point(0) if unchanged else served.regret - seen.regret
    total = served.makespan - 1
    return Split(
        total=total,
        terms={
            "hindsight": served.optimum - point(1),
            "optimality": seen.regret,
            "staleness": stale,
        },
        shown={
            "hindsight": hindsight,
            "optimality": optimality,
            "staleness": total - hindsight - optimality,
        },
        sums={"regret": served.regret},
    )


def _relative(layer: Layer, phy2log: Sequence[int]) -> Fraction:
    """Makespan over mean rank load; 1 for a layer without load, where all placements are even."""
    return value(layer, phy2log).incumbent / mean_load(layer) if layer.has_load else Fraction(1)


def _relative_optimum(
    layer: Layer, placements: Sequence[Sequence[int]], search: SearchOptions
) -> Interval:
    if not layer.has_load:
        return point(1)
    optima = optima_of(layer, search)
    for phy2log in placements:
        optima.learn(phy2log)
    optima.sharpen_rule()
    return optima.under_rule() / mean_load(layer)


def _proportional(a: Layer, b: Layer) -> bool:
    total_a, total_b = sum(a.loads), sum(b.loads)
    return total_a > 0 and all(
        v * total_b == w * total_a for v, w in zip(a.loads, b.loads, strict=True)
    )
