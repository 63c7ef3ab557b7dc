"""The rule ``home``: makespans under optimal dispatch with few tokens off home, and proofs."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from eplb_opt import Instance, Layer, Topology
from eplb_opt.problem import homes
from eplb_opt.problem.objective import Cost, cost_of_shares
from eplb_opt.problem.validity import over_limit
from solvers.dispatch import best_shares, traffic, value, value_evidence
from tests.oracles.steps import maximize, steps_of

Placed = tuple[Layer, tuple[int, ...]]
OBJECTIVES = st.sampled_from(["sum", "mean", "worst", "cvar:0.4"])
LIMITS = st.sampled_from([Fraction(0), Fraction(1, 20), Fraction(1, 7), Fraction(1, 3)])


@st.composite
def at_home(draw: st.DrawFn) -> Placed:
    """A tiny trace, a limit, and a placement with every expert at home."""
    experts, size, ranks, nodes, groups = draw(
        st.sampled_from([(4, 3, 2, 2, 2), (4, 2, 4, 2, 4), (3, 3, 3, 3, 3), (6, 2, 6, 3, 3)])
    )
    topology = Topology(size * ranks, ranks, nodes, groups)
    home = draw(st.permutations([k % nodes for k in range(groups)]))
    slots = [-1] * (size * ranks)
    for e in range(experts):
        node = home[e * groups // experts] * topology.slots_per_node
        free = [p for p in range(node, node + topology.slots_per_node) if slots[p] < 0]
        slots[draw(st.sampled_from(free))] = e
    filled = tuple(draw(st.integers(0, experts - 1)) if e < 0 else e for e in slots)
    loads = draw(st.sampled_from([st.integers(0, 3), st.integers(0, 60), st.floats(0, 9)]))
    row = st.lists(loads, min_size=experts, max_size=experts)
    trace = draw(st.lists(row, min_size=1, max_size=3))
    instance = Instance([[r] for r in trace], topology, rule="home", traffic_limit=draw(LIMITS))
    return instance.layer(0), filled


def pairs_of(layer: Layer, slots: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(expert, rank, 1 if off home)."""
    found, topology = homes.find_homes(layer, slots), layer.topology
    assert found is not None
    size = len(layer.loads) // topology.num_groups
    ranks = sorted({(e, p // topology.slots_per_rank) for p, e in enumerate(slots)})
    return [(e, g, int(found[e // size] != g // topology.ranks_per_node)) for e, g in ranks]


def by_simplex(layer: Layer, slots: tuple[int, ...], row: list[Fraction]) -> Fraction:
    """max sum of v_e - X W lambda with v_e <= w_e (lambda away + rho_g), sum of rho <= 1, all >= 0:
    the dual of the makespan of one step.
    """
    E, G = len(row), layer.topology.num_ranks
    rows = []
    for e, g, away in pairs_of(layer, slots):
        rows.append([Fraction(0)] * (E + G + 1))
        rows[-1][e], rows[-1][E + g], rows[-1][E + G] = Fraction(1), -row[e], -away * row[e]
    rows.append([Fraction(int(E <= i < E + G)) for i in range(E + G + 1)])
    gains = [Fraction(1)] * E + [Fraction(0)] * G + [-layer.traffic_limit * sum(row)]
    return maximize(rows, [Fraction(0)] * (len(rows) - 1) + [Fraction(1)], gains)


@settings(max_examples=12, deadline=None)
@given(at_home(), OBJECTIVES)
def test_makespans_are_those_of_the_linear_program(placed: Placed, objective: str) -> None:
    agrees_with_simplex(placed, objective)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(at_home(), OBJECTIVES)
def test_a_thousand_makespans(placed: Placed, objective: str) -> None:
    agrees_with_simplex(placed, objective)


def agrees_with_simplex(placed: Placed, objective: str) -> None:
    layer, slots = placed
    cost = Cost.of(objective, "optimal").on(layer)
    makespans = [by_simplex(layer, slots, row) for row in steps_of(layer, objective)]
    found = value(layer, slots, *cost)
    assert found.value == found.bound == cost.objective.over(makespans)


@settings(max_examples=12, deadline=None)
@given(at_home(), st.sampled_from(["sum", "mean"]))
def test_prices_prove_the_makespans(placed: Placed, objective: str) -> None:
    layer, slots = placed
    cost = Cost.of(objective, "optimal").on(layer)
    evidence, proven = value_evidence(layer, slots, cost), []
    for row, prices, of_traffic in zip(
        steps_of(layer, objective), evidence.prices, evidence.traffic_prices, strict=True
    ):
        least = dict.fromkeys(range(len(row)), 10**6)
        for e, g, away in pairs_of(layer, slots):
            least[e] = min(least[e], of_traffic * away + prices[g])
        worth = sum(w * least[e] for e, w in enumerate(row))
        assert min(prices) >= 0
        assert sum(prices) > 0
        proven.append((worth - of_traffic * layer.traffic_limit * sum(row)) / sum(prices))
    assert cost.objective.over(proven) == value(layer, slots, *cost).value


@settings(max_examples=10, deadline=None)
@given(at_home())
def test_ends_and_order_of_limits(placed: Placed) -> None:
    layer, slots = placed
    limits = [Fraction(0), layer.traffic_limit, Fraction(1, 2), Fraction(1)]
    layers = [replace(layer, traffic_limit=limit) for limit in limits]
    costs = [value(one, slots, "mean", "optimal").incumbent for one in layers]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == value(replace(layer, rule="global"), slots, "mean", "optimal").value
    assert [traffic(one, slots, Cost.of("mean", "optimal")) <= one.traffic_limit for one in layers]
    found = {e: [] for e in slots}
    for e, g, away in pairs_of(layer, slots):
        found[e] += [] if away else [g]
    alone = sum(
        max(
            sum(w for w, ranks in zip(row, held, strict=True) if set(ranks) <= set(chosen))
            / len(chosen)
            for chosen in nonempty(range(layer.topology.num_ranks))
        )
        for held in [[found[e] for e in range(len(layer.loads))]]
        for row in steps_of(layer)
    )
    assert costs[0] * len(layer.steps) == alone


def nonempty(items: range) -> list[list[int]]:
    return [[i for i in items if mask >> i & 1] for mask in range(1, 2 ** len(items))]


@settings(max_examples=12, deadline=None)
@given(at_home())
def test_shares_meet_the_limit(placed: Placed) -> None:
    layer, slots = placed
    found = best_shares(layer, slots)
    topology = layer.topology
    loads, away = [Fraction(0)] * topology.num_ranks, Fraction(0)
    off = {(e, g): flag for e, g, flag in pairs_of(layer, slots)}
    for e, row in enumerate(found.tokens):
        assert sum(row.values()) == layer.loads[e] * layer.unit
        assert all(part > 0 for part in row.values())
        for g, part in row.items():
            loads[g] += part
            away += part * off[e, g]
    total = sum(layer.loads) * layer.unit
    assert away <= layer.traffic_limit * total
    assert max(loads) == found.makespan == value(layer, slots, "sum", "optimal").value
    if total:
        assert away / total == traffic(layer, slots, Cost.of("sum", "optimal"))


def large(steps: int, shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Placed:
    """Skewed loads, and copies of heavy experts off home."""
    experts, num_slots, ranks, nodes, groups = shape
    random = np.random.default_rng(seed)
    topology = Topology(num_slots, ranks, nodes, groups)
    base = np.sort(random.dirichlet(np.full(experts, 0.4)))[::-1]
    trace = random.multinomial(40_000, base, (steps, 1))
    per_node, spare = topology.slots_per_node, (num_slots - experts) // nodes
    homed = [range(n * experts // nodes, (n + 1) * experts // nodes) for n in range(nodes)]
    slots: list[int] = []
    for n in range(nodes):
        copies = list(range(n * spare, (n + 1) * spare))  # of the heaviest, at home on node 0
        slots += random.permutation([*homed[n], *copies]).tolist()
    assert len(slots) == nodes * per_node
    trace = trace if scale == 1 else trace * scale
    return Instance(trace, topology, rule="home", traffic_limit="1/10").layer(0), tuple(slots)


def in_floats(layer: Layer, slots: tuple[int, ...], row: list[Fraction]) -> float:
    """The makespan of a step by HiGHS."""
    pairs, G = pairs_of(layer, slots), layer.topology.num_ranks
    upper, once = np.zeros((G + 1, len(pairs) + 1)), np.zeros((len(row), len(pairs) + 1))
    for i, (e, g, away) in enumerate(pairs):
        upper[g, i], upper[G, i], once[e, i] = float(row[e]), away * float(row[e]), 1
    upper[:G, -1] = -1
    most = np.r_[np.zeros(G), float(layer.traffic_limit * sum(row))]
    cost = np.r_[np.zeros(len(pairs)), 1]
    found = linprog(cost, upper, most, once, np.ones(len(row)), method="highs")
    return float(found.fun)


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("shape", [(32, 48, 8, 4, 8), (128, 144, 16, 4, 8)])
def test_many_ranks(shape: tuple[int, ...], scale: float) -> None:
    layer, slots = large(12, shape, 1, scale)
    evidence = value_evidence(layer, slots, Cost.of("mean", "optimal"))
    assert any(evidence.traffic_prices)
    makespans = [value(step, slots, "sum", "optimal").value for step in layer.each_step()[:2]]
    for found, row in zip(makespans, steps_of(layer)[:2], strict=True):
        assert float(found) == pytest.approx(in_floats(layer, slots, row), rel=1e-9)
    everywhere = value(layer, slots, "mean", "optimal").incumbent
    assert value(replace(layer, steps=layer.steps[:2]), slots, "mean", "optimal").value == (
        sum(makespans) / 2
    )
    assert everywhere > value(layer.without_limit(), slots, "mean", "optimal").incumbent


def test_without_homes() -> None:
    layer = Instance([[4, 3, 2, 1]], Topology(4, 2, 2, 2), rule="home", traffic_limit=0.5).layer(0)
    for dispatch in ("optimal", "fixed"):
        with pytest.raises(ValueError, match="no homes of the groups"):
            value(layer, (0, 2, 1, 3), "sum", dispatch)
    with pytest.raises(ValueError, match="no homes of the groups"):
        traffic(layer, (0, 2, 1, 3))


def test_traffic_under_each_dispatch() -> None:
    """An expert of 6 tokens with one of its two copies off home, beside ones of 2, 2 and 2."""
    slots, costs = (0, 1, 1, 0, 2, 3), [Cost.of("sum", name) for name in ("even", "optimal")]
    instance = Instance([[6, 2, 2, 2]], Topology(6, 2, 2, 2), rule="home")
    layer = instance.layer(0)
    assert [traffic(layer, slots, cost) for cost in costs] == [Fraction(1, 4), Fraction(1, 6)]
    limited = replace(layer, traffic_limit=Fraction(1, 12))
    assert traffic(limited, slots, costs[1]) == Fraction(1, 12)
    assert value(limited, slots, *costs[1]).value == 7
    everywhere = replace(layer, rule="global")
    assert traffic(everywhere, (0, 2, 0, 1, 3, 1), costs[1]) == Fraction(1, 3)
    assert traffic(replace(layer, loads=(0,) * 4, steps=None), slots) == 0


def fixed_by_simplex(layer: Layer, slots: tuple[int, ...], objective: str) -> Fraction:
    """max sum of v_e - X W lambda with v_e <= sum over t of p[t, g] w[t, e] + lambda away w_e,
    and p[t, g] whose sums over g are weights that the objective admits: the dual of all shares.
    """
    steps, ranks = steps_of(layer, objective), range(layer.topology.num_ranks)
    T, E, G = len(steps), len(layer.loads), len(ranks)
    totals = [sum(column) for column in zip(*steps, strict=True)]
    width, rows, limits = E + T * G + 1, [], []
    for e, g, away in pairs_of(layer, slots):
        row = [Fraction(0)] * width
        row[e], row[-1] = Fraction(1), -away * totals[e]
        for t in range(T):
            row[E + t * G + g] = -steps[t][e]
        rows.append(row)
        limits.append(Fraction(0))
    most = Cost.of(objective, "fixed").on(layer).objective.most_weight(T)
    for t in range(T):
        rows.append([Fraction(int(E + t * G <= i < E + (t + 1) * G)) for i in range(width)])
        limits.append(most)
    rows.append([Fraction(int(E <= i < width - 1)) for i in range(width)])
    limits.append(Fraction(1))
    gains = [Fraction(1)] * E + [Fraction(0)] * (T * G) + [-layer.traffic_limit * sum(totals)]
    return maximize(rows, limits, gains)


@settings(max_examples=10, deadline=None)
@given(at_home(), OBJECTIVES)
def test_fixed_shares_and_prices(placed: Placed, objective: str) -> None:
    fixed_agrees_with_simplex(placed, objective)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(at_home(), OBJECTIVES)
def test_hundreds_of_fixed_shares(placed: Placed, objective: str) -> None:
    fixed_agrees_with_simplex(placed, objective)


def fixed_agrees_with_simplex(placed: Placed, objective: str) -> None:
    layer, slots = placed
    cost = Cost.of(objective, "fixed").on(layer)
    found, truth = value(layer, slots, *cost), fixed_by_simplex(layer, slots, objective)
    assert found.bound <= truth <= found.incumbent
    assert found.incumbent - found.bound <= truth / 10**6
    assert found.shares is not None
    assert min(found.shares) >= 0
    assert over_limit(layer, slots, found.shares) is None
    assert cost_of_shares(layer, slots, found.shares, cost.objective) == found.value
    assert traffic(layer, slots, cost) == homes.traffic(layer, slots, found.shares)
    evidence = value_evidence(layer, slots, cost)
    assert evidence.bound == found.bound


@pytest.mark.parametrize("objective", ["mean", "worst", "cvar:0.3"])
def test_fixed_shares_of_many_steps(objective: str) -> None:
    layer, slots = large(12, (32, 48, 8, 4, 8), 2)
    found = value(layer, slots, objective, "fixed")
    assert over_limit(layer, slots, found.shares) is None
    assert found.closed
    assert found.value > value(layer.without_limit(), slots, objective, "fixed").value
    least = value(layer.without_limit(), slots, objective, "optimal").value
    assert least < found.bound
