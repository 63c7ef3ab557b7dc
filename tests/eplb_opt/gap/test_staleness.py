import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Topology, documents
from eplb_opt.gap import measure_gap
from eplb_opt.gap.loss_split import point
from eplb_opt.gap.optima import NO_SEARCH
from eplb_opt.gap.staleness import next_window, same_problem, split_by_change
from solvers.dispatch import value
from tests.eplb_opt.gap.test_attribution import LOADS, MACHINES, UNTIL_PROVEN, layer_on
from tests.oracles.placements import optimum, valid_placements

PUBLISHED = [600, 560, 120, 120, 20, 10, 10, 10]


@settings(max_examples=50)
@given(st.sampled_from(MACHINES), LOADS, LOADS, st.randoms(use_true_random=False))
def test_terms_contain_the_truth(
    machine: tuple[str, Topology, bool],
    first: list[int],
    second: list[int],
    randomness: random.Random,
) -> None:
    seen, served = layer_on(machine, first), layer_on(machine, second)
    slots = randomness.choice(valid_placements(seen))
    mean = [sum(x.loads) * x.unit / x.topology.num_ranks for x in (seen, served)]
    made, used = value(seen, slots).incumbent / mean[0], value(served, slots).incumbent / mean[1]
    best_made, best_used = optimum(seen) / mean[0], optimum(served) / mean[1]
    truth = {
        "hindsight": best_used - 1,
        "optimality": made - best_made,
        "staleness": used - made - best_used + best_made,
    }
    for search in (NO_SEARCH, UNTIL_PROVEN):
        split = split_by_change(seen, served, {"x": slots}, search)["x"].split
        assert split.total == used - 1 == sum(split.shown.values())
        assert all(truth[term] in split.terms[term] for term in truth)
        assert used - best_used in split.sums["regret"]
        if search is UNTIL_PROVEN:
            assert dict(split.shown) == truth


@given(LOADS, st.integers(1, 7))
def test_proportional_loads_are_not_stale(loads: list[int], factor: int) -> None:
    machine = ("global", Topology(6, 3), False)
    seen, served = layer_on(machine, loads), layer_on(machine, [factor * w for w in loads])
    split = split_by_change(seen, served, {"x": (0, 1, 2, 3, 0, 1)})["x"].split
    assert split.terms["staleness"] == point(0)
    assert split.shown["staleness"] == 0


def test_serving_what_was_seen_has_the_same_gap_and_no_staleness() -> None:
    instance = Instance([PUBLISHED, [0] * 8], Topology(16, 8))
    plain = measure_gap(instance)
    report = measure_gap(instance, serve_on=Instance([PUBLISHED, [0] * 8], Topology(16, 8)))
    assert report.policies[0].layers == plain.policies[0].layers
    ((layer,),) = (policy.layers for policy in report.staleness)
    assert layer.split.terms["staleness"] == point(0)
    assert layer.split.terms["optimality"] == layer.split.sums["regret"]
    assert layer.split.terms["hindsight"] == point(Fraction(590, 3) * 8 / 1450 - 1)
    assert plain.staleness == ()


def test_a_layer_that_had_no_load_when_it_was_placed() -> None:
    machine = Topology(4, 2)
    seen, served = Instance([[0, 0]], machine).layer(0), Instance([[3, 1]], machine).layer(0)
    split = split_by_change(seen, served, {"x": (0, 0, 1, 1)})["x"].split
    assert split.terms["optimality"] == point(0)
    assert split.terms["staleness"] == split.sums["regret"]
    with pytest.raises(ValueError, match="no load to serve"):
        split_by_change(served, seen, {"x": (0, 0, 1, 1)})


def test_policies_see_one_recording_and_are_measured_on_the_other() -> None:
    seen = Instance([PUBLISHED], Topology(16, 8), source="seen")
    served = Instance([PUBLISHED[::-1]], Topology(16, 8), source="served")
    report = measure_gap(seen, serve_on=served)
    slots = measure_gap(seen).policies[0].placement
    assert slots is not None
    assert report.instance is served
    assert report.placed_on == "seen"
    makespan = value(served.layer(0), slots.phy2log[0].tolist()).incumbent
    assert report.policies[0].layers[0].makespan == makespan
    assert report.staleness[0].mean.total == makespan * 8 / 1450 - 1
    document = documents.gap(report)
    assert document["placed_on"] == "seen"
    assert set(document["staleness"][0]["mean"]["terms"]) == {
        "hindsight",
        "optimality",
        "staleness",
    }


def test_next_window_pairs_each_step_with_the_one_after() -> None:
    trace = np.arange(3 * 2 * 4).reshape(3, 2, 4)
    seen, served = next_window(Instance(trace, Topology(4, 2), source="t"))
    assert seen.loads.tolist() == trace[:2].reshape(4, 4).tolist()
    assert served.loads.tolist() == trace[1:].reshape(4, 4).tolist()
    assert (seen.source, served.source) == ("t, steps 0 to 1", "t, steps 1 to 2")
    for loads in (trace[:1], trace[0]):
        with pytest.raises(ValueError, match="trace of at least two steps"):
            next_window(Instance(loads, Topology(4, 2)))


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (Instance([[1, 2, 3], [1, 2, 3]], Topology(4, 2)), "num_layers=2"),
        (Instance([[1, 2]], Topology(4, 2)), "num_logical_experts=2"),
        (Instance([[1, 2, 3]], Topology(6, 2)), "topology="),
    ],
)
def test_other_loads_must_fit(other: Instance, name: str) -> None:
    instance = Instance([[1, 2, 3]], Topology(4, 2))
    with pytest.raises(ValueError, match=name):
        same_problem(instance, other)
    with pytest.raises(ValueError, match=name):
        measure_gap(instance, serve_on=other)
