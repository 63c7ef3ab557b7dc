"""What a check asks of policies that look at steps finds those that do not, or not at all."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from eplb_opt import Placement, Topology, solve
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import Cost
from eplb_opt.testing import assert_drop_in, traces
from eplb_opt.testing.contracts import Finding
from heuristics.policies import TABLE

MEAN = Cost.of("mean", "even")
refined = TABLE["refined"]


@pytest.fixture(autouse=True)
def one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "LAYERS", 1)


def findings(place, cost: Cost = MEAN) -> list[Finding]:
    """The three, of a function for steps."""

    def policy(weight: torch.Tensor, *sizes: int) -> torch.Tensor:
        return place(weight, *sizes)

    policy.takes_steps = True  # type: ignore[attr-defined]
    with PolicyRunner() as runner:
        return list(traces.check_steps(policy, cost, runner))


def test_a_policy_that_sums_its_steps_is_found() -> None:
    looks, order, optima = findings(lambda weight, *sizes: refined(weight.sum(0), *sizes))
    assert "loses 50.0000% where its placement of their sum loses 50.0000%" in looks.message
    assert not order.message
    assert "0 of 5 layers optimal, 5 optima proven" in optima.figure


def test_a_policy_that_sees_the_last_step_only_is_found() -> None:
    _, order, _ = findings(lambda weight, *sizes: refined(weight[-1], *sizes))
    assert "given the last step first" in order.message


def test_the_best_placements_pass() -> None:
    def best(weight: torch.Tensor, slots: int, *others: int) -> torch.Tensor:
        groups, nodes, ranks = others
        steps = weight.unique(dim=0).long().numpy()
        layer = Instance(steps, Topology(slots, ranks, nodes, groups)).layer(0)
        return torch.tensor([solve(layer, objective="mean").placement])

    looks, order, optima = findings(best)
    assert not looks.message
    assert not order.message
    assert optima.figure == (
        "on average 0.00% above, at most 0.00%; 5 of 5 layers optimal, 5 optima proven"
    )


def test_opposite_steps_are_level_for_the_right_pairs_only() -> None:
    steps = traces.opposite_steps()
    assert steps.trace is not None
    first = steps.trace[0, 0]
    pairs = [e for a in range(1, 5) for e in (list(first).index(a), list(first).index(9 - a))]
    assert solve(steps.layer(0), objective="mean").objective == Fraction(9)
    assert traces.measure_loss(Placement([pairs], 8), steps, MEAN) == 0


def test_contracts_are_asked_with_several_steps() -> None:
    """They were asked with a single one, of which such a policy may make another case."""

    def policy(weight: torch.Tensor, *sizes: int) -> torch.Tensor:
        if len(weight) > 1:
            weight += 1
        return refined(weight, *sizes)

    policy.takes_steps = True  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="input untouched, of 3 steps: it wrote into its inpu"):
        assert_drop_in(policy)
