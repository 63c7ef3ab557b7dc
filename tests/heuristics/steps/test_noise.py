from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from heuristics.steps.noise import SPREAD, TOKENS, draw_steps, fit
from tests.heuristics.loads import lognormal

LOADS = lognormal(3, 16, sigma=1.0, seed=0)


def means_and_covariances(steps: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    counts = steps[:, 0].double().numpy()
    return counts.mean(0), np.cov(counts.T)


def test_every_step_sums_to_its_tokens() -> None:
    drawn = draw_steps(LOADS, steps=50, tokens=100, spread=0.5, seed=1)
    assert drawn.shape == (50, 3, 16)
    assert drawn.dtype == torch.float32
    assert bool((drawn == drawn.round()).all() and (drawn >= 0).all())
    assert bool((drawn.sum(-1) == 100).all())


def test_a_seed_draws_the_same_steps() -> None:
    first, again, other = (draw_steps(LOADS, steps=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_spread_counts_are_multinomial() -> None:
    drawn = draw_steps(LOADS, steps=20_000, tokens=400, spread=0.0, seed=0)
    mean, covariance = means_and_covariances(drawn)
    p = (LOADS[0] / LOADS[0].sum()).numpy()
    expected = 400 * (np.diag(p) - np.outer(p, p))
    np.testing.assert_allclose(mean, 400 * p, atol=0.3)
    np.testing.assert_allclose(covariance, expected, atol=0.05 * expected.max())


def test_experts_of_a_token_are_different() -> None:
    """As many tokens, each of which takes four experts by the largest of perturbed logarithms."""
    loads = lognormal(1, 32, sigma=0.4, seed=3)
    chance = torch.rand(1000, 64, 32, generator=torch.Generator().manual_seed(0)).double()
    keys = loads.log() - (-chance.log()).log()
    tokens = torch.zeros(1000, 64, 32).scatter_(2, keys.topk(4).indices, 1).sum(1, keepdim=True)
    drawn = draw_steps(tokens.sum(0), steps=2000, tokens=256, spread=0.0, per_token=4.0)
    (mean, expected), (found_mean, found) = map(means_and_covariances, (tokens, drawn))
    np.testing.assert_allclose(found_mean, mean, rtol=0.05)
    assert np.trace(found) == pytest.approx(np.trace(expected), rel=0.03)
    assert fit(tokens).per_token.item() == pytest.approx(4, abs=0.6)
    assert fit(drawn).per_token.item() == pytest.approx(4, abs=0.6)


@pytest.mark.parametrize(("tokens", "tolerance"), [(256, 0.08), (32768, 0.08)])
@pytest.mark.parametrize("spread", [0.2, 0.6])
def test_the_fit_finds_the_spread_of_drawn_steps(spread, tokens, tolerance):
    drawn = draw_steps(LOADS, steps=2000, tokens=tokens, spread=spread)
    found = fit(drawn)
    np.testing.assert_allclose(found.spread, spread, rtol=tolerance)
    assert found.tokens.tolist() == [tokens] * 3
    assert found.per_token.tolist() == [1] * 3


def test_steps_drawn_from_a_trace_vary_as_it_does() -> None:
    trace = draw_steps(LOADS, steps=500, tokens=300, spread=0.4, seed=1).to(torch.int64)
    again = draw_steps(trace, steps=500, seed=2)
    assert bool((again.sum(-1) == 300).all())
    np.testing.assert_allclose(fit(again).spread, fit(trace).spread, rtol=0.1)
    assert float(draw_steps(trace, spread=0.0).var(0).sum()) < float(again.var(0).sum()) / 2


def test_zero_loads_stay_zero_and_idle_layers_idle() -> None:
    loads = torch.tensor([[0.0, 5, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 7, 0, 0]])
    drawn = draw_steps(loads, steps=200, tokens=50, spread=1.0)
    assert bool((drawn[:, loads == 0] == 0).all())
    assert drawn.sum(-1).unique(dim=0).tolist() == [[50, 0, 50]]
    trace = draw_steps(drawn, steps=20)
    assert trace.sum(-1).unique(dim=0).tolist() == [[50, 0, 50]]


@pytest.mark.parametrize("unit", [1e-300, 1e-30, 1.0, 1e300])
def test_the_unit_of_loads_does_not_matter(unit: float) -> None:
    assert torch.equal(draw_steps(LOADS * unit, steps=3), draw_steps(LOADS, steps=3))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.float16, torch.float64])
def test_any_dtype(dtype: torch.dtype) -> None:
    loads = (100 * LOADS).round().to(dtype)
    assert torch.equal(draw_steps(loads, steps=3), draw_steps(loads.double(), steps=3))


def test_experts_in_more_than_every_token() -> None:
    """Four experts of a token, and two alone have load: tokens have nowhere else to go."""
    drawn = draw_steps(torch.tensor([[1.0, 1, 0]]), steps=20, tokens=40, spread=0.0, per_token=4.0)
    assert drawn[..., 2].sum() == 0
    assert bool((drawn.sum(-1) == 40).all())


def test_loads_that_are_no_tokens_have_no_chance_to_take_out() -> None:
    trace = draw_steps(LOADS, steps=300, tokens=2**20, spread=0.3)
    parts = trace / trace.sum(-1, keepdim=True) / 3
    np.testing.assert_allclose(fit(parts).spread, fit(trace).spread, rtol=0.01)
    assert fit(parts).tokens.tolist() == [TOKENS] * 3


@pytest.mark.parametrize(
    "trace", [LOADS[None].round(), torch.eye(3)[:, None], torch.zeros(4, 1, 3)]
)
def test_too_little_to_tell(trace: torch.Tensor) -> None:
    """A single step, a token a step, none at all."""
    found = fit(trace)
    np.testing.assert_allclose(found.spread, SPREAD)
    np.testing.assert_allclose(found.per_token, 1)


def test_one_expert_has_no_spread() -> None:
    found = fit(torch.tensor([[[9.0, 0]], [[11, 0]]]))
    assert found.spread.item() == 0
    assert found.tokens.item() == 10


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"tokens": 0}, {"spread": -0.1}, {"per_token": 0.5}]
)
def test_numbers_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        draw_steps(LOADS, **wrong)
