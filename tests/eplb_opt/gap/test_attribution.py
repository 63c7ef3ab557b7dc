import random
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Topology, documents
from eplb_opt.gap import measure_gap
from eplb_opt.gap.attribution import TERMS, attribute, attribute_layers, void_terms
from eplb_opt.gap.loss_split import Split, point
from eplb_opt.gap.optima import NO_SEARCH
from eplb_opt.io import read_loads
from solvers.options import SearchOptions
from tests.oracles.layers import HALVES, WHOLE, rows
from tests.oracles.placements import nested_optima, valid_placements

MACHINES = [
    ("global", Topology(6, 3), False),
    ("global", Topology(6, 2), True),
    ("global", Topology(4, 2), False),  # no redundant expert
    ("hierarchical", Topology(6, 2, 2, 4), False),  # one rank a node
    ("hierarchical", Topology(8, 4, 2, 2), False),  # one group a node
    ("hierarchical", Topology(8, 4, 2, 4), False),
    ("hierarchical", Topology(8, 4, 2, 4), True),
    ("hierarchical", Topology(6, 3, 1, 2), False),  # one node
]
LOADS = rows(4, WHOLE, HALVES).filter(any)
LEFT_HEAVY = (0, 1, 0, 1, 2, 3, 2, 3)
UNTIL_PROVEN = SearchOptions()


def layer_on(machine: tuple[str, Topology, bool], loads: list[int] | list[float]) -> Layer:
    rule, topology, spread = machine
    return Instance([loads], topology, rule, spread_replicas=spread).layer(0)


def true_terms(layer: Layer, slots: tuple[int, ...]) -> dict[str, Fraction]:
    optima = nested_optima(layer, slots)
    losses = [(inner - outer) / optima[0] for outer, inner in pairwise(optima)]
    return dict(zip(TERMS, losses, strict=True))


@settings(max_examples=60)
@given(st.sampled_from(MACHINES), LOADS, st.randoms(use_true_random=False))
def test_terms_contain_the_truth(
    machine: tuple[str, Topology, bool], loads: list[int], randomness: random.Random
) -> None:
    layer = layer_on(machine, loads)
    placed = {name: randomness.choice(valid_placements(layer)) for name in ("a", "b")}
    for search in (NO_SEARCH, UNTIL_PROVEN):
        for name, found in attribute(layer, placed, search).items():
            truth, split = true_terms(layer, placed[name]), found.split
            assert split.total == sum(truth.values())
            assert all(truth[term] in split.terms[term] for term in TERMS)
            own = truth["groups"] + truth["counts"] + truth["packing"]
            assert own in split.sums["own"]
            if search is UNTIL_PROVEN:
                assert dict(split.terms) == {term: point(truth[term]) for term in TERMS}
                assert dict(split.shown) == truth


@settings(max_examples=40)
@given(st.sampled_from(MACHINES), LOADS, st.randoms(use_true_random=False))
def test_void_terms_are_zero(
    machine: tuple[str, Topology, bool], loads: list[int], randomness: random.Random
) -> None:
    layer = layer_on(machine, loads)
    truth = true_terms(layer, randomness.choice(valid_placements(layer)))
    assert all(truth[term] == 0 for term in void_terms(layer))


@pytest.mark.parametrize(
    ("rule", "topology", "void"),
    [
        ("global", Topology(16, 8, 2, 4), {"rule", "groups"}),
        ("hierarchical", Topology(16, 8, 2, 4), set()),
        ("hierarchical", Topology(16, 8, 4, 4), {"groups"}),
        ("hierarchical", Topology(8, 2, 2, 4), {"counts", "packing"}),
    ],
)
def test_void_terms(rule: str, topology: Topology, void: set[str]) -> None:
    assert void_terms(Instance([range(8)], topology, rule).layer(0)) == void


@pytest.mark.parametrize(
    ("term", "loads", "rule", "topology", "slots", "loss"),
    [
        ("granularity", [9, 1, 1, 1], "global", Topology(4, 4), (0, 1, 2, 3), "2"),
        ("rule", [4, 4, 0, 0], "hierarchical", Topology(8, 4, 2, 2), LEFT_HEAVY, "1"),
        ("groups", [4, 4, 0, 0], "hierarchical", Topology(8, 4, 2, 4), LEFT_HEAVY, "1"),
        ("counts", [4, 4], "global", Topology(4, 2), (0, 1, 1, 1), "1/3"),
        ("packing", [4, 3, 2, 1], "global", Topology(4, 2), (0, 1, 2, 3), "2/5"),
    ],
)  # fmt: skip
def test_each_term_can_be_the_only_reason(
    term: str, loads: list[int], rule: str, topology: Topology, slots: tuple[int, ...], loss: str
) -> None:
    layer = Instance([loads], topology, rule).layer(0)
    split = attribute(layer, {"x": slots}, UNTIL_PROVEN)["x"].split
    assert split.total == Fraction(loss)
    zeros = dict.fromkeys(TERMS, point(0))
    assert dict(split.terms) == zeros | {term: point(Fraction(loss))}


def test_placements_are_incumbents_for_each_other() -> None:
    layer = Instance([[4, 3, 2, 1]], Topology(4, 2)).layer(0)
    alone = attribute(layer, {"bad": (0, 1, 2, 3)})["bad"].split
    together = attribute(layer, {"bad": (0, 1, 2, 3), "good": (0, 3, 1, 2)})["bad"].split
    assert alone.shown["packing"] == 0 < alone.terms["packing"].high
    assert together.shown["packing"] == together.total == Fraction(2, 5)


def test_a_layer_without_load_has_no_loss() -> None:
    instance = Instance([[0, 0], [3, 1]], Topology(2, 2))
    with pytest.raises(ValueError, match="layer 0 has no load"):
        attribute(instance.layer(0), {"x": (0, 1)})
    report = measure_gap(instance, explain=True)
    assert [layer.layer for layer in report.attribution[0].layers] == [1]


def test_only_policies_with_a_placement() -> None:
    layers = Instance([[3, 1]], Topology(2, 2)).layers()
    assert attribute_layers(layers, {}, NO_SEARCH, lambda *_: None) == ((), False)
    report = measure_gap(Instance([[3, 1]], Topology(2, 2)), ["nonsense"], explain=True)
    assert report.attribution == ()
    assert measure_gap(Instance([[3, 1]], Topology(2, 2))).attribution == ()


def test_ctrl_c_keeps_the_layers_that_are_done() -> None:
    def stop_at_the_second(_what: str, done: int, _total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    layers = Instance([[3, 1], [2, 2]], Topology(2, 2)).layers()
    placed = {"x": [(0, 1), (0, 1)]}
    (policy,), interrupted = attribute_layers(layers, placed, NO_SEARCH, stop_at_the_second)
    assert interrupted
    assert [layer.layer for layer in policy.layers] == [0]


def test_exact_values_of_the_json_add_up() -> None:
    loads = [[600, 560, 120, 120, 20, 10, 10, 10], [0.1, 5, 0.7, 3, 2, 1, 1, 9]]
    report = measure_gap(
        Instance(loads, Topology(16, 8, 2, 4)), ["deepseek", "refined"], explain=True
    )
    for policy, gap in zip(documents.gap(report)["attribution"], report.policies, strict=True):
        mean: Split = report.attribution[0].mean
        assert isinstance(mean.total, Fraction)
        for entry in (policy["mean"], *policy["layers"]):
            terms = entry["terms"].values()
            assert sum(Fraction(term["shown_exact"]) for term in terms) == Fraction(
                entry["total_exact"]
            )
            for term in terms:
                assert Fraction(term["low"]) <= Fraction(term["low_exact"])
                assert Fraction(term["high"]) >= Fraction(term["high_exact"])
        reference = [r.mean_load for r in report.reference]
        losses = [
            layer.makespan / mean_load - 1
            for layer, mean_load in zip(gap.layers, reference, strict=True)
        ]
        assert [Fraction(layer["total_exact"]) for layer in policy["layers"]] == losses


def test_recorded_deepseek_v3_loses_by_the_rule(recorded: Path) -> None:
    loads = read_loads(recorded / "deepseek_v3" / "prefill_in2048.json").loads
    instance = Instance(loads, Topology(288, 32, 4, 8)).select([5, 20, 35, 50])
    (policy,) = measure_gap(instance, explain=True).attribution
    mean = policy.mean
    assert mean.terms["rule"].low > Fraction(10, 100)
    assert mean.sums["own"].high < Fraction(1, 100)
    assert mean.terms["rule"].high - mean.terms["rule"].low < Fraction(1, 1000)
