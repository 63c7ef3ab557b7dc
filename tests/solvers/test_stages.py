"""Stages before packing, decisions given, limits."""

from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Rule, Topology, bounds
from eplb_opt.io.synthetic import generate
from eplb_opt.problem.result import Result, Stage
from solvers import BACKENDS, Stages, solve
from solvers.backends import COUNTS, JOINT, Backend
from solvers.bracket import Bracket
from solvers.formulations.groups import blocks_of

NODES = Topology(16, 8, num_nodes=4, num_groups=8)


def layer_of(loads: list[int], topology: Topology, rule: str = "auto") -> Layer:
    return Instance([loads], topology, rule).layer(0)


def lognormal(experts: int, *sizes: int, seed: int = 0) -> Layer:
    loads = generate("lognormal", num_layers=1, num_experts=experts, tokens=4096 * experts,
                     seed=seed)  # fmt: skip
    return Instance(loads, Topology(*sizes)).layer(0)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=8, max_size=8))
def test_groups_are_dealt_optimally(loads: list[int]) -> None:
    result = solve(layer_of(loads, NODES), stage="groups")
    best = min(max(sum(p[i : i + 2]) for i in (0, 2, 4, 6)) for p in set(permutations(loads)))
    assert result.objective == result.lower_bound == best
    assert sorted(map(len, blocks_of(result.node_of_group))) == [2, 2, 2, 2]


def test_groups_of_equal_load_are_not_all_that_counts() -> None:
    # No replica is spare, so 18 stays whole: its node needs 18 whatever it is paired with.
    layer = layer_of([18, 0, 4, 0, 10, 0, 10, 0], Topology(8, 4, num_nodes=2, num_groups=4))
    assert solve(layer, stage="groups").objective == 22
    assert bounds.of(layer).value == solve(layer).objective == 18


def test_many_groups_are_dealt_by_size() -> None:
    loads = [(7 * i) % 64 for i in range(64)]
    layer = layer_of(loads, Topology(64, 8, num_nodes=8, num_groups=64))
    result = solve(layer, stage="groups")
    assert result.backend == "largest-first"
    assert result.lower_bound <= result.objective <= result.lower_bound * Fraction(11, 10)
    assert solve(layer, time_limit=2).lower_bound >= bounds.of(layer).value


def test_global_rule_has_no_groups() -> None:
    with pytest.raises(ValueError, match="needs rule='hierarchical'"):
        solve(layer_of([1, 2], Topology(2, 1)), stage="groups")


def test_counts_within_limits() -> None:
    layer = layer_of([100, 10, 1], Topology(6, 3))
    assert solve(layer, stage="counts").counts == (4, 1, 1)
    limits = Stages(least=[1, 2, 1], most=[2, 4, 4])
    result = solve(layer, stage="counts", given=limits)
    assert (result.counts, result.objective, result.status) == ((2, 3, 1), 50, "optimal")
    with pytest.raises(ValueError, match=r"given\.most allow 3 replicas for the 6 slots"):
        solve(layer, stage="counts", given=Stages(most=[1, 1, 1]))


def test_counts_per_node_within_limits() -> None:
    layer = layer_of([8, 1, 6, 1], Topology(8, 4, num_nodes=2, num_groups=2))
    assert solve(layer, stage="counts").counts == (3, 1, 3, 1)
    limited = solve(layer, stage="counts", given=Stages(most=[2, 4, 4, 4]))
    assert limited.counts == (2, 2, 3, 1)


def test_given_decisions_are_kept() -> None:
    layer = layer_of([8, 1, 6, 1, 5, 1, 4, 1], Topology(12, 4, num_nodes=2, num_groups=4))
    given_stages = Stages(node_of_group=(0, 0, 1, 1), counts=(3, 1, 1, 1, 2, 1, 2, 1))
    result = solve(layer, stage="packing", given=given_stages)
    assert result.node_of_group == (0, 0, 1, 1)
    assert result.counts == (3, 1, 1, 1, 2, 1, 2, 1)
    assert set(result.placement[:6]) == {0, 1, 2, 3}


@pytest.mark.parametrize(("stage", "backend"), [("packing", "gurobi"), ("joint", "auto2")])
def test_unknown_backend(stage: str, backend: str) -> None:
    with pytest.raises(ValueError, match=f"backend='{backend}' is not one of auto"):
        solve(layer_of([1, 2], Topology(2, 1)), stage=stage, backend=backend)


def test_unknown_stage() -> None:
    with pytest.raises(ValueError, match="stage='order' is not one of groups, counts, packing"):
        solve(layer_of([1, 2], Topology(2, 1)), stage="order")


def test_infeasible_is_a_status() -> None:
    layer = Layer((4, 2), Fraction(1), Topology(6, 2), Rule.GLOBAL, spread_replicas=True)
    result = solve(layer)
    assert (result.status, result.objective, result.gap) == ("infeasible", None, None)


@pytest.mark.parametrize("stage", ["packing", "joint"])
def test_limit_keeps_incumbent_and_bound(stage: str) -> None:
    layer = lognormal(48, 72, 24)
    for backend, entry in BACKENDS[stage].items():
        if not (entry.takes(layer) and entry.is_installed()):
            continue
        result = solve(layer, stage=stage, backend=backend, time_limit=0.3)
        assert 0 < result.lower_bound <= result.objective, backend
        assert result.status == "feasible", backend
        assert result.limit == "time", backend


@pytest.mark.parametrize("backend", ["search", "cp-sat"])
def test_work_limit_is_repeatable(backend: str) -> None:
    layer = lognormal(24, 32, 8)
    first, second = (solve(layer, backend=backend, work_limit=300_000, seed=3) for _ in range(2))
    assert first.placement == second.placement
    assert first.lower_bound == second.lower_bound


def test_tolerance_ends_the_search_early() -> None:
    layer = lognormal(64, 80, 8)
    result = solve(layer, time_limit=60, tolerance=0.01)
    assert result.gap <= 0.01
    assert result.runtime < 60
    assert result.limit in (None, "tolerance")


def test_an_invalid_placement_of_a_backend_is_never_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> Bracket:
        return Bracket((0, 0), Fraction(1), Fraction(0), "broken")

    monkeypatch.setitem(JOINT, "cp-sat", Backend(broken))
    with pytest.raises(RuntimeError, match="cp-sat returned an invalid placement"):
        solve(layer_of([1, 2], Topology(2, 1)), backend="cp-sat")


def test_a_bound_above_the_value_is_the_fault_of_the_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_high(*_: object) -> Bracket:
        return Bracket((0, 1), Fraction(3), Fraction(4), "liar")

    monkeypatch.setitem(JOINT, "cp-sat", Backend(too_high))
    with pytest.raises(RuntimeError, match="cp-sat claims 4 is below 3"):
        solve(layer_of([1, 2], Topology(2, 1)), backend="cp-sat")


@pytest.mark.parametrize("rule", ["global", "hierarchical"])
def test_the_backend_of_counts_that_is_named_is_asked(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lazy(layer: Layer, _least: object, _most: object) -> Result:
        spare = layer.num_redundant_experts
        counts = (1 + spare, *[1] * (len(layer.loads) - 1))
        return Result(Stage.COUNTS, "lazy", Fraction(0), Fraction(9), counts=counts)

    monkeypatch.setitem(COUNTS, "lazy", Backend(lazy))
    layer = layer_of([1, 2, 3, 4], Topology(8, 4, 2, 2), rule)
    result = solve(layer, stage="counts", backend="lazy")
    assert result.backend == "lazy"
    assert result.counts == ((5, 1, 1, 1) if rule == "global" else (3, 1, 3, 1))
