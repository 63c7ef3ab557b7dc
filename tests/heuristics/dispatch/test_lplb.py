from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heuristics.dispatch.lplb import lplb
from heuristics.dispatch.slots import even_shares, expert_loads, rank_loads
from heuristics.policies import placer
from tests.heuristics.loads import lognormal


def one_layer(loads: torch.Tensor, phy2log: list[int], ranks: int, steps: int) -> torch.Tensor:
    """LPLB for one step of one layer, row by row, in float64."""
    size, slots = len(phy2log) // ranks, range(len(phy2log))
    tokens = loads.double() / max(float(loads.sum()), 1.0)
    several = [e for e in range(len(loads)) if phy2log.count(e) > 1]
    columns = [p for p in slots if phy2log[p] in several]
    rows, right = [], []
    for e in several:
        rows.append([float(phy2log[p] == e) for p in columns] + [0.0] * ranks + [0.0])
        right.append(float(tokens[e]))
    for g in range(ranks):
        slack = [float(h == g) for h in range(ranks)]
        rows.append([float(p // size == g) for p in columns] + slack + [-1.0])
        alone = [phy2log[p] for p in slots if p // size == g and phy2log[p] not in several]
        right.append(-float(tokens[alone].sum()))
    matrix, b = torch.tensor(rows).double(), torch.tensor(right).double()
    matrix = torch.cat([matrix, (b - matrix.sum(1))[:, None]], 1)
    costs = torch.zeros(matrix.shape[1]).double()
    costs[-2], costs[-1] = 1, 1000
    z, largest = torch.ones_like(costs), torch.tensor(0.0)
    for _ in range(steps):
        scaled = matrix * z**2
        y = torch.linalg.solve(scaled @ matrix.T, scaled @ costs)
        d = z * (costs - matrix.T @ y)
        largest = d.max()
        z = z * (1 - 0.999 / largest * d)
    if largest >= 0.1 or not 0 <= z[-1] < 1e-4 or (matrix @ z - b).abs().max() >= 0.05:
        z = torch.full_like(z, 0.5)
    shares = torch.ones(len(phy2log)).double()
    shares[columns] = z[: len(columns)]
    for e in several:
        of_expert = torch.tensor([p for p in slots if phy2log[p] == e])
        shares[of_expert] /= shares[of_expert].sum()
    return shares


def test_as_one_layer_after_the_other() -> None:
    loads = (lognormal(3, 4, 16, sigma=1.0, seed=4) * 50).round()
    for slots, policy in ((20, "deepseek"), (24, "refined"), (20, "lplb-graph:ring")):
        phy2log = placer(policy)(loads.sum(0), slots, 1, 1, 4)
        found = lplb(loads, phy2log, 4)
        assert found.shape == (3, 4, slots)
        assert found.dtype == torch.float32
        for step in range(3):
            for layer in range(4):
                expected = one_layer(loads[step, layer], phy2log[layer].tolist(), 4, 5)
                assert torch.allclose(found[step, layer].double(), expected, atol=2e-3)


def test_many_steps_come_close_to_the_least_makespan() -> None:
    """On a ring whose loads can be level: 30, 50, 20, 60 by whole experts, 40 each at best."""
    phy2log = torch.tensor([[0, 3, 1, 0, 2, 1, 3, 2]])
    loads = torch.tensor([[30.0, 50, 20, 60]])
    found = lplb(loads, phy2log, 4, steps=8)
    assert float(rank_loads(found * expert_loads(loads, phy2log), 4).max()) < 40.1


@pytest.mark.parametrize("steps", [1, 2])
def test_even_where_the_steps_do_not_converge(steps: int) -> None:
    phy2log = torch.tensor([[0, 1, 1, 2, 1, 3], [0, 1, 1, 2, 3, 3]])
    found = lplb(torch.tensor([[9, 1, 5, 2], [9, 1, 5, 2]]), phy2log, 3, steps=steps)
    assert torch.allclose(found, even_shares(phy2log, 4))


@given(st.data())
@settings(max_examples=40)
def test_shares_of_an_expert_sum_to_1(data: st.DataObject) -> None:
    ranks, per_rank = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    slots = ranks * per_rank
    experts = data.draw(st.integers(1, slots))
    layers = data.draw(st.integers(1, 3))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    more = torch.randint(experts, (layers, slots - experts), generator=draw)
    phy2log = torch.cat([torch.arange(experts).expand(layers, -1), more], 1)
    phy2log = phy2log[:, torch.randperm(slots, generator=draw)]
    loads = torch.randint(0, data.draw(st.sampled_from([1, 2, 100])), (2, layers, experts))
    found = lplb(loads, phy2log, ranks)
    assert bool((found >= 0).all())
    sums = torch.zeros(2, layers, experts).scatter_add_(2, phy2log.expand_as(found), found)
    assert torch.allclose(sums, torch.ones(()))


def test_no_steps_and_no_loads() -> None:
    phy2log = torch.tensor([[0, 1, 1, 0]])
    assert lplb(torch.ones(0, 1, 2), phy2log, 2).shape == (0, 1, 4)
    with pytest.raises(ValueError, match="num_ranks=3 does not divide 4 slots"):
        lplb(torch.ones(1, 2), phy2log, 3)
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        lplb(torch.ones(1, 2), phy2log, 2, steps=0)
