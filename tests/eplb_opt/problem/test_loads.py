"""Loads are held exactly, or refused: never rounded."""

import math
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eplb_opt import Instance, Topology
from eplb_opt.problem.loads import exact_array, normalize_steps

ODD = 2**53 + 1
"""The first integer that is no float."""
EDGES = [n + d for n in (2**53, 2**62, 2**63, 2**64, 2**1024) for d in (-1, 0, 1, 2)]
NUMBERS = st.one_of(
    st.integers(0, 100),
    st.sampled_from(EDGES),
    st.integers(0, 2**1030),
    st.floats(0, allow_nan=False, allow_infinity=False),
    st.floats(0, width=16, allow_nan=False, allow_infinity=False).map(np.float16),
    st.integers(0, 2**64 - 1).map(np.uint64),
)


def is_float(x: int | float) -> bool:
    return x <= sys.float_info.max and float(x) == x


@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=3), min_size=1, max_size=3))
def test_every_load_is_held_exactly_or_refused(rows):
    rows = [row[: min(map(len, rows))] for row in rows]
    plain = [[x.item() if isinstance(x, np.generic) else x for x in row] for row in rows]
    floats = any(isinstance(x, float) for row in plain for x in row)
    if all(is_float(x) if floats else x < 2**63 for row in plain for x in row):
        layers = Instance(rows, Topology(len(rows[0]), 1)).layers()
        held = [[load * layer.unit for load in layer.loads] for layer in layers]
        assert held == [[Fraction(x) for x in row] for row in plain]
    else:
        with pytest.raises(ValueError, match="no float64" if floats else "beyond 64 bits"):
            Instance(rows, Topology(len(rows[0]), 1))


@given(st.lists(st.sampled_from([0, 1, 2**61, 2**62, 2**63 - 1]), min_size=1, max_size=5))
def test_a_trace_is_summed_exactly_or_refused(loads):
    trace = [[[x, 0]] for x in loads]
    if sum(loads) < 2**63:
        assert Instance(trace, Topology(2, 1)).loads.tolist() == [[sum(loads), 0]]
    else:
        with pytest.raises(ValueError, match=f"layer 0, expert 0 is {sum(loads)}, which is bey"):
            Instance(trace, Topology(2, 1))


@pytest.mark.parametrize(
    ("loads", "message"),
    [
        ([[2**63, ODD, 2, 3]], f"layer 0, expert 0 is {2**63}, which is beyond 64 bits: divide"),
        ([[ODD, 0.5]], f"layer 0, expert 0 is {ODD}, which is no float64: give integers alone"),
        ([[[1], [2]], [[0.5], [ODD]]], f"step 1, layer 1, expert 0 is {ODD}, which is no float64"),
        ([np.array([0.5]), np.array([ODD])], f"layer 1, expert 0 is {ODD}, which is no float64"),
        ([[np.float32(0.5), np.int64(ODD)]], f"layer 0, expert 1 is {ODD}, which is no float64"),
        (np.array([[ODD, 0.5]], dtype=object), f"layer 0, expert 0 is {ODD}, which is no float64"),
        (np.array([[0, ODD]], dtype=np.longdouble), f"expert 1 is {ODD}.0, which is no float64"),
        ([[np.longdouble(1) / 3]], "layer 0, expert 0 is 0.3333333333333333333., which is neither"),
        ([[0.5, 10**400]], "layer 0, expert 1 is an integer of 1329 bits, which is no float64"),
        ([[10**5000]], "layer 0, expert 0 is an integer of 16610 bits, which is beyond 64 bits"),
        ([torch.tensor([1, 2]), torch.tensor([1])], "ragged"),
    ],
)
def test_what_cannot_be_held_is_named_by_place_and_value(loads, message):
    if message.startswith(("expert 1 is 90", "layer 0, expert 0 is 0.33")) and (
        np.finfo(np.longdouble).nmant == np.finfo(float).nmant
    ):
        pytest.skip("no longdouble here")
    with pytest.raises(ValueError, match=message) as caught:
        Instance(loads, Topology(4, 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "loads",
    [
        [[3, 0.5]],
        [[2**60, 0.5]],
        [np.array([3]), np.array([0.5])],
        [torch.tensor([3.0, 0.5])],
        [[torch.tensor(3), 0.5]],
        np.array([[3, 0.5]], dtype=np.longdouble),
        np.array([[3, 0.5]], dtype=object),
        torch.tensor([[3, 0.5]]),
        [range(3)],
    ],
)
def test_what_can_be_held_is(loads):
    found = exact_array(loads)
    assert found.dtype == (np.int64 if isinstance(loads[0], range) else np.float64)
    assert found.ravel().tolist() == [float(x) for row in loads for x in row]


def test_nan_is_a_float_and_no_load():
    assert math.isnan(exact_array([[1, float("nan")]])[0, 1])
    with pytest.raises(ValueError, match="layer 0, expert 1 is nan: not finite"):
        Instance([[1, float("nan")]], Topology(2, 1))


STEPS = st.integers(1, 4).flatmap(
    lambda experts: st.lists(
        st.lists(st.integers(0, 10**6) | st.floats(0, 1e30), min_size=experts, max_size=experts),
        min_size=1,
        max_size=4,
    )
)


@given(STEPS)
def test_normalized_steps_weigh_alike_and_are_near(rows):
    loads = exact_array([[row] for row in rows])
    found = normalize_steps(loads)
    exact = [[Fraction(x) for x in row] for row in loads[:, 0].tolist()]
    near = [[Fraction(x) for x in row] for row in found[:, 0].tolist()]
    largest = max(map(sum, exact))
    totals = {sum(row) for row in near if any(row)}
    assert len(totals) == (largest > 0)
    for row, scaled in zip(exact, near, strict=True):
        assert any(row) == any(scaled)
        for load, now in zip(row, scaled, strict=True):
            wanted = load * largest / sum(row) if load else 0
            assert abs(now - wanted) <= largest / 2**37
    assert np.array_equal(normalize_steps(found), found)


def test_normalized_integers_keep_the_largest_step():
    trace = np.array([[[3, 1]], [[5, 3]], [[0, 0]]])
    instance = Instance(trace, Topology(2, 2), normalize_steps=True)
    assert instance.trace.tolist() == [[[6, 2]], [[5, 3]], [[0, 0]]]
    assert instance.select([0]).trace.tolist() == instance.trace.tolist()
    with pytest.raises(ValueError, match="normalize_steps=True needs a trace"):
        Instance(trace[0], Topology(2, 2), normalize_steps=True)
