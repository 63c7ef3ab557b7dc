"""``dispatch-aware`` beside its definition: exact values of tiny layers, and its starts."""

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Placement, Topology
from eplb_opt.problem.transfer import count_transfers
from eplb_opt.problem.validity import find_violations
from heuristics import rebalance_experts
from heuristics.steps import dispatch_aware
from heuristics.steps.dispatch_aware import draw_besides
from heuristics.steps.values import mean_makespans
from tests.oracles.layers import FLOATS
from tests.oracles.steps import optimal_makespans, optimum

Shape = tuple[int, int, int, int, int]

EFFORTS = ["fast", "default"]
"""Thorough takes seconds; it is the same search, from several starts."""
STARTS = ["deepseek", "refined", *(f"lplb-graph:{graph}" for graph in ("ring", "cube", "torus"))]
ROUNDING = 1e-4
"""Relative error of values in floats: shares after seven sweeps, each in float32."""

GLOBAL: list[Shape] = [(4, 6, 1, 1, 3), (8, 12, 1, 1, 4), (3, 8, 1, 1, 4)]
"""(experts, slots, groups, nodes, ranks)"""
NODES: list[Shape] = [(8, 12, 4, 2, 4), (4, 6, 2, 2, 2), (6, 12, 2, 2, 4), (4, 12, 2, 2, 4)]
EDGES: list[Shape] = [
    *[(4, 4, 1, 1, 2), (4, 4, 1, 1, 4), (3, 5, 1, 1, 1), (3, 6, 1, 1, 6)],
    *[(1, 4, 1, 1, 2), (1, 1, 1, 1, 1), (4, 4, 2, 2, 4), (2, 4, 2, 2, 2), (8, 8, 4, 4, 8)],
    (6, 12, 3, 2, 4),
]
"""No redundant slots, one rank, one slot a rank, one expert, a rank for each node;
groups that nodes do not divide, so that the rule is global.
"""


def instance_of(steps: torch.Tensor, shape: Shape) -> Instance:
    _, slots, groups, nodes, ranks = shape
    rule = "hierarchical" if groups % nodes == 0 else "global"
    return Instance(steps.numpy(), Topology(slots, ranks, nodes, groups), rule)


def check_valid(steps: torch.Tensor, placed: torch.Tensor, shape: Shape) -> None:
    assert placed.dtype == torch.int64
    placement = Placement(placed.numpy(), shape[0])
    assert find_violations(placement, instance_of(steps, shape)) == []


def values(steps: torch.Tensor, placed: torch.Tensor, num_ranks: int) -> list[Fraction]:
    """The mean makespan of each layer, by trying all sets of ranks."""
    layers = [
        [[Fraction(w) for w in row] for row in layer] for layer in steps.transpose(0, 1).tolist()
    ]
    return [
        sum(optimal_makespans(layer, tuple(slots), num_ranks), Fraction(0)) / len(layer)
        for layer, slots in zip(layers, placed.tolist(), strict=True)
    ]


def all_starts(steps: torch.Tensor, shape: Shape) -> Iterator[torch.Tensor]:
    """Placements of the sum that ``dispatch-aware`` is never behind."""
    for policy in STARTS:
        with suppress(ValueError):
            yield rebalance_experts(steps.double().sum(0), *shape[1:], policy=policy)[0]


def check_never_above(
    steps: torch.Tensor, placed: torch.Tensor, other: torch.Tensor, num_ranks: int
) -> None:
    pairs = zip(values(steps, placed, num_ranks), values(steps, other, num_ranks), strict=True)
    assert all(float(ours) <= float(theirs) * (1 + ROUNDING) for ours, theirs in pairs)


def drawn(num_steps: int, num_layers: int, num_experts: int, seed: int) -> torch.Tensor:
    """Tokens [T, L, E] that swing: lognormal popularity and lognormal noise."""
    random = np.random.default_rng(seed)
    common = random.normal(size=(num_layers, num_experts))
    noise = random.normal(size=(num_steps, num_layers, num_experts))
    return torch.from_numpy(random.poisson(100 * np.exp(common + 0.8 * noise)))


@st.composite
def cases(draw: st.DrawFn, shapes: list[Shape]) -> tuple[torch.Tensor, Shape]:
    """Steps [T, L, E] with ties, zeros, idle experts, steps and layers; and a shape."""
    shape = draw(st.sampled_from(shapes))
    loads = draw(st.sampled_from([st.integers(0, 3), st.integers(0, 60), FLOATS]))
    row = st.lists(loads, min_size=shape[0], max_size=shape[0])
    row = st.one_of(row, row, row, st.just([0] * shape[0]))
    layers = draw(st.integers(1, 3))
    step = st.lists(row, min_size=layers, max_size=layers)
    steps = draw(st.lists(step, min_size=1, max_size=4))
    return torch.tensor(steps, dtype=torch.float64), shape


@given(case=cases([*NODES, *EDGES]))
@settings(max_examples=25)
def test_placements_are_valid_and_never_above_the_starts(case):
    steps, shape = case
    placed = dispatch_aware(steps, *shape[1:], effort="fast")
    check_valid(steps, placed, shape)
    for start in all_starts(steps, shape):
        check_never_above(steps, placed, start, shape[4])


@pytest.mark.parametrize("shape", GLOBAL)
def test_placements_of_swinging_loads_are_never_above_the_starts(shape):
    steps = drawn(4, 6, shape[0], seed=11)
    starts = list(all_starts(steps, shape))
    for effort in EFFORTS:
        placed = dispatch_aware(steps, *shape[1:], effort=effort)
        check_valid(steps, placed, shape)
        for start in starts:
            check_never_above(steps, placed, start, shape[4])


@given(case=cases([*GLOBAL, *NODES, *EDGES]), data=st.data())
@settings(max_examples=40)
def test_mean_makespans_are_those_of_the_definition(case, data):
    steps, shape = case
    experts, slots = shape[:2]
    others = st.lists(
        st.integers(0, experts - 1), min_size=slots - experts, max_size=slots - experts
    )
    placement = data.draw(st.permutations([*range(experts), *data.draw(others)]))
    placed = torch.tensor(placement).expand(steps.shape[1], -1)
    found = mean_makespans(steps, placed[None], shape[4])
    assert found.shape == (1, steps.shape[1])
    expected = [float(value) for value in values(steps, placed, shape[4])]
    assert found[0].tolist() == pytest.approx(expected, rel=ROUNDING, abs=1e-12)
    assert all(value >= least * (1 - 1e-6) for value, least in zip(found[0], expected, strict=True))


def test_most_tiny_layers_are_placed_best():
    shape = (4, 6, 1, 1, 3)
    steps = drawn(4, 20, 4, seed=0)
    placed = dispatch_aware(steps, *shape[1:], effort="thorough", enough=0)
    best = [optimum(layer, "mean", "optimal") for layer in instance_of(steps, shape).layers()]
    found = values(steps, placed, 3)
    assert all(value >= least for value, least in zip(found, best, strict=True))
    assert sum(value == least for value, least in zip(found, best, strict=True)) >= 18


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_hot_expert_gets_as_many_replicas_as_it_takes(effort):
    """Expert 0 has three quarters of the tokens: on 4 ranks it needs 3 of them for itself."""
    steps = torch.tensor([[[900, 60, 60, 60, 60, 60]], [[870, 66, 66, 66, 66, 66]]])
    placed = dispatch_aware(steps, 12, 1, 1, 4, effort=effort)
    assert values(steps, placed, 4) == [300]


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("shape", NODES[:2])
def test_layers_without_load_are_placed(effort, shape):
    steps = drawn(3, 4, shape[0], seed=1)
    steps[:, 0], steps[1], steps[:, 2, 3] = 0, 0, 0
    check_valid(steps, dispatch_aware(steps, *shape[1:], effort=effort), shape)
    idle = torch.zeros_like(steps)
    check_valid(idle, dispatch_aware(idle, *shape[1:], effort=effort), shape)
    check_valid(idle, dispatch_aware(idle[0], *shape[1:], effort=effort), shape)


def test_loads_without_steps_are_drawn_around():
    weight = drawn(1, 3, 8, seed=3)[0].float()
    placed = dispatch_aware(weight, *NODES[0][1:], seed=5)
    check_valid(weight[None], placed, NODES[0])
    assert torch.equal(placed, dispatch_aware(weight.long(), *NODES[0][1:], seed=5))


@pytest.mark.parametrize("shape", [(8, 8, 1, 1, 4), (4, 8, 1, 1, 8), (8, 8, 4, 2, 4)])
def test_a_layer_is_placed_alike_whatever_is_beside_it(shape):
    """Where ``refined`` tries no other counts and no steps are drawn: that depends on the layers of
    a call.
    """
    steps = drawn(6, 3, shape[0], seed=4)
    placed = dispatch_aware(steps, *shape[1:], enough=0)
    alone = [dispatch_aware(steps[:, [i]], *shape[1:], enough=0) for i in range(3)]
    assert torch.equal(placed, torch.cat(alone))


@pytest.mark.parametrize("effort", EFFORTS)
def test_equal_input_gives_equal_placements_and_leaves_the_random_numbers_of_others(effort):
    steps, sizes = drawn(6, 2, 8, seed=5), NODES[0][1:]
    torch.manual_seed(0)
    random, numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()
    placed = dispatch_aware(steps, *sizes, effort=effort, seed=1)
    assert torch.equal(torch.get_rng_state(), random)
    assert np.random.get_state()[1].tolist() == numbers
    torch.manual_seed(1)
    assert torch.equal(placed, dispatch_aware(steps, *sizes, effort=effort, seed=1))


def test_kinds_of_numbers_do_not_matter():
    steps, sizes = drawn(5, 2, 8, seed=6), NODES[0][1:]
    expected = dispatch_aware(steps, *sizes)
    for dtype in (torch.int16, torch.int32, torch.float32, torch.float64):
        strided = steps.to(dtype).permute(2, 1, 0).contiguous().permute(2, 1, 0)
        assert torch.equal(dispatch_aware(strided, *sizes), expected)


def test_arguments_are_not_written():
    steps = drawn(4, 2, 8, seed=7)
    old = rebalance_experts(steps.sum(0), 12, 1, 1, 4, policy="deepseek")[0]
    before, placed = steps.clone(), old.clone()
    dispatch_aware(steps, 12, 1, 1, 4, old=old, move_budget=3)
    assert torch.equal(steps, before)
    assert torch.equal(old, placed)


@pytest.mark.parametrize(
    ("effort", "budget"),
    [("fast", 2), ("fast", 12), ("default", 0), ("default", 1), ("thorough", 2)],
)
@pytest.mark.parametrize("shape", [GLOBAL[1], NODES[0]])
def test_budget_is_kept_and_nothing_gets_worse(effort, budget, shape):
    before, steps = drawn(4, 3, 8, seed=8), drawn(4, 3, 8, seed=9)
    old = rebalance_experts(before.sum(0), *shape[1:], policy="deepseek")[0]
    placed = dispatch_aware(steps, *shape[1:], effort=effort, old=old, move_budget=budget)
    check_valid(steps, placed, shape)
    assert count_transfers(old, placed, 3).sum(1).max() <= budget
    check_never_above(steps, placed, old, 4)


def test_loads_too_small_for_rounding_are_placed():
    """A dispatch of loads near the least number that float64 has did not end."""
    steps = drawn(6, 2, 8, seed=2).double() * 1e-322
    check_valid(steps, dispatch_aware(steps, 12, 1, 1, 4, effort="fast"), (8, 12, 1, 1, 4))


def test_few_steps_are_joined_by_drawn_ones_of_as_many_tokens():
    steps = drawn(6, 3, 8, seed=2).double()
    steps[:, 1] = 0
    more = draw_besides(steps, 500, seed=0)
    assert more.shape == (500, 3, 8)
    assert more.mean(0).sum(1).tolist() == pytest.approx(steps.mean(0).sum(1).tolist())
    assert draw_besides(steps, -1, seed=0).shape == (0, 3, 8)


def test_one_of_two_copies_on_a_rank_that_goes_saves_no_transfer():
    """A budget was exceeded where the start held an expert twice on a rank."""
    steps = torch.rand(40, 1, 7, generator=torch.Generator().manual_seed(0))
    steps[:, :, 0] *= 10
    old = torch.arange(12)[None] % 7
    for budget in (2, 4, 6):
        placed = dispatch_aware(steps, 12, 1, 1, 4, effort="fast", old=old, move_budget=budget)
        assert count_transfers(old, placed, 3).sum() <= budget


@given(case=cases([*NODES, *EDGES]), data=st.data())
@settings(max_examples=15)
def test_any_old_placement_can_be_changed(case, data):
    steps, shape = case
    budget = data.draw(st.integers(0, 4))
    weight = torch.arange(1.0, shape[0] + 1).roll(data.draw(st.integers(0, 5)))
    weight = weight.expand(steps.shape[1], -1)
    old = rebalance_experts(weight, *shape[1:], policy="deepseek")[0]
    placed = dispatch_aware(steps, *shape[1:], effort="fast", old=old, move_budget=budget)
    check_valid(steps, placed, shape)
    assert count_transfers(old, placed, shape[1] // shape[4]).sum(1).max() <= budget
    check_never_above(steps, placed, old, shape[4])


def test_without_a_budget_the_placement_is_written_beside_the_old_one():
    steps = drawn(4, 3, 8, seed=10)
    old = dispatch_aware(steps, 12, 1, 1, 4)
    turned = old.view(3, 4, 3).flip(1, 2).reshape(3, 12)
    placed = dispatch_aware(steps, 12, 1, 1, 4, old=turned)
    assert count_transfers(turned, placed, 3).sum() <= count_transfers(turned, old, 3).sum()
    for start in all_starts(steps, (8, 12, 1, 1, 4)):
        check_never_above(steps, placed, start, 4)


BAD_LOADS = {
    "NaN": torch.tensor([[[1.0, float("nan"), 1, 1]]]),
    "infinite": torch.tensor([[[1.0, float("inf"), 1, 1]]]),
    "negative": torch.tensor([[[3, 1, 1, 1]], [[-1, 1, 1, 1]]]),
    "(4,)": torch.ones(4),
    "(1, 1, 1, 4)": torch.ones(1, 1, 1, 4),
    "(0, 1, 4)": torch.ones(0, 1, 4),
    "(2, 0, 4)": torch.ones(2, 0, 4),
    "torch.bool": torch.ones(2, 1, 4, dtype=torch.bool),
}


@pytest.mark.parametrize("named", list(BAD_LOADS))
def test_bad_loads_are_named(named):
    """A negative load is found though the steps sum to none."""
    with pytest.raises(ValueError, match="weight") as raised:
        dispatch_aware(BAD_LOADS[named], 6, 1, 1, 3)
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"effort": "x"}, "effort='x'"),
        ({"move_budget": 2}, "move_budget=2"),
        ({"move_budget": -1, "old": torch.tensor([[0, 1, 2, 3, 0, 1]])}, "move_budget=-1"),
        ({"old": torch.tensor([[0, 1, 2, 3]])}, "old of shape"),
        ({"old": torch.tensor([[0, 1, 2, 2, 0, 1]])}, "no slot for expert 3"),
        ({"old": torch.tensor([[0, 1, 2, 3, 4, 1]])}, "old holds expert 4"),
    ],
)
def test_bad_words_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        dispatch_aware(torch.ones(2, 1, 4), 6, 1, 1, 3, **words)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 1, 1, 3), "num_replicas=3 is less than 4 experts"),
        ((7, 1, 1, 3), "num_replicas=7 is not a multiple of num_gpus=3"),
        ((6, 1, 1, 0), "num_gpus=0"),
        ((6, 2, 2, 3), "num_gpus=3 is not a multiple of num_nodes=2"),
        ((6, 3, 1, 3), "not a multiple of num_groups=3"),
    ],
)
def test_bad_sizes_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        dispatch_aware(torch.ones(2, 1, 4), *sizes)
