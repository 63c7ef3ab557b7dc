"""Visits, bytes and seconds beside loops and counts by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from eplb_opt import Instance, Topology
from eplb_opt.gap.travel import (
    Travel,
    bytes_between_nodes,
    drawn_visits,
    most_visits,
    node_visits,
    seconds,
    seconds_per_token,
    served_by_nodes,
)
from eplb_opt.problem import homes

TRAVEL = Travel(experts_per_token=2, hidden_size=10, link=1e-6, seconds_per_token=0.5)


def test_bytes_and_seconds_by_hand() -> None:
    visits = (0.5, 0.25)
    assert TRAVEL.bytes_per_visit == 30
    assert bytes_between_nodes(TRAVEL, 8, visits) == 8 * 0.75 * 30
    assert seconds(TRAVEL, 8, Fraction(6), visits) == 6 * 0.5 + 8 * 0.5 * 30 / 1000
    assert seconds(TRAVEL, 8, 6, (0, 0)) == 3
    assert seconds_per_token(2.0, 0.25, [3, 2]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("link", 0.0), ("hidden_size", -1), ("seconds_per_token", math.inf), ("bytes_out", -1.0)],
)
def test_sizes_are_checked(name: str, value: float) -> None:
    sizes = {"experts_per_token": 2, "hidden_size": 10, "link": 1.0, "seconds_per_token": 1.0}
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Travel(**{**sizes, name: value})  # type: ignore[arg-type]


def test_visits_of_tokens_as_a_loop_counts_them() -> None:
    random = np.random.default_rng(0)
    for nodes, per_node, k in [(1, 4, 2), (2, 3, 2), (4, 5, 4), (3, 6, 8)]:
        slots = np.array([random.permutation(nodes * per_node)[:k] for _ in range(50)])
        expected = [0] * nodes
        for token in slots.tolist():
            for node in {slot // per_node for slot in token}:
                expected[node] += 1
        assert node_visits(slots, per_node, nodes).tolist() == expected


def test_independent_draws_are_their_mean() -> None:
    served, k, tokens = [0.5, 0.3, 0.2], 3, 40_000
    slots = np.random.default_rng(1).choice(3, p=served, size=(tokens, k))
    counted = node_visits(slots, 1, 3) / tokens
    assert drawn_visits(k, served) == pytest.approx(counted, abs=0.01)


def test_every_further_visit_is_within_the_upper_estimate() -> None:
    """Of random tokens, experts with one copy at home and perhaps one elsewhere."""
    random = np.random.default_rng(2)
    for _ in range(40):
        copies = random.integers(0, 2, 8)
        home = np.arange(8) // 4
        topk = np.array([random.permutation(8)[:3] for _ in range(30)])
        away = random.integers(0, 2, topk.shape) * copies[topk]
        nodes = np.where(away, 1 - home[topk], home[topk])
        traffic = [(away * (nodes == n)).sum() / topk.size for n in (0, 1)]
        further = (node_visits(nodes, 1, 2) - node_visits(home[topk], 1, 2)) / len(topk)
        assert all(further <= np.array(most_visits(3, traffic)) + 1e-12)


def test_what_nodes_serve_sums_to_traffic_and_to_all() -> None:
    layer = Instance([[6, 2, 3, 1]], Topology(6, 2, 2, 2), rule="home").layer(0)
    placed = (0, 1, 2, 2, 3, 0)
    served = served_by_nodes(layer, placed)
    assert served is not None
    assert served.owned == (Fraction(2, 3), Fraction(1, 3))
    assert served.away == (Fraction(3, 24), Fraction(1, 4))
    assert sum(served.away) == homes.traffic(layer, placed)
    assert sum(served.all) == 1
    shares = [Fraction(1), Fraction(1), Fraction(0), Fraction(1), Fraction(1), Fraction(0)]
    at_home = served_by_nodes(layer, placed, shares)
    assert at_home is not None
    assert at_home.away == (0, 0)
    assert at_home.home == at_home.owned


def test_nodes_of_placements_without_homes_or_load() -> None:
    layer = Instance([[6, 2, 3, 1]], Topology(4, 2, 2, 2), rule="home").layer(0)
    assert served_by_nodes(layer, (0, 2, 1, 3)) is None
    assert served_by_nodes(layer, (0, 2, 1, 3), present=False) is not None
    empty = Instance([[0, 0, 0, 0]], Topology(4, 2, 2, 2), rule="home").layer(0)
    served = served_by_nodes(empty, (0, 1, 2, 3))
    assert served is not None
    assert sum(served.all) == 0
