from fractions import Fraction

import pytest

from eplb_opt.gap.loss_split import (
    Interval,
    Split,
    interval_in_points,
    mean_split,
    not_negative,
    point,
    points,
)


def test_an_interval_has_two_ends_in_order() -> None:
    with pytest.raises(ValueError, match="low=1 is above high=0"):
        Interval(Fraction(1), Fraction(0))
    difference = Interval(Fraction(1), Fraction(2)) - Interval(Fraction(0), Fraction(3))
    assert difference == Interval(Fraction(-2), Fraction(2))
    assert not_negative(difference) == Interval(Fraction(0), Fraction(2))


def test_a_split_that_does_not_add_up_is_refused() -> None:
    half = Fraction(1, 2)
    with pytest.raises(ValueError, match="does not add up to total=1"):
        Split(Fraction(1), {"a": point(half)}, {"a": half}, {})
    with pytest.raises(ValueError, match=r"shown\['a'\]=1/2 is not in"):
        Split(half, {"a": point(1)}, {"a": half}, {})


def test_the_mean_is_exact() -> None:
    thirds = [
        Split(v, {"a": Interval(Fraction(0), v)}, {"a": v}, {"s": point(v)})
        for v in (Fraction(1, 3), Fraction(1, 7))
    ]
    mean = mean_split(thirds)
    assert mean.total == mean.shown["a"] == mean.terms["a"].high == Fraction(5, 21)
    assert mean.sums["s"] == point(Fraction(5, 21))


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        ("0.227902", "0.227921", "22.79 .. 22.80"),
        ("0", "0.0000001", "0.00 .. 0.01"),
        ("-0.00012", "0.00012", "-0.02 .. 0.02"),
        ("0.5", "0.5", "50.00"),
        ("1/3", "1/3", "33.33"),
    ],
)
def test_points_are_rounded_outwards(low: str, high: str, text: str) -> None:
    assert interval_in_points(Interval(Fraction(low), Fraction(high))) == text
    assert points(Fraction(1, 3)) == "33.33"
