"""Loads as integers: nothing is lost, or everything is rounded down and the scale says so."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from solvers.scaling import scale_for
from tests.oracles.layers import make_layer


@given(st.lists(st.floats(0, 100), min_size=2, max_size=5), st.integers(1, 60))
def test_replicas_are_rounded_down_or_exact(loads: list[float], bits: int) -> None:
    layer = make_layer(loads, 8, 2)
    scale = scale_for(layer, (1, 2, 3), largest_sum=2**bits)
    exact = True
    for expert, load in enumerate(loads):
        for count in (1, 2, 3):
            tokens, scaled = Fraction(load) / count, scale.replica(layer, expert, count)
            assert scaled * scale.unit <= tokens < (scaled + 1) * scale.unit
            exact &= scaled * scale.unit == tokens
    assert scale.exact in (True, False)
    assert exact or not scale.exact
    if layer.has_load:
        assert sum(map(Fraction, loads)) <= 2**bits * scale.unit


def test_what_does_not_fit_is_not_called_exact() -> None:
    layer = make_layer([1.0, 1e-300], 4, 2)
    assert scale_for(layer, (1, 2)).exact is False
