"""``refined`` under the rule ``home``, and the stages it is made of."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Topology
from eplb_opt.problem.homes import traffic
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.validity import find_violations
from heuristics import contents, rebalance_experts
from heuristics.contents import Contents, Draws
from heuristics.home import place_at_home
from heuristics.home_groups import candidate_homes
from heuristics.makespan import makespans
from heuristics.refined import refined
from heuristics.shape import ArgumentError, Shape


def _loads(layers: int, experts: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(layers, experts, generator=generator).mul(1.2).exp().mul(1000).round()


SIZES = [(72, 8, 4, 8, 64), (40, 4, 2, 4, 32), (48, 8, 2, 16, 32), (36, 4, 4, 4, 32)]
"""Slots, groups, nodes, ranks, experts."""


@pytest.mark.parametrize(("slots", "groups", "nodes", "ranks", "experts"), SIZES)
@pytest.mark.parametrize("limit", [1.0, 0.05])
def test_both_forms_find_the_same_contents(slots, groups, nodes, ranks, experts, limit) -> None:
    shape = Shape(slots, groups, nodes, ranks)
    loads = _loads(3, experts, 7).double()
    homes, _ = candidate_homes(loads, shape, limit, 3)
    homes = homes.repeat_interleave(experts // groups, dim=2)
    found = []
    for run in (contents._run_compiled, contents._run_together):
        state = Contents.begin(loads, homes, shape, limit, 0.5)
        draws = Draws.of(40, 3, state.tokens)
        run(state, draws, 0.02 * contents.UNITS)
        found.append((state.best, state.copies, state.least))
    for compiled, together in zip(*found, strict=True):
        assert torch.equal(compiled, together)
    assert found[0][2].isfinite().all()


@given(
    seed=st.integers(0, 10_000),
    nodes=st.sampled_from([2, 3, 4]),
    per_node=st.integers(1, 2),
    ranks=st.integers(1, 3),
    further=st.integers(0, 3),
    limit=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    scale=st.sampled_from([1.0, 1e-3, 2.0**30]),
)
@settings(max_examples=20, deadline=None)
def test_placements_have_homes_and_keep_the_limit_exactly(
    seed, nodes, per_node, ranks, further, limit, scale
) -> None:
    groups = nodes * per_node
    experts = groups * ranks
    slots = experts + further * nodes * ranks
    loads = _loads(2, experts, seed) * scale
    loads[0, : experts // groups] = 0
    phy2log, _, _ = rebalance_experts(
        loads, slots, groups, nodes, nodes * ranks, rule="home", traffic=limit
    )
    machine = Topology(slots, nodes * ranks, nodes, groups)
    instance = Instance(loads.numpy(), machine, rule="home", traffic_limit=limit)
    placement = Placement(phy2log.numpy(), experts)
    assert not find_violations(placement, instance)
    for layer, row in zip(instance.layers(), placement.phy2log.tolist(), strict=True):
        served_away = traffic(layer, row)
        assert served_away is not None
        assert served_away <= Fraction(str(limit))
    grouped = refined(loads, slots, groups, nodes, nodes * ranks)
    values = [makespans(loads.double(), each, nodes * ranks) for each in (phy2log, grouped)]
    assert (values[0] <= values[1]).all()


def test_candidates_are_in_the_order_of_what_copies_must_take_away() -> None:
    loads = torch.tensor(
        [[9.0, 1, 8, 2, 5, 5, 4, 2], [1, 1, 1, 1, 1, 1, 1, 8]], dtype=torch.float64
    )
    for limit in (0.0, 0.1, 1.0):
        shape = Shape(16, 8, 4, 4)
        found, left = candidate_homes(loads, shape, limit, 200)
        assert found.shape == (2, 105, 8)
        for row, assignments, level_of_first in zip(loads, found, left, strict=True):
            keys = []
            for homes in assignments:
                nodes = torch.zeros(4, dtype=torch.float64).index_add_(0, homes, row)
                assert (homes.bincount(minlength=4) == 2).all()
                total, full = nodes.sum(), nodes.sort(descending=True).values.cumsum(0)
                level = max((full[k] - limit * total) / (k + 1) for k in range(4))
                keys.append(
                    (max(float(level), float(total / 4)), float((nodes - total / 4).clamp(0).sum()))
                )
            assert keys[0][0] == pytest.approx(float(level_of_first))
            assert all(a <= (b[0] + 1e-9, b[1] + 1e-9) for a, b in pairwise(keys))


def test_swaps_of_groups_find_good_homes_where_assignments_are_many() -> None:
    loads = _loads(2, 16, 3).double()
    shape = Shape(32, 16, 4, 4)
    few, _ = candidate_homes(loads, shape, 1.0, 6)
    assert few.shape == (2, 6, 16)
    for row, assignments in zip(loads, few, strict=True):
        for homes in assignments:
            assert (homes.bincount(minlength=4) == 4).all()
        nodes = torch.zeros(4, dtype=torch.float64).index_add_(0, assignments[0], row)
        in_order = row.view(4, 4).sum(1)
        assert (nodes - nodes.mean()).clamp(0).sum() <= (in_order - in_order.mean()).clamp(0).sum()


def test_further_copies_balance_nodes_that_groups_cannot() -> None:
    loads = torch.full((1, 16), 10.0)
    loads[0, :4] = 40
    grouped = refined(loads, 24, 4, 2, 4)
    anywhere = refined(loads, 24, 4, 2, 4, traffic=1.0)
    assert float(makespans(loads.double(), anywhere, 4)) < float(
        makespans(loads.double(), grouped, 4)
    )


def test_a_layer_is_placed_alike_whatever_others_there_are() -> None:
    loads = _loads(4, 64, 11)
    together = refined(loads, 72, 8, 4, 8, traffic=0.1)
    alone = torch.cat([refined(row[None], 72, 8, 4, 8, traffic=0.1) for row in loads])
    assert torch.equal(together, alone)


def test_idle_layers_and_one_node() -> None:
    idle = torch.zeros(2, 16)
    placed = place_at_home(idle.double(), Shape(24, 4, 2, 4), 0.1, "default", 0)
    assert sorted(set(placed[0].tolist())) == list(range(16))
    loads = _loads(2, 16, 1)
    assert torch.equal(refined(loads, 24, 4, 1, 4, traffic=0.0), refined(loads, 24, 4, 1, 4))


def test_with_the_limit_0_not_even_a_light_expert_is_served_off_home() -> None:
    loads = torch.ones(1, 16)
    loads[0, 0] = 2**24
    machine = Topology(24, 4, 2, 4)
    placed, _, _ = rebalance_experts(loads, 24, 4, 2, 4, rule="home", traffic=0.0)
    layer = Instance(loads.numpy(), machine, rule="home").layer(0)
    assert traffic(layer, placed[0].tolist()) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"traffic": 0.1}, "traffic=0.1 is for rule='home', not rule='auto'"),
        ({"traffic": 1.5, "rule": "home"}, "traffic=1.5 is not a part from 0 to 1"),
    ],
)
def test_a_limit_that_cannot_be_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        rebalance_experts(_loads(1, 16, 1), 24, 4, 2, 4, **options)


def test_homes_of_a_small_layer_are_the_best_of_all_by_enumeration() -> None:
    loads = _loads(1, 6, 5).double()
    best = candidate_homes(loads, Shape(12, 6, 3, 3), 0.0, 1)[0][0, 0]
    nodes = torch.zeros(3, dtype=torch.float64).index_add_(0, best, loads[0])
    least = min(max(loads[0, list(o)].view(3, 2).sum(1)) for o in permutations(range(6)))
    assert float(nodes.max()) == pytest.approx(float(least))
