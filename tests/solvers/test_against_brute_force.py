"""Every backend and the closed-form bounds against brute force on tiny instances, exactly."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, Placement, Rule, Topology, bounds, find_violations
from eplb_opt.bounds.closed_form import exclude
from eplb_opt.problem.objective import Cost, Dispatch
from solvers import BACKENDS, Stages, brute_force, solve
from solvers.backends import JOINT_OVER_STEPS, PACKING_OVER_STEPS
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.engines import mip
from tests.oracles.layers import FLOATS, WIDE, rows
from tests.oracles.steps import OBJECTIVES, all_step_placements, optimum, tiny_traces


def anything(_layer: Layer) -> bool:
    return True


@st.composite
def tiny_layers(
    draw: st.DrawFn, rule: Rule, takes: Callable[[Layer], bool] = anything, most: int = 8
) -> Layer:
    """E <= 6 and P <= 8; under the hierarchical rule 2 nodes; some with spread replicas.

    On machines (the nodes, under the hierarchical rule) whose layer of one expert ``takes``.
    """

    def wanted(ranks: int, slots: int) -> bool:
        return slots <= most and takes(Layer((1,), Fraction(1), Topology(slots, ranks)))

    if rule == Rule.GLOBAL:
        shapes = [(r, p) for p in range(1, 9) for r in range(1, p + 1) if p % r == 0]
        ranks, slots = draw(st.sampled_from([x for x in shapes if wanted(*x)]))
        experts = draw(st.integers(1, min(6, slots)))
        topology = Topology(slots, ranks)
    else:
        groups, size = draw(st.sampled_from([(2, 1), (2, 2), (2, 3), (4, 1)]))
        shapes = [(8, 2), (8, 4), (6, 2), (8, 8), (6, 6), (4, 2)]
        shapes = [(p, r) for p, r in shapes if p <= most and wanted(r // 2, p // 2)]
        slots, ranks = draw(st.sampled_from(shapes))
        experts = groups * size
        if experts > slots:
            assume(most == 8)
            slots, ranks = 8, 4
        topology = Topology(slots, ranks, num_nodes=2, num_groups=groups)
    loads = draw(rows(experts, WIDE, FLOATS))
    nodes = topology.num_nodes if rule == Rule.HIERARCHICAL else 1
    spread = draw(st.booleans()) and experts >= nodes * topology.slots_per_rank
    return Instance([loads], topology, rule, spread_replicas=spread).layer(0)


def rounding(backend: str) -> Fraction:
    """How far rounded loads can lead a solver astray, relatively."""
    return Fraction(1, 2**14) if backend in IN_FLOATS else Fraction(1, 2**40)


def assert_consistent(layer: Layer, backend: str) -> None:
    truth = solve(layer, backend="brute-force")
    exact = solve(layer, backend=backend, time_limit=60)
    loads = [[float(w * layer.unit) for w in layer.loads]]
    instance = Instance(loads, layer.topology, layer.rule, spread_replicas=layer.spread_replicas)
    for result in (truth, exact):
        placement = Placement([result.placement], layer.num_logical_experts)
        assert not find_violations(placement, instance)
        assert value(layer, result.placement).incumbent == result.objective
    assert exact.lower_bound <= truth.objective <= exact.objective
    if exact.status == "feasible" and backend in IN_FLOATS:
        # In floats: 1 beside 1e6 is too little for integers up to 2^20. Nothing is claimed then.
        assert exact.lower_bound < exact.objective
    elif layer.unit == 1:
        assert exact.objective == truth.objective
        assert exact.status == "optimal"
    else:  # floats may need more than 64 bits: then the solver sees them rounded, and says so
        assert exact.objective <= truth.objective * (1 + rounding(backend))
        assert (exact.status == "optimal") == (exact.objective == exact.lower_bound)
    assert bounds.of(layer).value <= truth.objective


def judged(stage: str) -> list[Any]:
    """Every backend of a stage; one whose engine is not installed is skipped by name."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(not backend.is_installed(), reason=f"{name} is not installed"),
        )
        for name, backend in BACKENDS[stage].items()
        if name != "brute-force"
    ]


def layers_for(stage: str, backend: str, rule: Rule) -> st.SearchStrategy[Layer]:
    """Layers that a backend takes; programs get those where they are quick."""
    entry = BACKENDS[stage][backend]
    return tiny_layers(rule, entry.takes, 6 if entry.in_floats else 8)


JOINT, PACKING = judged("joint"), judged("packing")
IN_FLOATS = [name for name, backend in BACKENDS["joint"].items() if backend.in_floats]


def test_the_programs_are_in_floats() -> None:
    for stage in ("joint", "packing"):
        assert all(BACKENDS[stage][engine].in_floats for engine in mip.ENGINES)


@pytest.mark.parametrize("backend", JOINT)
@settings(max_examples=150)
@given(data=st.data())
def test_joint_global(backend: str, data: st.DataObject) -> None:
    assert_consistent(data.draw(layers_for("joint", backend, Rule.GLOBAL)), backend)


@pytest.mark.parametrize("backend", JOINT)
@settings(max_examples=75)
@given(data=st.data())
def test_joint_hierarchical(backend: str, data: st.DataObject) -> None:
    assert_consistent(data.draw(layers_for("joint", backend, Rule.HIERARCHICAL)), backend)


@pytest.mark.parametrize("backend", PACKING)
@settings(max_examples=60)
@given(data=st.data())
def test_packing(backend: str, data: st.DataObject) -> None:
    layer = data.draw(layers_for("packing", backend, Rule.GLOBAL))
    number = layer.num_redundant_experts
    experts = st.integers(0, layer.num_logical_experts - 1)
    extra = data.draw(st.lists(experts, min_size=number, max_size=number))
    counts = tuple(1 + extra.count(e) for e in range(layer.num_logical_experts))
    if max(counts) > layer.topology.num_ranks:
        layer = replace(layer, spread_replicas=False)
    given_counts = Stages(counts=counts)
    truth = solve(layer, stage="packing", backend="brute-force", given=given_counts)
    exact = solve(layer, stage="packing", backend=backend, time_limit=60, given=given_counts)
    assert exact.objective == value(layer, exact.placement).incumbent
    assert exact.lower_bound <= truth.objective <= exact.objective
    if exact.status == "optimal" or backend not in IN_FLOATS:
        assert exact.objective <= truth.objective * (1 + rounding(backend))
        assert layer.unit != 1 or exact.objective == truth.objective == exact.lower_bound
    assert bounds.of(layer, counts=counts).value <= truth.objective
    assert exact.counts == counts


@pytest.mark.parametrize("backend", [p for p in JOINT if p.values[0] in IN_FLOATS])
def test_programs_prove_optima(backend: str) -> None:
    for loads in ([9, 5, 3, 1], [4, 4, 2, 1], [100, 60, 30, 7]):
        layer = Instance([loads], Topology(6, 2)).layer(0)
        result = solve(layer, backend=backend, time_limit=60)
        truth = solve(layer, backend="brute-force")
        assert (result.objective, str(result.status)) == (truth.objective, "optimal")


@pytest.mark.parametrize("backend", PACKING)
def test_a_bound_near_2_to_the_50_is_not_one_too_high(backend: str) -> None:
    """CP-SAT's bound as a float, 554283529594745.06, was rounded up to ..746."""
    layer = Layer(
        loads=(4_430_246_120_327_535, 70_368_744_177_664, 70_368_744_177_664),
        unit=Fraction(1, 2**50),
        topology=Topology(6, 3),
    )
    given_counts = Stages(counts=(2, 2, 2))
    truth = solve(layer, stage="packing", backend="brute-force", given=given_counts)
    result = solve(layer, stage="packing", backend=backend, given=given_counts)
    assert result.lower_bound <= truth.objective == result.objective


@settings(max_examples=100)
@given(tiny_layers(Rule.GLOBAL), st.fractions(0, 2))
def test_no_reachable_makespan_is_excluded(layer: Layer, above: Fraction) -> None:
    optimum = solve(layer, backend="brute-force").objective
    assert exclude(layer, optimum * (1 + above)) is None


def test_published_example_has_optimum_590_thirds(published_layer: Layer) -> None:
    result = solve(published_layer)
    assert result.objective == result.lower_bound == Fraction(590, 3)


@pytest.mark.parametrize("backend", JOINT)
def test_layer_without_load(backend: str) -> None:
    machines = [Topology(6, 2, 2, 2), Topology(8, 4, 2, 2), Topology(4, 4, 2, 2)]
    rules = (Rule.GLOBAL, Rule.HIERARCHICAL)
    layers = [Instance([[0] * 4], m, r).layer(0) for m in machines for r in rules]
    takes = BACKENDS["joint"][backend].takes
    nodes = [x if x.rule == Rule.GLOBAL else x.node_problem((0,)) for x in layers]
    taken = [layer for layer, node in zip(layers, nodes, strict=True) if takes(node)]
    assert taken
    for layer in taken:
        result = solve(layer, backend=backend)
        assert (result.objective, result.status) == (0, "optimal")


def over_steps(backend: str) -> list[tuple[str, str]]:
    """The costs that a backend takes."""
    dispatches = JOINT_OVER_STEPS[backend].dispatches
    return [
        (objective, str(dispatch))
        for objective in OBJECTIVES
        for dispatch in dispatches
        if (objective, dispatch) != ("sum", Dispatch.EVEN)
    ]


def small_traces(dispatch: str) -> st.SearchStrategy[Layer]:
    """Where enumeration takes milliseconds; under ``fixed`` a value is a linear program."""
    most = 4 if dispatch == "fixed" else 6
    return tiny_traces().filter(lambda layer: layer.topology.num_physical_experts <= most)


def assert_consistent_over_steps(
    layer: Layer, backend: str, cost: tuple[str, str], truth: Fraction
) -> None:
    found = solve(layer, backend=backend, objective=cost[0], dispatch=cost[1], time_limit=60)
    assert found.lower_bound <= truth <= found.objective
    assert value(layer, found.placement, *cost).incumbent == found.objective
    assert (found.shares is not None) == (cost[1] == "fixed")
    assert found.cost == Cost.of(*cost)
    if backend in MILP_OVER_STEPS:
        assert found.objective <= truth * (1 + Fraction(1, 2**12))
    elif layer.unit == 1:
        assert (found.objective, found.status) == (truth, "optimal")
    else:
        assert found.objective <= truth * (1 + Fraction(1, 2**20))
        assert found.status == "optimal" or found.limit == "precision"
    assert bounds.of(layer, *cost).value <= truth


OVER_STEPS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(not backend.is_installed(), reason=f"{name} is not installed"),
    )
    for name, backend in JOINT_OVER_STEPS.items()
]
MILP_OVER_STEPS = [name for name, backend in JOINT_OVER_STEPS.items() if backend.in_floats]


@settings(max_examples=40)
@given(data=st.data())
def test_enumeration_over_steps(data: st.DataObject) -> None:
    """The backend of the tests, against an enumeration that shares nothing with it."""
    cost = data.draw(st.sampled_from(over_steps("brute-force")))
    layer = data.draw(small_traces(cost[1]))
    assert_consistent_over_steps(layer, "brute-force", cost, optimum(layer, *cost))


@pytest.mark.parametrize("backend", [p for p in OVER_STEPS if p.values[0] != "brute-force"])
@settings(max_examples=40)
@given(data=st.data())
def test_joint_over_steps(backend: str, data: st.DataObject) -> None:
    cost = data.draw(st.sampled_from(over_steps(backend)))
    layer = data.draw(small_traces(cost[1]))
    truth = solve(layer, backend="brute-force", objective=cost[0], dispatch=cost[1])
    assert_consistent_over_steps(layer, backend, cost, truth.objective)


@pytest.mark.parametrize("backend", [p for p in OVER_STEPS if p.values[0] in PACKING_OVER_STEPS])
@settings(max_examples=20)
@given(data=st.data())
def test_packing_over_steps(backend: str, data: st.DataObject) -> None:
    """The counts, and under the hierarchical rule the nodes of the groups, are those given."""
    layer = data.draw(small_traces("even"))
    objective = data.draw(st.sampled_from(OBJECTIVES[1:]))
    placed = data.draw(st.sampled_from(all_step_placements(layer)))
    nodes = None
    if layer.rule == Rule.HIERARCHICAL:
        per_node = layer.topology.slots_per_node
        nodes = [placed.index(group[0]) // per_node for group in layer.groups]
    counts = [placed.count(e) for e in range(layer.num_logical_experts)]
    given_stages = Stages(node_of_group=nodes, counts=counts)
    words = {"stage": "packing", "objective": objective, "given": given_stages}
    truth = solve(layer, backend="brute-force", **words)
    found = solve(layer, backend=backend, time_limit=60, **words)
    assert found.lower_bound <= truth.objective <= found.objective
    assert truth.objective <= value(layer, placed, objective).incumbent
    assert list(found.counts) == counts
    assert nodes is None or list(found.node_of_group) == nodes
    if layer.unit == 1 and backend not in MILP_OVER_STEPS:
        assert found.status == "optimal"


def test_enumeration_proves_no_more_than_is_known_of_each_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = Instance([[[3, 1, 2]], [[1, 4, 0]]], Topology(4, 2)).layer(0)
    exact = solve(layer, objective="mean", dispatch="fixed", backend="brute-force")

    def open_value(*arguments: Any) -> Bracket:
        found = value(*arguments)
        return replace(found, bound=found.bound / 2)

    monkeypatch.setattr(brute_force, "value", open_value)
    found = solve(layer, objective="mean", dispatch="fixed", backend="brute-force")
    assert (found.objective, found.lower_bound) == (exact.objective, exact.lower_bound / 2)
    assert (found.status, found.limit) == ("feasible", "precision")
