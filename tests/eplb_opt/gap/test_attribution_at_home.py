"""What the rule ``home`` costs, and what it brings back of the cost of the hierarchical rule."""

from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from random import Random

import pytest

from eplb_opt import Instance, Layer, Rule, Topology
from eplb_opt.gap import measure_gap
from eplb_opt.gap.attribution import HOME_TERMS, attribute
from eplb_opt.gap.loss_split import point
from eplb_opt.gap.optima import NO_SEARCH
from eplb_opt.gap.served_loss import TERMS, Placed, split_served_loss
from eplb_opt.problem.objective import Cost, Dispatch, Objective, mean_load
from solvers.dispatch import value
from solvers.options import SearchOptions
from tests.oracles.home import home_placements
from tests.oracles.placements import optimum

MACHINE = Topology(6, 2, 2, 2)


def home_layer(random: Random, limit: Fraction) -> Layer:
    loads = [[random.randint(0, 12) for _ in range(3)] + [random.randint(1, 12)]]
    return Instance(loads, MACHINE, rule="home", traffic_limit=limit).layer(0)


@pytest.mark.parametrize("limit", [Fraction(0), Fraction(1, 10), Fraction(1, 4), Fraction(1)])
def test_terms_contain_the_truth(limit: Fraction) -> None:
    random = Random(str(limit))
    for i in range(6):
        layer = home_layer(random, limit)
        allowed = [placed for placed, away in home_placements(layer) if away <= limit]
        best = min(value(layer, placed).incumbent for placed in allowed)
        anywhere = optimum(layer.without_nodes())
        tighter = optimum(replace(layer.without_limit(), rule=Rule.HIERARCHICAL))
        placed, mean = random.choice(allowed), mean_load(layer)
        paid = value(layer, placed).incumbent
        truth = dict(zip(HOME_TERMS, (anywhere - mean, best - anywhere, paid - best), strict=True))
        beside = {"hierarchical": tighter - anywhere, "recovered": tighter - best}
        for search in (NO_SEARCH, *[SearchOptions()] * (i == 0)):
            split = attribute(layer, {"mine": placed}, search)["mine"].split
            assert split.total == sum(truth.values()) / mean
            for terms, true in ((split.terms, truth), (split.beside, beside)):
                assert all(true[name] / mean in interval for name, interval in terms.items())
                assert terms.keys() == true.keys()
        if search != NO_SEARCH:
            assert dict(split.terms) == {name: point(term / mean) for name, term in truth.items()}


def test_on_one_node_it_is_the_global_rule() -> None:
    layer = Instance([[4, 2, 1, 1]], Topology(6, 2), rule="home").layer(0)
    split = attribute(layer, {"mine": [0, 0, 1, 0, 2, 3]})["mine"].split
    assert split.terms["rule"] == point(0)
    assert "packing" in split.terms


def test_a_report_explains_and_says_what_is_recovered() -> None:
    instance = Instance([[6, 2, 1, 1], [0] * 4], MACHINE, rule="home", traffic_limit="0.25")
    report = measure_gap(instance, ["deepseek", "refined"], explain=True, time_limit=0)
    for split in report.attribution:
        recovered = split.mean.beside["recovered"]
        assert 0 <= recovered.low <= recovered.high <= split.mean.beside["hierarchical"].high


@pytest.mark.parametrize("dispatch", ["even", "fixed", "optimal"])
def test_over_steps_terms_contain_the_truth(dispatch: str) -> None:
    """A single step under even or fixed shares may exceed the limit of the sum."""
    random, cost = Random(1), Cost.of("mean", dispatch)
    best = partial(value, objective=Objective.parse("sum"), dispatch="optimal")
    trace = [[[random.randint(0, 9) for _ in range(4)]] for _ in range(2)]
    layer = Instance(trace, MACHINE, rule="home", traffic_limit="0.2").layer(0)
    homes, even = dict(home_placements(layer)), cost.dispatch == Dispatch.EVEN
    placed = random.choice([x for x, away in homes.items() if not even or 0.1 < away <= 0.2])
    served = layer if dispatch == "optimal" else layer.without_limit()
    paid = value(layer, placed, *cost).incumbent
    everywhere = list(home_placements(layer.without_nodes()))
    alone = [
        [min(best(step, x).incumbent for x in known) for step in problem.each_step()]
        for problem, known in (
            (layer.without_nodes(), [x for x, _ in everywhere]),
            (served, homes),
        )
    ]
    optima = [
        mean_load(layer, cost.objective),
        *map(cost.objective.over, alone),
        min(value(served, x, "mean", "optimal").incumbent for x in homes),
        value(served, placed, "mean", "optimal").incumbent,
        paid,
    ]
    truth = [(b - a) / optima[0] for a, b in pairwise(optima)]
    for search in (NO_SEARCH, SearchOptions()):
        found = split_served_loss(layer, {"mine": Placed(placed, paid)}, cost, search)
        split = found["mine"].split
        assert split.total == sum(truth)
        assert all(term in split.terms[name] for name, term in zip(TERMS, truth, strict=True))
