from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eplb_opt import Instance, Rule, Topology


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((10, 4), "num_physical_experts=10 is not a multiple of num_ranks=4"),
        ((12, 4, 3), "num_ranks=4 is not a multiple of num_nodes=3"),
        ((0, 4), "num_physical_experts=0 must be a positive integer"),
        ((8, -2), "num_ranks=-2 must be a positive integer"),
        ((8, 2, 1.0), "num_nodes=1.0 must be a positive integer"),
        ((8, True), "num_ranks=True must be a positive integer"),
    ],
)
def test_topology_refuses(sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Topology(*sizes)


def test_topology_sizes() -> None:
    topology = Topology(288, 32, 4, 8)
    assert (topology.slots_per_rank, topology.slots_per_node) == (9, 72)
    assert (topology.ranks_per_node, topology.groups_per_node) == (8, 2)
    assert topology.node == Topology(72, 8)


@pytest.mark.parametrize(
    ("loads", "message"),
    [
        ([[1, -1]], r"the load of layer 0, expert 1 is -1: negative"),
        ([[1.0, float("nan")]], r"layer 0, expert 1 is nan: not finite"),
        ([[[1.0, 2.0]], [[float("inf"), 2.0]]], r"step 1, layer 0, expert 0 is inf: not finite"),
        ([1, 2], r"shape \(2,\)"),
        ([[]], r"shape \(1, 0\)"),
        ([[1, 2], [1]], "ragged"),
        ([["a", "b"]], "layer 0, expert 0 is 'a', which is neither an integer nor a float64"),
        ([[1, True]], "layer 0, expert 1 is True, which is neither"),
        (np.array([[True, False]]), "must hold integers or floats, not bool"),
        ([[1j, 2]], "layer 0, expert 0 is 1j, which is neither"),
        (np.full((3, 1, 2), 2**62), "sum over time: layer 0, expert 0 is 13835058055282163712, wh"),
        (np.full((3, 1, 2), 1e308), "the sum over time of layer 0, expert 0 is not finite"),
    ],
)
def test_bad_loads_are_named(loads: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Instance(loads, Topology(4, 2))


@pytest.mark.parametrize(
    ("experts", "topology", "rule", "message"),
    [
        (5, Topology(4, 2), "auto", "num_physical_experts=4 is less than num_logical_experts=5"),
        (4, Topology(8, 4, 4, 6), "hierarchical", "num_groups=6 is not a multiple of num_nodes=4"),
        (6, Topology(8, 4, 2, 4), "auto", "num_logical_experts=6 is not a multiple of num_groups"),
        (4, Topology(8, 4), "best", "rule='best' is not one of"),
    ],
)
def test_misfits_are_named(experts: int, topology: Topology, rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Instance([[1] * experts], topology, rule)


@pytest.mark.parametrize(
    ("topology", "rule", "resolved"),
    [
        (Topology(8, 4), "auto", Rule.GLOBAL),
        (Topology(8, 4, 2, 2), "auto", Rule.HIERARCHICAL),
        (Topology(8, 4, 2, 1), "auto", Rule.GLOBAL),
        (Topology(8, 4, 2, 2), "global", Rule.GLOBAL),
        (Topology(8, 4, 1, 2), "hierarchical", Rule.HIERARCHICAL),
    ],
)
def test_rule_is_resolved(topology: Topology, rule: str, resolved: Rule) -> None:
    assert Instance([[1, 2, 3, 4]], topology, rule).rule is resolved


def test_arguments_are_neither_changed_nor_shared() -> None:
    given_loads = np.array([[1, 2, 3]])
    instance = Instance(given_loads, Topology(4, 2))
    given_loads[0, 0] = 99
    assert instance.loads.tolist() == [[1, 2, 3]]
    assert given_loads.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        instance.loads[0, 0] = 1


def test_trace_is_kept_and_summed() -> None:
    instance = Instance([[[1, 2]], [[3, 4]]], Topology(2, 1))
    assert instance.loads.tolist() == [[4, 6]]
    assert instance.trace.shape == (2, 1, 2)
    assert instance.num_layers == 1


def test_select_keeps_machine_and_order() -> None:
    instance = Instance([[1, 2], [3, 4], [5, 6]], Topology(2, 1), source="file")
    chosen = instance.select([2, 0])
    assert chosen.loads.tolist() == [[5, 6], [1, 2]]
    assert (chosen.source, chosen.topology) == ("file", instance.topology)
    assert [layer.index for layer in chosen.layers()] == [2, 0]
    with pytest.raises(ValueError, match=r"layers \[3, -1\] are not among the 3"):
        instance.select([0, 3, -1])


def test_layer_out_of_range() -> None:
    with pytest.raises(IndexError, match="layer 1 is out of range"):
        Instance([[1, 2]], Topology(2, 1)).layer(1)


FINITE = st.floats(0, 1e300, allow_nan=False)


@given(st.lists(st.one_of(FINITE, st.sampled_from([0.1, 5e-324, 1e300, 0.0])), min_size=1))
def test_floats_are_exact_rationals(loads: list[float]) -> None:
    layer = Instance([loads], Topology(len(loads), 1)).layer(0)
    assert [w * layer.unit for w in layer.loads] == [Fraction(w) for w in loads]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64"])
def test_every_number_type(dtype: str) -> None:
    layer = Instance(np.array([[3, 0, 7]], dtype=dtype), Topology(3, 1)).layer(0)
    assert (layer.loads, layer.unit) == ((3, 0, 7), 1)
    assert layer.has_load


def test_node_problem_takes_the_experts_of_its_groups() -> None:
    layer = Instance([[1, 2, 3, 4, 5, 6, 7, 8]], Topology(8, 4, 2, 4)).layer(0)
    node = layer.node_problem((1, 3))
    assert node.loads == (3, 4, 7, 8)
    assert node.topology == Topology(4, 2)
    assert node.rule is Rule.GLOBAL


@pytest.mark.parametrize("topology", [Topology(9, 1), Topology(8, 2, 2, 2)])
def test_too_few_experts_to_spread(topology: Topology) -> None:
    Instance([[1] * 4], topology)
    with pytest.raises(ValueError, match="different experts to fill a rank"):
        Instance([[1] * (4 if topology.num_nodes == 1 else 6)], topology, spread_replicas=True)
