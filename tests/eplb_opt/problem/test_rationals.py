"""Floats as integers in one unit, against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eplb_opt import Instance, Topology
from eplb_opt.problem.rationals import (
    LARGEST_FLOAT,
    decimal_text,
    exact_integers,
    float_above,
    float_below,
    integer_array,
    nearest_float,
    relative_gap,
    shown,
)

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 4))
WHOLE = st.integers(0, 2**62 - 1)
BROKEN = st.one_of(
    st.floats(0, 1e6),
    st.floats(0, 1e308),
    st.sampled_from([0.0, 0.1, 0.5, 5e-324, 2.0**60, 2.0**-60, 1.5]),
)
STEPS = st.one_of(
    hnp.arrays(np.int64, SHAPES, elements=WHOLE), hnp.arrays(np.float64, SHAPES, elements=BROKEN)
)


@settings(max_examples=400)
@given(STEPS)
def test_integers_times_the_unit_are_the_loads(steps: np.ndarray) -> None:
    integers, unit = exact_integers(steps)
    values = [[Fraction(v) for v in row] for row in steps.tolist()]
    assert [[int(n) * unit for n in row] for row in integers.tolist()] == values
    assert (1 / unit).numerator.bit_count() == 1  # a power of 1/2
    assert unit.numerator == 1
    assert integers.dtype in (np.int64, object)
    sums = [sum(column) for column in zip(*integers.tolist(), strict=True)]
    assert integers.sum(axis=0).tolist() == sums  # no overflow
    if all(v.denominator == 1 for row in values for v in row):
        assert unit == 1
    elif any(any(row) for row in values):
        assert any(int(n) % 2 for n in integers.ravel())  # no smaller integers would do


def test_64_bits_where_they_suffice() -> None:
    assert exact_integers(np.array([[0.5, 3.0], [1e6, 0.0]]))[0].dtype == np.int64
    assert exact_integers(np.array([[2**61], [2**61]]))[0].dtype == np.int64
    assert exact_integers(np.array([[2**62], [2**62]]))[0].dtype == object
    assert exact_integers(np.array([[1e300, 1e-300]]))[0].dtype == object
    assert integer_array([[2**63 - 1]]).dtype == np.int64
    assert integer_array([[2**63]]).dtype == object


@settings(max_examples=100)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.just(2), st.just(3)),
                  elements=st.floats(0, 1e9)))  # fmt: skip
def test_loads_of_a_layer_are_the_exact_sum_of_its_steps(trace: np.ndarray) -> None:
    """In floats the sum of 0.1 and 0.2 is not the sum of the two numbers that stand for them."""
    instance = Instance(trace, Topology(4, 2))
    for i, layer in enumerate(instance.layers()):
        steps = [[Fraction(v) for v in row] for row in trace[:, i].tolist()]
        assert [[int(n) * layer.unit for n in row] for row in layer.steps.tolist()] == steps
        total = [sum(column) for column in zip(*steps, strict=True)]
        assert [w * layer.unit for w in layer.loads] == total


@pytest.mark.parametrize("loads", [[[3, 1, 2]], [[0.5, 0.25, 0.0]]])
def test_loads_without_time_are_one_step(loads: list[list[float]]) -> None:
    layer = Instance(loads, Topology(4, 2)).layer(0)
    assert layer.steps.tolist() == [list(layer.loads)]
    assert layer.each_step() == [layer]


def test_a_node_has_the_steps_of_its_groups() -> None:
    trace = np.arange(24).reshape(3, 1, 8)
    layer = Instance(trace, Topology(8, 4, 2, 4)).layer(0)
    node = layer.node_problem((1, 3))
    assert node.steps.tolist() == trace[:, 0, [2, 3, 6, 7]].tolist()
    assert node.loads == tuple(trace[:, 0, [2, 3, 6, 7]].sum(0).tolist())
    assert layer.without_nodes().steps is layer.steps


@given(st.fractions() | st.integers(-(10**330), 10**330).map(Fraction))
def test_floats_beside_exact_values_are_finite_and_on_the_right_side(value: Fraction) -> None:
    for near in (nearest_float(value), float_above(value), float_below(max(value, Fraction(0)))):
        assert near is None or abs(near) <= LARGEST_FLOAT
    above = float_above(value)
    assert above is None or Fraction(above) >= value
    assert Fraction(float_below(abs(value))) <= abs(value)


def test_values_beyond_the_range_of_floats() -> None:
    huge = Fraction(10**400, 3)
    assert (nearest_float(huge), float_above(huge), nearest_float(None)) == (None, None, None)
    assert float_below(huge) == relative_gap(huge, Fraction(1)) == LARGEST_FLOAT
    assert [decimal_text(v) for v in (None, Fraction(1, 3), huge)] == ["-", "0.333", "3.333e+399"]


def test_no_zero_is_negative() -> None:
    tiny = Fraction(-1, 10**400)
    for zero in (float_above(Fraction(0)), float_above(tiny), nearest_float(tiny)):
        assert str(zero) == "0.0"


def test_what_is_shown_of_a_value_is_short() -> None:
    assert shown(10**5000) == "a number of thousands of digits"
    assert shown("x" * 100) == "x" * 60 + ".."
    assert shown([1, 2]) == "[1, 2]"
