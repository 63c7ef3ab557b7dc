r"""Synthetic loads, calibrated on recordings.

A family draws the log-load of each expert in each layer; token counts are multinomial with shares
:math:`p_e = \exp(\ell_e) / \sum_f \exp(\ell_f)`. With a time axis, each log-load drifts by an AR(1)
process around its static value.

``deepseek-v3`` looks like a recording of DeepSeek-V3: experts stand in contiguous groups,

.. math:: \ell_e = \sigma_{group} g_{k(e)} + \sigma_{expert} x_e,

with ``g`` and ``x`` skew-normal with mean 0, variance 1, and both scales lognormal over layers. The
constants were fitted to 290 recorded layers of 256 experts in 8 groups (58 layers, 5 scenarios), so
that the quantiles over layers of max/mean, Gini, load of contiguous ranks and of groups agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]


LARGEST = 2**30
"""Loads that are generated at most: 8 GB."""


@dataclass(frozen=True)
class _Sizes:
    layers: int
    experts: int
    groups: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.layers, self.experts


@dataclass(frozen=True)
class Drift:
    """AR(1) drift of a log-load, ``z_t = phi z_{t-1} + sd sqrt(1 - phi^2) N(0, 1)``, stationary.

    Defaults: gpt-oss-20b in consecutive windows of 2,048 decoded tokens.

    Attributes:
        phi: correlation of one step with the next, in [0, 1); 0 makes steps independent.
        sd: standard deviation of ``z_t`` at every step, in natural logarithms; 0 is no drift.
    """

    phi: float = 0.92
    sd: float = 0.52

    def __post_init__(self) -> None:
        if not 0 <= self.phi < 1:
            raise ValueError(f"phi={self.phi} is not in [0, 1)")
        if not (math.isfinite(self.sd) and self.sd >= 0):
            raise ValueError(f"sd={self.sd} must be finite and not negative")


def generate(
    family: str,
    *,
    num_layers: int,
    num_experts: int,
    tokens: int,
    seed: int,
    num_groups: int = 8,
    shape: float | None = None,
    steps: int | None = None,
    drift: Drift | None = None,
) -> NDArray[np.int64]:
    """Token counts [L, E] int64, or a trace [T, L, E]; the same arguments give the same counts.

    Args:
        family: one of :data:`FAMILIES`.
        num_layers: L.
        num_experts: E.
        tokens: what every layer sums to in every step; top-k times what passes the layer.
        seed: of ``numpy.random.default_rng``.
        num_groups: contiguous groups of experts with an effect in common, ``deepseek-v3`` only.
        shape: the family's parameter: sigma of ``lognormal`` (1 if None; 1.05 is gpt-oss under
            drift), k of ``gamma`` (1.27 if None, as in gpt-oss; 0.7 is Switch), exponent of
            ``zipf`` (1 if None). ``deepseek-v3`` has none.
        steps: T; None for no time axis.
        drift: between steps; None is ``Drift()``.

    Raises:
        ValueError: an unknown family, a size below 1, too many loads, ``num_groups`` not dividing
            E, or a parameter that does not fit.

    Example:
        >>> generate("zipf", num_layers=2, num_experts=4, tokens=100, seed=0).sum(axis=1).tolist()
        [100, 100]
    """
    _check_sizes(
        num_layers=num_layers, num_experts=num_experts, tokens=tokens, num_groups=num_groups
    )
    number = num_layers * num_experts * (1 if steps is None else steps)
    if number > LARGEST:
        raise ValueError(f"{number} loads are more than {LARGEST}: make fewer layers or steps")
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")
    rng = np.random.default_rng(seed)
    log_loads = _family(family, shape)(rng, _Sizes(num_layers, num_experts, num_groups))
    if steps is None:
        if drift is not None:
            raise ValueError(f"drift={drift} needs steps")
        return rng.multinomial(tokens, _softmax(log_loads))
    _check_sizes(steps=steps)
    drifts = _autoregression(rng, drift or Drift(), (steps, *log_loads.shape))
    return rng.multinomial(tokens, _softmax(log_loads + drifts))


def _deepseek_v3(rng: np.random.Generator, sizes: _Sizes) -> _Floats:
    if sizes.experts % sizes.groups:
        raise ValueError(
            f"num_experts={sizes.experts} is not a multiple of num_groups={sizes.groups}"
        )
    layers, groups = sizes.layers, sizes.groups
    sigma_expert = np.exp(rng.normal(-0.58, 0.12, (layers, 1, 1)))
    sigma_group = np.exp(rng.normal(-0.85, 0.33, (layers, 1, 1)))
    expert = _skew_normal(rng, 1.0, (layers, groups, sizes.experts // groups))
    group = _skew_normal(rng, 4.0, (layers, groups, 1))
    return np.reshape(sigma_group * group + sigma_expert * expert, sizes.shape)


def _lognormal(rng: np.random.Generator, sizes: _Sizes, sigma: float) -> _Floats:
    return rng.normal(0.0, sigma, sizes.shape)


def _gamma(rng: np.random.Generator, sizes: _Sizes, k: float) -> _Floats:
    """Log of gamma(k) as that of gamma(k + 1) U^(1/k), which does not underflow for small k."""
    uniform = 1.0 - rng.random(sizes.shape)
    return np.log(rng.gamma(k + 1, size=sizes.shape)) + np.log(uniform) / k


def _zipf(rng: np.random.Generator, sizes: _Sizes, exponent: float) -> _Floats:
    """Shares in proportion to ``rank^-exponent``, ranks permuted in each layer."""
    ranks = np.tile(np.arange(1.0, sizes.experts + 1), (sizes.layers, 1))
    permuted: _Floats = rng.permuted(ranks, axis=1)
    return -exponent * np.log(permuted)


FAMILIES: dict[str, tuple[Callable[..., _Floats], float | None]] = {
    "deepseek-v3": (_deepseek_v3, None),
    "lognormal": (_lognormal, 1.0),
    "gamma": (_gamma, 1.27),
    "zipf": (_zipf, 1.0),
}
"""Family -> what draws its log-loads [L, E], and its parameter's default (None: it has none)."""


def _family(name: str, shape: float | None) -> Callable[[np.random.Generator, _Sizes], _Floats]:
    if name not in FAMILIES:
        raise ValueError(f"family={name!r} is not one of {', '.join(FAMILIES)}")
    draw, default = FAMILIES[name]
    if default is None:
        if shape is not None:
            raise ValueError(f"shape={shape}: {name} has no parameter")
        return draw
    value = default if shape is None else shape
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"shape={value} of {name} must be finite and positive")
    return lambda rng, sizes: draw(rng, sizes, value)


def _skew_normal(rng: np.random.Generator, alpha: float, shape: tuple[int, ...]) -> _Floats:
    """Skew-normal with shape ``alpha`` (Azzalini 1985), standardized to mean 0 and variance 1."""
    delta = alpha / math.sqrt(1 + alpha**2)
    half, normal = np.abs(rng.standard_normal(shape)), rng.standard_normal(shape)
    mean, variance = delta * math.sqrt(2 / math.pi), 1 - 2 * delta**2 / math.pi
    return (delta * half + math.sqrt(1 - delta**2) * normal - mean) / math.sqrt(variance)


def _autoregression(rng: np.random.Generator, drift: Drift, shape: tuple[int, ...]) -> _Floats:
    z = drift.sd * rng.standard_normal(shape)
    innovation = math.sqrt(1 - drift.phi**2)
    for t in range(1, len(z)):
        z[t] = drift.phi * z[t - 1] + innovation * z[t]
    return z


def _softmax(log_loads: _Floats) -> _Floats:
    shares: _Floats = np.exp(log_loads - log_loads.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} must be a positive integer")
