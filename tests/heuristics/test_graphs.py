from __future__ import annotations

import pytest
import torch

from eplb_opt import Instance, Placement, Topology
from eplb_opt.problem.validity import find_violations
from heuristics.graphs import GRAPHS, cube, ring, torus
from heuristics.policies import LPLB_GRAPHS, placer
from tests.heuristics.loads import lognormal


def test_sources() -> None:
    assert ring(4).T.tolist() == [[3, 0, 1, 2]]
    assert cube(8).T.tolist() == [[3, 0, 1, 2, 7, 4, 5, 6], [6, 7, 4, 5, 0, 1, 2, 3]]
    assert torus(6).T.tolist() == [[2, 3, 4, 5, 0, 1], [1, 0, 3, 2, 5, 4]]  # 3 rows of 2


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_rank_copies_each_of_its_heaviest_once(graph: str) -> None:
    sources = GRAPHS[graph](16)
    assert torch.equal(sources.sort(0).values, torch.arange(16)[:, None].expand_as(sources))
    assert bool((sources != torch.arange(16)[:, None]).all())


def test_ring_by_hand() -> None:
    """LPT puts 9 and 1 on rank 0, 8 and 2 on rank 1, 7 and 3 on rank 2."""
    placed = placer("lplb-graph:ring")(torch.tensor([[1.0, 2, 3, 7, 8, 9]]), 9, 1, 1, 3)
    assert placed.tolist() == [[5, 0, 3, 4, 1, 5, 3, 2, 4]]


@pytest.mark.parametrize(
    ("graph", "slots", "groups", "nodes", "ranks"),
    [
        ("ring", 40, 1, 1, 8),
        ("ring", 40, 8, 2, 8),
        ("cube", 64, 8, 2, 16),
        ("torus", 48, 1, 1, 8),
        ("torus", 48, 4, 2, 8),
    ],
)
def test_placements_are_valid_and_lpt_without_the_copies(graph, slots, groups, nodes, ranks):
    loads = lognormal(3, 32, sigma=1.0, seed=1).float()
    placed = placer(f"lplb-graph:{graph}")(loads, slots, groups, nodes, ranks)
    rule = "hierarchical" if nodes > 1 else "global"
    instance = Instance(loads.numpy(), Topology(slots, ranks, nodes, groups), rule)
    assert find_violations(Placement(placed.numpy(), 32), instance) == []
    own = placed.view(3, ranks, -1)[:, :, : 32 // ranks]
    assert torch.equal(own.flatten(1), placer("deepseek")(loads, 32, groups, nodes, ranks))
    of_own = loads.gather(1, own.flatten(1)).view_as(own)
    assert bool((of_own.diff(dim=2) <= 0).all())


@pytest.mark.parametrize(
    ("graph", "sizes", "message"),
    [
        ("ring", (48, 1, 1, 8), r"on 8 ranks need 8 redundant slots \(40 in total\), not 16"),
        ("ring", (33, 1, 1, 1), "a ring needs at least 2 ranks, not 1"),
        ("ring", (36, 1, 1, 6), "6 ranks do not divide 32 experts"),
        ("cube", (40, 1, 1, 4), "a cube needs a multiple of 8 ranks, not 4$"),
        ("cube", (48, 2, 2, 8), "a cube needs a multiple of 8 ranks, not 4 on every node"),
        ("cube", (96, 1, 1, 32), "copies 2 experts of every rank, and a rank has 1 of 32"),
        ("torus", (36, 1, 1, 2), "a torus needs m n ranks with m and n at least 2, not 2"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line_with_the_remedy(graph, sizes, message):
    with pytest.raises(ValueError, match=message) as caught:
        placer(f"lplb-graph:{graph}")(torch.ones(1, 32), *sizes)
    assert str(caught.value).startswith(f"lplb-graph:{graph}")
    assert "\n" not in str(caught.value)


def test_ideas_are_one_line() -> None:
    for policy in LPLB_GRAPHS.values():
        assert 10 < len(policy.idea) < 100
