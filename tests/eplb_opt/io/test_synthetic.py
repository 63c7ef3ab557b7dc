"""Synthetic loads against what recordings look like."""

import numpy as np
import pytest

from eplb_opt.io.synthetic import FAMILIES, Drift, generate

SIZES = {"num_layers": 3, "num_experts": 16, "tokens": 10_000, "seed": 5}

# Quantiles p10, p50, p90 over 290 recorded layers of DeepSeek-V3 (58 with load, 5 scenarios), for
# experts in two estimates: all layers pooled, and the one the family was first fitted to.
RECORDED_MAX_OVER_MEAN = [4.229, 6.239, 9.403], [4.1, 6.1, 9.6]
RECORDED_GINI = [0.2937, 0.3898, 0.4783], [0.29, 0.37, 0.47]
RECORDED_CONTIGUOUS_RANKS = ([1.673, 2.251, 3.708],)  # 32 ranks of 8 experts, max over mean
RECORDED_GROUPS = ([1.286, 1.683, 2.598],)  # 8 groups of 32 experts, max over mean


def quantiles(values):
    return np.quantile(values, [0.1, 0.5, 0.9])


def max_over_mean(loads):
    return loads.max(axis=1) / loads.mean(axis=1)


def gini(loads):
    ordered = np.sort(loads, axis=1)
    n = loads.shape[1]
    return 2 * (ordered @ np.arange(1, n + 1)) / (n * loads.sum(axis=1)) - (n + 1) / n


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_deepseek_v3_has_the_quantiles_of_the_recordings(seed):
    loads = generate("deepseek-v3", num_layers=500, num_experts=256, tokens=10**6, seed=seed)
    ranks = loads.reshape(500, 32, 8).sum(axis=2)
    groups = loads.reshape(500, 8, 32).sum(axis=2)
    for statistic, recorded in (
        (max_over_mean(loads), RECORDED_MAX_OVER_MEAN),
        (gini(loads), RECORDED_GINI),
        (max_over_mean(ranks), RECORDED_CONTIGUOUS_RANKS),
        (max_over_mean(groups), RECORDED_GROUPS),
    ):
        for estimate in recorded:
            np.testing.assert_allclose(quantiles(statistic), estimate, rtol=0.15)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [None, 4])
def test_counts_are_integers_that_sum_to_the_tokens(family, steps):
    loads = generate(family, steps=steps, **SIZES)
    assert loads.dtype == np.int64
    assert loads.shape == ((3, 16) if steps is None else (4, 3, 16))
    assert (loads >= 0).all()
    assert (loads.sum(axis=-1) == 10_000).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_decides(family):
    one, same = generate(family, **SIZES), generate(family, **SIZES)
    other = generate(family, **{**SIZES, "seed": 6})
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_zipf_shares_follow_the_power_law():
    loads = generate("zipf", num_layers=1, num_experts=8, tokens=10**7, seed=0, shape=1.5)
    expected = np.arange(1, 9) ** -1.5
    np.testing.assert_allclose(
        np.sort(loads[0])[::-1] / 10**7, expected / expected.sum(), rtol=0.02
    )


@pytest.mark.parametrize(("family", "shape"), [("lognormal", 0.7), ("gamma", 0.7)])
def test_the_shape_parameter_sets_the_spread(family, shape):
    loads = generate(family, num_layers=50, num_experts=256, tokens=10**8, seed=0, shape=shape)
    shares = loads / loads.mean(axis=1, keepdims=True)
    variance = np.expm1(shape**2) if family == "lognormal" else 1 / shape
    assert shares.var() == pytest.approx(variance, rel=0.1)


def test_a_tiny_gamma_shape_does_not_underflow():
    loads = generate("gamma", num_layers=20, num_experts=4, tokens=100, seed=0, shape=1e-4)
    assert (loads.sum(axis=1) == 100).all()


def test_drift_is_autoregressive_around_the_static_loads():
    trace = generate(
        "zipf", num_layers=40, num_experts=32, tokens=10**8, seed=3, steps=200, shape=0.5,
        drift=Drift(phi=0.8, sd=0.3),
    )  # fmt: skip
    log_loads = np.log(trace)
    log_loads -= log_loads.mean(axis=2, keepdims=True)
    drift = log_loads - log_loads.mean(axis=0)
    lag_one = (drift[1:] * drift[:-1]).mean() / (drift**2).mean()
    assert lag_one == pytest.approx(0.8, abs=0.03)
    assert drift.std() == pytest.approx(0.3, rel=0.05)


def test_without_drift_only_multinomial_noise_is_left():
    trace = generate(
        "lognormal", num_layers=5, num_experts=64, tokens=64_000, seed=0, steps=300,
        drift=Drift(sd=0.0),
    )  # fmt: skip
    share = trace.mean(axis=0) / 64_000
    binomial = 64_000 * share * (1 - share)
    assert (trace.var(axis=0) / binomial).mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "pareto"}, "family='pareto' is not one of deepseek-v3"),
        ({"num_layers": 0}, "num_layers=0 must be a positive integer"),
        ({"tokens": 1.5}, "tokens=1.5 must be a positive integer"),
        ({"steps": 0}, "steps=0 must be a positive integer"),
        ({"num_groups": 3}, "num_experts=16 is not a multiple of num_groups=3"),
        ({"seed": -1}, "seed=-1 must not be negative"),
        ({"shape": 1.0}, "shape=1.0: deepseek-v3 has no parameter"),
        ({"family": "gamma", "shape": -1.0}, "shape=-1.0 of gamma must be finite and positive"),
        ({"drift": Drift()}, "needs steps"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        generate(**{"family": "deepseek-v3", **SIZES, **change})


def test_bad_drift_is_named():
    with pytest.raises(ValueError, match=r"phi=1.0 is not in \[0, 1\)"):
        Drift(phi=1.0)
    with pytest.raises(ValueError, match="sd=-1 must be finite and not negative"):
        Drift(sd=-1)
