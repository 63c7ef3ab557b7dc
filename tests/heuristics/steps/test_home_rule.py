"""Policies for steps under the rule ``home``, by its definition in exact arithmetic."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Placement, Topology
from eplb_opt.problem.transfer import count_transfers
from eplb_opt.problem.validity import find_violations, over_limit
from heuristics import rebalance_experts
from heuristics.refined import refined
from heuristics.steps import dispatch_aware, robust
from heuristics.steps.values import mean_makespans
from tests.heuristics.steps import test_dispatch_aware as optimal
from tests.heuristics.steps.test_dispatch_aware import EDGES, NODES, Shape, cases, drawn
from tests.heuristics.steps.test_robust_exactly import check_never_above, placed_for_the_sum

HOMES = [shape for shape in [*NODES, *EDGES, (6, 9, 3, 3, 3)] if shape[2] % shape[3] == 0]
LIMITS = [0.0, 0.07, 0.3, 1.0]


def check_at_home(
    steps: torch.Tensor, placed: torch.Tensor, shape: Shape, limit: float | None
) -> None:
    """Valid, and within the limit if there is one."""
    experts, slots, groups, nodes, ranks = shape
    part = 1.0 if limit is None else limit
    instance = Instance(
        steps.numpy(), Topology(slots, ranks, nodes, groups), "home", traffic_limit=part
    )
    assert find_violations(Placement(placed.numpy(), experts), instance) == []
    for layer, row in zip(instance.layers(), placed.tolist(), strict=True):
        assert over_limit(layer, row) is None


@given(cases(HOMES), st.sampled_from(["mean", "worst", "cvar:0.4"]), st.sampled_from(LIMITS))
@settings(max_examples=12)
def test_robust_keeps_the_limit_and_is_never_above_its_starts(case, objective, limit):
    steps, shape = case
    placed = robust(steps, *shape[1:], objective=objective, effort="fast", traffic=limit)
    check_at_home(steps, placed, shape, limit)
    for other in placed_for_the_sum(steps, shape):
        check_never_above(steps, placed, other, shape[4], objective)
    if len(steps) > 1:
        other = refined(steps.sum(0), *shape[1:], traffic=limit)
        check_never_above(steps, placed, other, shape[4], objective)


@given(cases([(8, 12, 4, 2, 4), (6, 12, 2, 2, 4)]), st.integers(0, 4), st.integers(0, 5))
@settings(max_examples=6)
def test_robust_keeps_a_budget_from_a_placement_with_homes(case, budget, turn):
    steps, shape = case
    weight = torch.arange(1.0, shape[0] + 1).roll(turn).expand(steps.shape[1], -1)
    old = rebalance_experts(weight, *shape[1:], rule="home")[0]
    words = {"effort": "fast", "old": old, "move_budget": budget}
    placed = robust(steps, *shape[1:], **words, traffic=1.0)
    check_at_home(steps, placed, shape, 1.0)
    assert count_transfers(old, placed, shape[1] // shape[4]).sum(1).max() <= budget
    check_never_above(steps, placed, old, shape[4], "mean")
    if budget == 4:
        placed = robust(steps, *shape[1:], effort="fast", old=old, traffic=0.07)
        check_at_home(steps, placed, shape, 0.07)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_copies_off_home_lower_what_steps_cost(dtype):
    """One group has all the load at every step: more than its node can serve."""
    steps = drawn(5, 2, 16, seed=2).to(dtype)
    steps[..., :4] *= 9
    shape = (16, 24, 4, 4, 8)
    for limit in (0.1, 1.0):
        placed = robust(steps, *shape[1:], effort="fast", traffic=limit)
        check_at_home(steps, placed, shape, limit)
        at_home = robust(steps, *shape[1:], effort="fast")
        makespans = [
            (steps.double().gather(2, x.expand(5, -1, -1)) / counts_of(x)).view(5, 2, 8, 3)
            for x in (placed, at_home)
        ]
        lower, higher = (x.sum(3).amax(2).mean(0) for x in makespans)
        assert bool((lower < 0.97 * higher).all())


@given(cases(HOMES), st.sampled_from(LIMITS))
@settings(max_examples=8)
def test_dispatch_aware_has_homes_and_is_never_above_its_starts(case, limit):
    steps, shape = case
    placed = dispatch_aware(steps, *shape[1:], effort="fast", traffic=limit)
    check_at_home(steps, placed, shape, limit)
    starts = [*optimal.all_starts(steps, shape), refined(steps.sum(0), *shape[1:], traffic=limit)]
    for start in starts:
        optimal.check_never_above(steps, placed, start, shape[4])


def test_dispatch_aware_takes_copies_to_other_nodes():
    """One group has most of the load, now and then all: more than its node can serve."""
    steps = drawn(12, 2, 16, seed=2)
    steps[..., :4] *= 9
    shape = (16, 24, 4, 4, 8)
    least = mean_makespans(steps, dispatch_aware(steps, *shape[1:], effort="fast")[None], 8)
    for limit in (0.1, 1.0):
        placed = dispatch_aware(steps, *shape[1:], effort="fast", traffic=limit)
        check_at_home(steps, placed, shape, limit)
        assert bool((mean_makespans(steps, placed[None], 8) < 0.97 * least).all())


def counts_of(phy2log: torch.Tensor) -> torch.Tensor:
    """Replicas of the expert in each slot, [L, P]."""
    return (phy2log[:, :, None] == phy2log[:, None]).sum(2)
