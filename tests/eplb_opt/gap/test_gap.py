import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Rule, Topology, documents
from eplb_opt.gap import measure_gap
from eplb_opt.io import read_loads
from eplb_opt.io.synthetic import generate
from heuristics import POLICIES
from solvers import solve

FILE = Path(__file__).parents[1] / "policies" / "user_programs.py"
PUBLISHED = Instance([[600, 560, 120, 120, 20, 10, 10, 10]], Topology(16, 8))


def test_published_example() -> None:
    report = measure_gap(PUBLISHED)
    (reference,), (layer,) = report.reference, report.policies[0].layers
    assert reference.status == "optimal"
    assert reference.lower_bound == reference.incumbent == Fraction(590, 3)
    assert layer.makespan == 232
    assert layer.gap == pytest.approx(232 * 3 / 590 - 1)
    assert layer.optimal is False


def test_layers_without_load_are_kept_out_of_every_mean() -> None:
    loads = [[0] * 8, *PUBLISHED.loads.tolist()]
    report = measure_gap(Instance(loads, Topology(16, 8)))
    assert [r.status for r in report.reference] == ["no-load", "optimal"]
    policy = report.policies[0]
    assert [layer.layer for layer in policy.layers] == [1]
    assert policy.gap_mean == policy.gap_max == policy.layers[0].gap


def test_only_layers_without_load() -> None:
    report = measure_gap(Instance([[0, 0]], Topology(2, 1)))
    policy = report.policies[0]
    assert (policy.gap_mean, policy.gap_max, policy.balancedness_mean) == (None, None, None)
    json.dumps(documents.gap(report), allow_nan=False)


def test_a_failing_policy_does_not_stop_the_others() -> None:
    names = [f"{FILE}:raises", f"{FILE}:misses_an_expert", "deepseek", "nonsense"]
    report = measure_gap(PUBLISHED, names)
    assert [p.status for p in report.policies] == ["error", "invalid", "ok", "error"]
    assert report.policies[0].message == "RuntimeError: shape mismatch: (user_programs.py, line 58)"
    assert report.policies[0].gap_mean is None
    assert report.policies[2].gap_mean > 0


def test_bound_met_by_a_policy_is_the_optimum_without_search() -> None:
    loads = generate("lognormal", num_layers=1, num_experts=4, tokens=1000, seed=0)
    report = measure_gap(Instance(loads, Topology(64, 64)), time_limit=0.0)
    assert report.reference[0].status == "optimal"
    assert report.policies[0].num_optimal == 1


def test_statuses_without_and_with_search() -> None:
    loads = generate("lognormal", num_layers=1, num_experts=64, tokens=10**6, seed=1)
    instance = Instance(loads, Topology(72, 8))
    quick = measure_gap(instance)
    assert quick.reference[0].status == "bound"
    assert quick.policies[0].layers[0].optimal is None
    searched = measure_gap(instance, time_limit=1.0)
    assert searched.reference[0].status in ("feasible", "optimal")
    assert searched.reference[0].incumbent <= quick.reference[0].incumbent


def test_unknown_is_neither_true_nor_false_but_a_better_policy_decides() -> None:
    loads = generate("lognormal", num_layers=1, num_experts=64, tokens=10**6, seed=1)
    report = measure_gap(Instance(loads, Topology(72, 8)), [in_order, "deepseek"])
    assert [p.layers[0].optimal for p in report.policies] == [False, None]


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 100), min_size=4, max_size=4).filter(any),
    st.sampled_from([Topology(6, 3), Topology(8, 4, 2, 2), Topology(8, 2, 2, 4)]),
)
def test_gap_is_never_negative_and_zero_means_optimal(loads: list[int], machine: Topology) -> None:
    instance = Instance([loads], machine)
    report = measure_gap(instance)
    layer = report.policies[0].layers[0]
    best = solve(instance.layer(0), backend="brute-force").objective
    assert report.reference[0].lower_bound == best
    assert layer.gap >= 0
    assert layer.optimal is (layer.makespan == best)


def test_json_matches_the_contract() -> None:
    document = json.loads(json.dumps(documents.gap(measure_gap(PUBLISHED)), allow_nan=False))
    assert document["schema"] == "eplb-opt/gap/1"
    assert document["instance"] == {
        "source": "array",
        "num_layers": 1,
        "num_logical_experts": 8,
        "num_physical_experts": 16,
        "num_ranks": 8,
        "num_nodes": 1,
        "num_groups": 1,
        "rule": "global",
        "traffic_limit": 1.0,
        "spread_replicas": False,
        "num_steps": 1,
        "objective": "sum",
        "dispatch": "even",
        "normalize_steps": False,
    }
    assert document["interrupted"] is False
    (reference,) = document["reference"]
    assert set(reference) == {"layer", "status", "lower_bound", "incumbent", "mean_load",
                              "bound_source", "runtime_s"}  # fmt: skip
    assert Fraction(reference["lower_bound"]) <= Fraction(590, 3)
    (policy,) = document["policies"]
    assert set(policy) == {"policy", "status", "message", "runtime_s", "first_call_s",
                           "import_s", "layers", "gap_mean", "loss_mean", "rank_loads", "time",
                           "time_most", "gap_max", "balancedness_mean", "num_optimal",
                           "traffic"}  # fmt: skip
    assert set(policy["layers"][0]) == {"layer", "makespan", "gap", "optimal", "traffic",
                                        "time", "time_most"}  # fmt: skip


@pytest.mark.parametrize(("nodes", "groups", "rule"), [(1, 1, Rule.GLOBAL), (4, 8, "hierarchical")])
def test_recorded_deepseek_v3(recorded: Path, nodes: int, groups: int, rule: str) -> None:
    loads = read_loads(recorded / "deepseek_v3" / "prefill_in2048.json").loads
    instance = Instance(loads, Topology(288, 32, nodes, groups))
    assert instance.rule == rule
    report = measure_gap(instance)
    assert [r.status for r in report.reference].count("no-load") == 3
    policy = report.policies[0]
    assert len(policy.layers) == 58
    assert all(layer.gap >= 0 for layer in policy.layers)
    assert policy.gap_max < 0.02


def in_order(weight, num_replicas, *_sizes):
    return torch.arange(num_replicas).remainder(weight.shape[1]).repeat(len(weight), 1)


def test_a_policy_is_a_name_a_file_or_a_function() -> None:
    report = measure_gap(PUBLISHED, ["deepseek", in_order, f"{FILE}:new_vllm"])
    assert [p.status for p in report.policies] == ["ok"] * 3
    assert report.policies[1].policy == "in_order"
    alone = measure_gap(PUBLISHED, in_order).policies
    assert [(p.policy, p.gap_max) for p in alone] == [("in_order", report.policies[1].gap_max)]


def test_one_name_is_not_read_letter_by_letter() -> None:
    assert [p.policy for p in measure_gap(PUBLISHED, "refined:3").policies] == ["refined:3"]


def test_functions_of_one_name_are_told_apart() -> None:
    """One of two lambdas was once lost in the attribution."""
    both = [lambda *a: POLICIES["deepseek"](*a), lambda *a: POLICIES["refined"](*a)]
    report = measure_gap(PUBLISHED, (policy for policy in both), explain=True, time_limit=0)
    names = [policy.policy for policy in report.policies]
    assert len(set(names)) == 2
    assert [split.policy for split in report.attribution] == names
    assert {f.__name__ for f in POLICIES.values()} == set(POLICIES)


def stop_at(what: str) -> Callable[[str, int, int], None]:
    def stop(doing: str, done: int, _total: int) -> None:
        if (doing, done) == (what, 1):
            raise KeyboardInterrupt

    return stop


def test_ctrl_c_between_policies_leaves_the_others_out_and_the_bounds_in() -> None:
    instance = Instance([[9, 5, 4, 3, 2, 1], [8, 4, 2, 1, 1, 1]], Topology(8, 4))
    report = measure_gap(instance, ["deepseek", "refined"], progress=stop_at("refined"))
    assert report.interrupted
    assert [(p.status, p.message) for p in report.policies] == [
        ("ok", ""),
        ("error", "interrupted"),
    ]
    assert not any(reference.searched for reference in report.reference)
    assert len(report.reference) == len(report.policies[0].layers) == 2


def test_ctrl_c_in_a_reference_leaves_bounds_for_the_rest() -> None:
    instance = Instance([[9, 5, 4, 3, 2, 1], [8, 4, 2, 1, 1, 1]], Topology(8, 4))
    report = measure_gap(instance, ["deepseek"], progress=stop_at("reference"))
    assert report.interrupted
    assert [len(report.reference), len(report.policies[0].layers)] == [2, 2]
    assert not report.reference[1].searched
    json.dumps(documents.gap(report), allow_nan=False)
