"""Annealing for even dispatch: both forms, transfers, objectives, partitions of groups."""

from fractions import Fraction
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heuristics.grouping import groups_by_steps
from heuristics.homes import beyond_limit, off_home
from heuristics.matching import count_transfers, find_homes
from heuristics.policies import placer
from heuristics.shape import Shape
from heuristics.steps import even_annealing, robust
from heuristics.steps.even_values import even_makespans, over_steps
from heuristics.steps.trials import Transfers

SHAPES = [
    # steps, experts, slots, ranks, groups, nodes
    (5, 16, 20, 4, 1, 1),
    (7, 12, 12, 3, 1, 1),
    (4, 16, 24, 8, 4, 2),
    (150, 12, 16, 4, 1, 1),
    (6, 6, 8, 2, 1, 1),
    (3, 4, 9, 3, 1, 1),
    (2, 4, 4, 4, 1, 1),
]

NODES = [(4, 16, 24, 8, 4, 2), (1, 12, 16, 4, 4, 4), (70, 12, 12, 6, 3, 3)]

HEAT = torch.tensor([0.01, 0.01])


def draw(steps: int, experts: int, layers: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(steps)
    return torch.rand(steps, layers, experts, generator=generator) ** 3 * 100


CASES = [
    *[(shape, share, None) for shape in SHAPES for share in (1.0, 0.0, 0.3, 0.99999)],
    *[(shape, share, limit) for shape in NODES for share in (1.0, 0.3) for limit in (0.05, 1.0)],
]
"""Shapes, shares of the steps that count, and limits of tokens off home."""


@pytest.mark.parametrize(("shape", "share", "limit"), CASES)
@pytest.mark.parametrize("budget", [None, 3])
def test_both_forms_make_the_same_moves(
    shape: tuple[int, ...],
    share: float,
    limit: float | None,
    budget: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number, experts, slots, ranks, groups, nodes = shape
    steps = draw(number, experts)
    start = placer("deepseek")(steps.sum(0), slots, groups, nodes, ranks)
    rule = home_rule(steps, start, groups, nodes, limit)
    found = []
    for compiled in (True, False):
        monkeypatch.setattr(even_annealing, "use_compiled", lambda _, now=compiled: now)
        transfers = Transfers.of(start, start, budget, ranks, experts)
        placed = even_annealing.anneal_evenly(
            steps, start, transfers, share, HEAT, num_nodes=nodes, rounds=40, seed=3, **rule
        )
        found.append((placed, transfers.left))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    if budget is not None:
        assert bool((count_transfers(start, found[0][0], ranks, experts) <= budget).all())
    if limit is not None:
        assert not beyond_limit(steps, found[0][0], groups, nodes, limit).any()


def home_rule(
    steps: Tensor, start: Tensor, groups: int, nodes: int, limit: float | None
) -> dict[str, Any]:
    """The words that put the annealing under the rule ``home``."""
    if limit is None:
        return {}
    return {"homes": find_homes(start, steps.sum(0), nodes, groups), "limit": limit}


@pytest.mark.parametrize("limit", [0.0, 0.04, 0.1, 1.0])
def test_a_single_window_is_annealed_with_groups_at_home(limit: float) -> None:
    steps = draw(1, 16)
    start = placer("deepseek")(steps[0], 24, 4, 4, 8)
    rule = home_rule(steps, start, 4, 4, limit)
    transfers = Transfers.of(start, None, None, 8, 16)
    found = even_annealing.anneal_evenly(
        steps, start, transfers, 1.0, HEAT, num_nodes=4, rounds=100, seed=0, **rule
    )
    away = off_home(steps[0], found, rule["homes"], 4) / steps[0].sum(1)
    assert bool((away <= limit).all())
    assert bool((away > 0).all()) == (limit > 0)
    before, after = (even_makespans(steps, x, 8)[0] for x in (start, found))
    assert bool((after < before).all()) or limit == 0


def test_a_start_above_the_limit_comes_down_first() -> None:
    steps = draw(1, 16)
    start = placer("deepseek")(steps[0], 24, 4, 4, 8)
    rule = home_rule(steps, start, 4, 4, 1.0)
    for limit in (1.0, 0.03):
        transfers = Transfers.of(start, None, None, 8, 16)
        start = even_annealing.anneal_evenly(
            steps, start, transfers, 1.0, HEAT, num_nodes=4, rounds=300, seed=0,
            homes=rule["homes"], limit=limit,
        )  # fmt: skip
        away = off_home(steps[0], start, rule["homes"], 4) / steps[0].sum(1)
        assert bool((away <= limit).all())
        assert bool((away > 0).all())


def test_the_annealing_moves_at_all() -> None:
    steps = draw(5, 16)
    start = placer("deepseek")(steps.sum(0), 20, 1, 1, 4)
    transfers = Transfers.of(start, None, None, 4, 16)
    found = even_annealing.anneal_evenly(
        steps, start, transfers, 1.0, HEAT, num_nodes=1, rounds=200, seed=0
    )
    before, after = (over_steps(even_makespans(steps, x, 4), "mean") for x in (start, found))
    assert bool((after < 0.9 * before).all())


def test_a_layer_is_placed_alike_whatever_others_there_are() -> None:
    steps = draw(5, 16, layers=3)
    starts = placer("deepseek")(steps.sum(0), 20, 1, 1, 4)
    together = even_annealing.anneal_evenly(
        steps,
        starts,
        Transfers.of(starts, None, None, 4, 16),
        1.0,
        HEAT.repeat(3)[:3],
        num_nodes=1,
        rounds=60,
        seed=0,
    )
    for layer in range(3):
        one = slice(layer, layer + 1)
        alone = even_annealing.anneal_evenly(
            steps[:, one],
            starts[one],
            Transfers.of(starts[one], None, None, 4, 16),
            1.0,
            HEAT[:1],
            num_nodes=1,
            rounds=60,
            seed=0,
        )
        assert torch.equal(alone, together[one])


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_values_are_those_of_fractions(data: st.DataObject) -> None:
    steps, experts, ranks, size = (
        data.draw(st.integers(*limits)) for limits in ((1, 5), (1, 5), (1, 3), (1, 4))
    )
    experts = min(experts, ranks * size)
    loads = data.draw(
        st.lists(
            st.lists(st.integers(0, 9), min_size=experts, max_size=experts),
            min_size=steps,
            max_size=steps,
        )
    )
    more = st.lists(
        st.integers(0, experts - 1),
        min_size=ranks * size - experts,
        max_size=ranks * size - experts,
    )
    slots = data.draw(st.permutations([*range(experts), *data.draw(more)]))
    part = data.draw(st.sampled_from([Fraction(1), Fraction(0), Fraction(1, 3), Fraction(3, 4)]))
    makespans = sorted(
        (
            max(
                sum(
                    (Fraction(step[e], slots.count(e)) for e in slots[g * size : (g + 1) * size]),
                    Fraction(0),
                )
                for g in range(ranks)
            )
            for step in loads
        ),
        reverse=True,
    )
    number = max(part * steps, Fraction(1))
    weights = [min(max(number - n, Fraction(0)), Fraction(1)) for n in range(steps)]
    exact = sum((w * m for w, m in zip(weights, makespans, strict=True)), Fraction(0)) / number
    name = {1: "mean", 0: "worst"}.get(part, f"cvar:{float(part)}")
    found = over_steps(
        even_makespans(torch.tensor(loads).float()[:, None], torch.tensor([slots]), ranks), name
    )
    assert float(found) == pytest.approx(float(exact), abs=1e-12)


def test_groups_are_parted_by_steps() -> None:
    # The sums of all groups are equal; only the first and the third are busy at the same step.
    steps = torch.tensor([[[8.0, 0, 8, 0]], [[0.0, 8, 0, 8]]])
    groups = groups_by_steps(steps)(steps.sum(0).view(1, 4, 1), Shape(4, 4, 2, 4))
    placed = robust(steps, 4, 4, 2, 2, effort="fast")
    for nodes in (groups, placed):
        assert all(len(set(node.tolist()) & {0, 2}) == 1 for node in nodes.view(2, 2))


@pytest.mark.parametrize("objective", ["mean", "worst", "cvar:0.5"])
def test_tiny_instances_are_placed_best(objective: str) -> None:
    for seed in range(3):
        steps = torch.randint(0, 20, (3, 1, 6), generator=torch.Generator().manual_seed(seed))
        steps = steps.float()
        every = torch.tensor(list(permutations(range(6))))
        values = [
            over_steps(even_makespans(steps, slots[None], 2), objective).item() for slots in every
        ]
        placed = robust(steps, 6, 1, 1, 2, objective=objective, effort="fast")
        value = over_steps(even_makespans(steps, placed, 2), objective).item()
        assert value == pytest.approx(min(values))
