"""Replays against hand calculation and brute force."""

import itertools
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Topology, documents
from eplb_opt.problem.homes import traffic
from eplb_opt.serving.replay import Scenario, replay
from eplb_opt.serving.replay.simulate import slot_tokens
from eplb_opt.serving.state_machine import Settings
from eplb_opt.testing.strategies import placements
from heuristics import POLICIES
from solvers.dispatch import value

SIX = """
import torch

def rebalance_experts(weight, slots, groups, nodes, ranks, old):
    {body}
"""


def drifting(steps: int, layers: int = 2, experts: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    log = rng.normal(0, 1, (layers, experts)) + rng.normal(0, 0.3, (steps, layers, experts)).cumsum(
        0
    )
    return np.floor(1000 * np.exp(log)).astype(np.int64)


def test_one_layer_by_hand() -> None:
    trace = [[[9, 1, 3, 1]]] * 8
    (found,) = replay(Instance(trace, Topology(6, 2)), ["deepseek"], Settings(4, 4)).policies
    assert found.trail.makespan[0] == [9 / 2 + 1 / 2 + 3]  # slots hold 0 1 2 | 3 0 1
    assert found.trail.makespan[1] == [7.0]  # 0 0 or 0 2 or ..: 9 / 3 + 3 + 1 on both
    before, first, second = found.intervals
    assert (before.start, before.stop, before.served) == (0, 1, pytest.approx(8 / 7 - 1))
    assert (before.without, before.on_window, before.seconds) == (None, None, None)
    assert (first.gap_mean, first.on_window, first.served, first.staleness) == (0, 0, 0, 0)
    assert first.without == pytest.approx(8 / 7 - 1)
    assert (second.received, second.without) == (0, 0)


@given(st.data())
@settings(max_examples=60)
def test_tokens_of_slots_are_those_of_their_experts(data) -> None:
    loads = np.array(data.draw(st.lists(st.integers(0, 99), min_size=4, max_size=4)), dtype=float)
    instance = Instance(loads[None] + 1, Topology(6, 3))
    phy2log = data.draw(placements(instance)).phy2log
    tokens = slot_tokens(phy2log, loads[None])
    assert (tokens == np.floor(tokens)).all()
    for expert, load in enumerate(loads):
        own = tokens[phy2log == expert]
        assert own.sum() == load
        assert own.max() - own.min() <= 1


@pytest.mark.parametrize("seed", range(6))
def test_hindsight_contains_the_best_constant_placement(seed: int) -> None:
    trace = drifting(9, layers=1, experts=3, seed=seed)
    report = replay(Instance(trace, Topology(4, 2)), ["deepseek"], Settings(3, 3))
    rows = [p for p in itertools.product(range(3), repeat=4) if set(p) == {0, 1, 2}]
    for interval in report.policies[0].intervals:
        served = trace[interval.start : interval.stop]
        instances = [Instance(step, Topology(4, 2)).layer(0) for step in served]
        total = min(sum(value(layer, row).incumbent for layer in instances) for row in rows)
        best = total * 2 / int(served.sum()) - 1
        assert interval.hindsight_low <= best
        assert float(best) <= interval.hindsight_high + 1e-12
        assert interval.served >= interval.hindsight_low - 1e-12
        if interval.without is not None:
            assert interval.hindsight_high <= interval.without + 1e-12


def test_moves_add_up_and_asynchronous_ones_come_one_layer_a_step() -> None:
    trace = drifting(30, layers=3)
    instance = Instance(trace, Topology(8, 4))
    for use_async, steps in ((False, {0}), (True, {2, 4, 6})):
        report = replay(instance, ["deepseek"], Settings(6, 12, use_async), layer_steps=2)
        (found,) = report.policies
        document = json.loads(json.dumps(documents.replay(report), allow_nan=False))["policies"][0]
        assert sum(document["steps"]["received"]) == found.received > 0
        assert sum(i.received for i in found.intervals) == found.received
        asked = [decision.step for decision in found.trail.decisions]
        assert asked == [3 - 1, 15 - 1, 27 - 1]
        waits = {move.step - asked[move.answer] for move in found.trail.moves}
        assert waits == steps
        for decision, answer in zip(found.trail.decisions[:2], range(2), strict=True):
            moves = [m for m in found.trail.moves if m.answer == answer]
            assert [m.row for m in moves] == [0, 1, 2]
            changed = (decision.old != decision.new).sum()
            assert sum(m.received + m.copied for m in moves) == changed


def test_two_models_share_the_ranks_and_wait_for_each_other() -> None:
    first, second = (Instance(drifting(20, seed=s), Topology(8, 4)) for s in (1, 2))
    both = replay([first, second], ["deepseek"], Settings(4, 8)).policies[0]
    alone = [replay(m, ["deepseek"], Settings(4, 8)).policies[0] for m in (first, second)]
    joined = np.concatenate([a.trail.makespan for a in alone], axis=1)
    assert (both.trail.makespan == joined).all()
    assert both.received == sum(a.received for a in alone)


def test_ranks_leave_and_come() -> None:
    instance = Instance(drifting(20), Topology(12, 4, num_nodes=2, num_groups=2))
    with pytest.warns(UserWarning, match="num_ranks=3 is not a multiple of num_nodes=2"):
        report = replay(instance, ["deepseek"], Settings(4, 8), ranks_from={9: 3, 14: 4})
    (found,) = report.policies
    machines = [d.topology.num_ranks for d in found.trail.decisions]
    assert machines == [4, 3, 4]
    assert [i.start for i in found.intervals] == [0, 2, 9, 14]
    assert [i.without is None for i in found.intervals] == [True, False, True, True]
    mean = found.trail.mean.sum(1) / report.scenario.trace.sum((1, 2))
    assert mean.round(9).tolist() == [1 / 4] * 9 + [round(1 / 3, 9)] * 5 + [1 / 4] * 6


def test_a_step_without_tokens_is_a_dummy_pass() -> None:
    trace = drifting(12)
    trace[[1, 5]] = 0
    (found,) = replay(Instance(trace, Topology(8, 4)), ["deepseek"], Settings(3, 4)).policies
    assert [d.step for d in found.trail.decisions] == [0, 4, 8]
    assert found.trail.decisions[1].loads.tolist() == trace[[2, 3, 4]].sum(0).tolist()
    assert found.intervals[1].served is not None


@pytest.mark.slow
def test_a_policy_that_fails_leaves_the_placement(tmp_path: Path) -> None:
    path = tmp_path / "fails.py"
    path.write_text(SIX.format(body='raise RuntimeError("no idea")'))
    (found,) = replay(Instance(drifting(10), Topology(8, 4)), [str(path)], Settings(4, 4)).policies
    assert found.received == 0
    assert [i.message for i in found.failures] == ["RuntimeError: no idea (fails.py, line 5)"] * 3
    assert found.intervals[1].served == pytest.approx(found.intervals[1].without)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_budget_is_kept_in_every_rearrangement_that_follows_the_rule(nodes: int) -> None:
    """Experts in order break the hierarchical rule: the first placement is made anew."""
    instance = Instance(drifting(24, experts=8), Topology(12, 4, nodes, nodes))
    names = ["refined", "refined:relabel", "refined:2"]
    fresh, kept, few = replay(instance, names, Settings(6, 6)).policies
    assert not few.failures
    assert kept.received <= fresh.received
    budgeted = [m for m in few.trail.moves if m.answer > 0 or nodes == 1]
    assert budgeted
    assert max(m.received for m in budgeted) <= 2


def test_a_sixth_argument_is_the_placement_until_now(tmp_path: Path) -> None:
    path = tmp_path / "keeps.py"
    path.write_text(SIX.format(body="return old.roll(1, dims=1)"))
    (found,) = replay(Instance(drifting(10), Topology(8, 4)), [str(path)], Settings(4, 4)).policies
    for decision in found.trail.decisions:
        assert (decision.new == np.roll(decision.old, 1, axis=1)).all()


def test_attribution_of_a_window_longer_than_the_interval() -> None:
    instance = Instance(drifting(16), Topology(8, 4))
    late = replay(instance, ["deepseek"], Settings(12, 4)).policies[0].trail.decisions
    early = replay(instance, ["deepseek"], Settings(12, 4, attribute_late=False)).policies[0]
    seen = [np.asarray(d.loads) for d in early.trail.decisions]
    for decision, loads in zip(early.trail.decisions, seen, strict=True):
        first = max(0, decision.step - 11)
        assert loads.tolist() == instance.trace[first : decision.step + 1].sum(0).tolist()
    assert (late[-1].loads != seen[-1]).any()
    assert late[-1].loads.sum() == seen[-1].sum()


def test_what_cannot_be_replayed() -> None:
    instance = Instance(drifting(5), Topology(8, 4))
    flat = Instance([[1, 2]], Topology(2, 1), source="flat.json")
    with pytest.raises(ValueError, match=r"flat.json: a replay needs a trace"):
        Scenario.of([flat], Settings())
    with pytest.raises(ValueError, match="differ"):
        Scenario.of([instance, Instance(drifting(6), Topology(8, 4))], Settings())
    with pytest.raises(ValueError, match="scale event 5:2: give a step in 1"):
        Scenario.of([instance], Settings(), ranks_from={5: 2})
    with pytest.raises(ValueError, match="leaves 4 slots for 6 experts"):
        Scenario.of([instance], Settings(), ranks_from={2: 2})


def test_ctrl_c_returns_the_steps_until_then() -> None:
    def stop(_policy: str, done: int, _total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    instance = Instance(drifting(20), Topology(8, 4))
    report = replay(instance, ["deepseek", "refined"], Settings(4, 4), progress=stop)
    assert report.interrupted
    (found,) = report.policies
    assert (found.trail.steps, found.intervals[-1].stop) == (7, 7)
    json.dumps(documents.replay(report), allow_nan=False)


def test_a_function_and_a_single_name_are_policies():
    """A single name was once read letter by letter, and a function was no JSON."""
    instance = Instance(drifting(10), Topology(12, 4))
    named = replay(instance, "refined:2", Settings(4, 4))
    assert [p.policy for p in named.policies] == ["refined:2"]
    both = replay(instance, [POLICIES["deepseek"], "deepseek"], Settings(4, 4))
    document = json.loads(json.dumps(documents.replay(both)))
    first, second = document["policies"]
    assert (first["policy"], first["loss"]) == ("deepseek", second["loss"])


def copies_of_the_heaviest(weight, _slots, _groups, num_nodes, _ranks):
    """Groups at home in order, and on each node a copy of the heaviest expert of the next."""
    layers, experts = weight.shape
    own = torch.arange(experts).view(1, num_nodes, -1).expand(layers, -1, -1)
    heaviest = weight.view(layers, num_nodes, -1).argmax(2) + own[:, :, 0]
    return torch.cat([own, heaviest.roll(-1, 1)[:, :, None]], 2).flatten(1)


def test_traffic_of_what_is_served() -> None:
    machine = Topology(8, 4, num_nodes=2, num_groups=2)
    trace = drifting(20)
    instance = Instance(trace, machine, "home", traffic_limit=0.9)
    (found,) = replay(instance, [copies_of_the_heaviest], Settings(4, 8)).policies
    layers, away = instance.layers(), Fraction(0)
    for interval, decision in zip(found.intervals[1:], found.trail.decisions, strict=True):
        served = trace[interval.start : interval.stop].sum(0)
        window = Instance(served, machine, "home").layers()
        parts = [traffic(x, row) for x, row in zip(window, decision.new.tolist(), strict=True)]
        tokens = sum(p * sum(x.loads) for p, x in zip(parts, window, strict=True))
        assert interval.traffic == pytest.approx(float(tokens / int(served.sum())))
        away += tokens
    first = trace[: found.intervals[0].stop]
    away += found.intervals[0].traffic * Fraction(int(first.sum()))
    assert found.traffic == pytest.approx(float(away / sum(sum(x.loads) for x in layers)))
    assert 0 < found.intervals[1].traffic < found.intervals[0].traffic
    (within,) = replay(instance, ["deepseek"], Settings(4, 8)).policies
    assert [i.traffic for i in within.intervals[1:]] == [0] * 3  # it places hierarchically


def test_a_limit_of_traffic_holds_for_what_a_policy_sees() -> None:
    """Loads change after the window, and more of them are served off home."""
    trace = np.array([[[10, 1, 1, 8, 1, 1]]] * 8 + [[[60, 1, 1, 1, 1, 1]]] * 8)
    machine = Topology(8, 4, num_nodes=2, num_groups=2)
    instance = Instance(trace, machine, "home", traffic_limit=0.45)
    report = replay(instance, [copies_of_the_heaviest], Settings(8, 8))
    (found,) = report.policies
    assert found.failures == []
    assert found.intervals[-1].traffic > 0.45
    assert found.intervals[-1].hindsight_low <= found.intervals[-1].hindsight_high
    document = documents.replay(report)
    assert document["instance"]["traffic_limit"] == 0.45
    assert document["policies"][0]["traffic"] == found.traffic


@pytest.mark.parametrize("use_async", [False, True])
def test_traffic_where_layers_wait_and_nodes_do_not_divide_groups(use_async: bool) -> None:
    machine = Topology(12, 4, num_nodes=2, num_groups=2)
    instance = Instance(drifting(20), machine, "home")
    settings = Settings(4, 8, use_async)
    (found,) = replay(instance, ["refined"], settings, ranks_from={12: 6}).policies
    away = found.trail.off_home
    assert np.isnan(away[12:]).all()  # three nodes, two groups
    assert not np.isnan(away[:12]).any()
    assert found.intervals[-1].traffic is None
