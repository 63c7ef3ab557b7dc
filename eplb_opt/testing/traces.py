"""What is asked of policies that look at steps, on small traces whose optima are proven at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from eplb_opt.policies.names import AnyPolicy
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import Cost, mean_load
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.result import Limit
from eplb_opt.problem.topology import Topology
from eplb_opt.testing.contracts import Finding, message_of
from solvers import solve
from solvers.dispatch import value

LAYERS = 4
"""Of each trace."""
SOLVE_SECONDS = 10.0
"""For the optimum of a layer."""
STEPS = 256
"""At least so many are given where a policy shall fit them: small traces come again and again, so
that there is nothing to guess of further steps, as ``dispatch-aware`` does with few.
"""
ANOTHER_ORDER = 0.05
"""How much more may be lost on average, in mean rank loads, when the steps come in another order:
what is random in a search falls otherwise.
"""


def opposite_steps() -> Instance:
    """Two steps whose sum hides everything: what is heavy in one is light in the other.

    Expert e has a_e tokens at the first step and 9 - a_e at the second, a permutation of 1 .. 8 in
    each layer. The sum is 9 of every expert, so all placements of two experts a rank are equally
    good for it; at the steps all ranks are level only where each has a pair of a and 9 - a.
    """
    chance = np.random.default_rng(0)
    first = np.array([1 + chance.permutation(8) for _ in range(LAYERS)])
    trace = np.stack([first, 9 - first])
    return Instance(trace, Topology(8, 4), source="opposite steps on 8 slots, 4 ranks")


def small_traces() -> list[Instance]:
    """Opposite steps; pairs of experts that are heavy in turn, of which the sum shows as little;
    loads that swing, and at last a step without load; under both rules.
    """
    chance = np.random.default_rng(1)
    turn = np.array([chance.permutation(8) // 2 for _ in range(LAYERS)])
    heavy = np.stack([np.where(turn == t, 20, 4) for t in range(4)])
    popular, swing = chance.normal(size=(LAYERS, 8)), chance.normal(size=(5, LAYERS, 8))
    tokens = chance.poisson(30 * np.exp(popular + 0.8 * swing))
    tokens[-1] = 0
    machines = {"4 ranks": Topology(12, 4), "4 ranks, 2 nodes": Topology(12, 4, 2, 4)}
    return [
        opposite_steps(),
        *(
            Instance(trace, machine, source=f"{name} on 12 slots, {where}")
            for name, trace in {"pairs heavy in turn": heavy, "swinging loads": tokens}.items()
            for where, machine in machines.items()
        ),
    ]


def check_steps(
    policy: AnyPolicy, cost: Cost, runner: PolicyRunner, gap_below: float | None = None
) -> Iterator[Finding]:
    """What a policy for steps makes of them, by its own ``cost``.

    It places opposite steps better than it places their sum, and steps in another order as well;
    and how far it is above the optima of :func:`small_traces` is said, and in no layer above
    ``gap_below``, if that is given.
    """
    looks = message_of(lambda: _looks_at_steps(policy, cost, runner))
    yield Finding(f"opposite steps placed better than their sum ({cost})", looks)
    order = message_of(lambda: _any_order(policy, cost, runner))
    yield Finding(f"steps in another order placed as well ({cost})", order)
    figures = list[str]()
    far = message_of(lambda: figures.append(_beside_optima(policy, cost, runner, gap_below)))
    yield Finding(f"small traces beside their optima ({cost})", far, *figures)


def _place_again_and_again(
    policy: AnyPolicy, steps: Instance, runner: PolicyRunner, order: int = 1
) -> Placement:
    """The placement of a trace, each step of which comes several times in succession, so that a
    part of it holds a part of the steps alone; with ``order=-1`` backwards.
    """
    assert steps.trace is not None
    times = -(-STEPS // len(steps.trace))
    trace = np.repeat(steps.trace[::order].astype(np.int64), times, axis=0)
    return runner.run(policy, replace(steps, loads=trace), once=True).placement


def _looks_at_steps(policy: AnyPolicy, cost: Cost, runner: PolicyRunner) -> None:
    steps = opposite_steps()
    of_sum = runner.run(policy, replace(steps, loads=steps.loads), once=True).placement
    ours = measure_loss(_place_again_and_again(policy, steps, runner), steps, cost)
    blind = measure_loss(of_sum, steps, cost)
    if ours >= blind > 0:
        raise AssertionError(
            f"{steps.source}: it loses {ours:.4%} where its placement of their sum loses "
            f"{blind:.4%}: does it look at the steps?"
        )


def _any_order(policy: AnyPolicy, cost: Cost, runner: PolicyRunner) -> None:
    losses = np.zeros(2)
    for steps in small_traces():
        placed = [_place_again_and_again(policy, steps, runner, order) for order in (1, -1)]
        losses += [measure_loss(each, steps, cost) for each in placed]
    first, last = (losses / len(small_traces())).tolist()
    if abs(first - last) > ANOTHER_ORDER:
        raise AssertionError(
            f"small traces: it loses {first:.4%}, given the last step first {last:.4%}"
        )


def measure_loss(placement: Placement, steps: Instance, cost: Cost) -> float:
    """What the layers of ``steps`` lose together over their mean rank loads."""
    layers = steps.layers()
    placed = zip(layers, placement.phy2log.tolist(), strict=True)
    paid = sum(value(layer, row, *cost).incumbent for layer, row in placed)
    return float(paid / sum(mean_load(layer, cost.objective) for layer in layers)) - 1


def _beside_optima(
    policy: AnyPolicy, cost: Cost, runner: PolicyRunner, gap_below: float | None
) -> str:
    """How far it is above them."""
    gaps, proven = list[float](), 0
    for steps in small_traces():
        placement = _place_again_and_again(policy, steps, runner)
        for layer, row in zip(steps.layers(), placement.phy2log.tolist(), strict=True):
            objective, dispatch = cost
            found = solve(layer, objective=objective, dispatch=dispatch, time_limit=SOLVE_SECONDS)
            if found.limit == Limit.INTERRUPT:
                raise KeyboardInterrupt
            paid = value(layer, row, *cost).incumbent
            gaps.append(float(paid / found.lower_bound) - 1)
            proven += found.status == "optimal"
            if gap_below is not None and gaps[-1] > gap_below:
                raise AssertionError(
                    f"{steps.source}: layer {layer.index}: {gaps[-1]:.4%} above the proven bound, "
                    f"more than {gap_below:.4%}"
                )
    return (
        f"on average {np.mean(gaps):.2%} above, at most {max(gaps):.2%}; {gaps.count(0.0)} of "
        f"{len(gaps)} layers optimal, {proven} optima proven"
    )
