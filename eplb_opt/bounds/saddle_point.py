r"""Prices for :mod:`eplb_opt.bounds.same_rank` by a first-order method in floats: guesses only.

The relaxation is a saddle point: with ``b_t`` the floors and a free number ``eta``,

    min over X, eta  max over p, s, Z   sum over t, e of p[t, e] ((X w_t)_e - eta)
                                        + sum over t of s_t (b_t - eta)  +  eta  -  <Z, X - J / G>

over symmetric ``0 <= X <= 1`` whose diagonal has ``sum of 1 / X[e, e] <= P`` (lambda its
multiplier), prices p and s >= 0 with rows ``sum_e p[t, e] + s_t <= 1 / (a T)``, and Z positive
semidefinite. For the mean the rows are full and eta = 0.

Primal-dual hybrid gradient: A. Chambolle, T. Pock, J. Math. Imaging and Vision 40 (2011) 120.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Objective

Matrix = NDArray[np.float64]

WORK = 8e9
"""Multiplications at effort 1, about a second."""
FEWEST_ITERATIONS = 200
"""With fewer nothing comes of it: large layers need more effort than 1."""
LARGEST_PRODUCT = 2**17
"""Multiplications of one matrix product: beyond twice as many, libraries start threads, which on a
busy machine takes a hundred times as long."""
CHECKS = 4
"""How often the prices are handed out to be evaluated."""


@dataclass(frozen=True)
class Floats:
    """In load units, as named in the bound; ``factors @ factors.T`` is 2 Z."""

    prices: Matrix
    slack: Matrix
    factors: Matrix


def saddle_points(
    layer: Layer, objective: Objective, floors: Sequence[Fraction], effort: float
) -> Iterator[Floats]:
    """Better and better prices for the steps of the layer and floors [T], in load units."""
    scale = float(max(floors))
    if scale <= 0:
        return
    loads = np.array([[int(w) / scale for w in row] for row in layer.steps.tolist()])
    lowest = np.array([float(floor / Fraction(scale)) for floor in floors])
    steps, experts = loads.shape
    # Small layers need few; an iteration takes a tenth of a millisecond at least.
    work = 4 * steps * experts * (experts + 20) + 40 * experts**3 + 100_000
    iterations = int(effort * min(2 * experts**2, WORK / work))
    if effort * WORK / work < FEWEST_ITERATIONS:
        return
    state = _State(loads, lowest, layer, _most_weight(objective, steps))
    for part in range(CHECKS):
        for _ in range(part * iterations // CHECKS, (part + 1) * iterations // CHECKS):
            state.advance()
        if not (np.isfinite(state.Z).all() and np.isfinite(state.p).all()):
            return
        yield state.found(scale)


def _most_weight(objective: Objective, steps: int) -> float:
    share = 0 if objective.name == "worst" else float(objective.share)
    return 1 / max(1.0, share * steps)


class _State:
    """Iterates; ``most`` is the largest weight of a step."""

    def __init__(self, loads: Matrix, floors: Matrix, layer: Layer, most: float) -> None:
        self.steps, self.experts = loads.shape
        self.most, self.fixed = most, most * self.steps <= 1 + 1e-12
        self.slots, self.ranks = layer.topology.num_physical_experts, layer.topology.num_ranks
        # rows of prices are in parts of the largest weight
        self.loads, self.floors = loads * most, floors * most
        rows = min(self.steps, max(1, LARGEST_PRODUCT // self.experts**2))
        self.blocks: Matrix = np.zeros((-(-self.steps // rows), rows, self.experts))
        self.blocks.reshape(-1, self.experts)[: self.steps] = self.loads
        self.diagonal = np.diag_indices(self.experts)
        norm = float(np.linalg.norm(self.loads, 2))
        self.rho = norm / 2
        self.balance = float(np.sqrt(1 / most)) / self.experts
        self.length = 1 / np.hypot(norm, self.rho)
        root = np.sqrt(loads.sum(axis=0)) + 1e-9
        self.X: Matrix = np.full((self.experts,) * 2, 1 / self.ranks)
        self.X[self.diagonal] = 1 / np.maximum(1, self.slots * root / root.sum())
        self.eta, self.multiplier = float(np.mean(floors)) * (not self.fixed), 0.01
        self.p: Matrix = np.zeros((self.steps, self.experts + 1))
        self.p[:, :-1] = (
            loads / np.maximum(loads.sum(axis=1, keepdims=True), 1e-300) / (most * self.steps)
        )
        self.Z: Matrix = np.zeros((self.experts,) * 2)

    def advance(self) -> None:
        """One step down in X and eta, one step up in p and Z at the extrapolated point."""
        up, down = self.balance * self.length, self.length / self.balance
        gradient = self._priced_loads()
        moved = self.X - down * ((gradient + gradient.T) / 2 - self.rho * self.Z)
        following = np.clip(moved, 0, 1)
        following[self.diagonal] = self._diagonal(moved[self.diagonal], down)
        ahead, self.X = 2 * following - self.X, following
        eta = self.eta
        if not self.fixed:
            eta -= down / self.experts * (1 - self.most * float(self.p.sum()))
        level, self.eta = (2 * eta - self.eta) * self.most, eta
        ranks = (self.blocks @ ahead).reshape(-1, self.experts)[: self.steps]
        gains = np.column_stack([ranks, self.floors]) - level
        self.p = _rows_within(self.p + up * gains)
        self.Z = _positive_part(self.Z - up * self.rho * (ahead - 1 / self.ranks))

    def _priced_loads(self) -> Matrix:
        """[E, E] ``sum over t of w[t, e] p[t, f]``."""
        prices = np.zeros_like(self.blocks)
        prices.reshape(-1, self.experts)[: self.steps] = self.p[:, :-1]
        found: Matrix = (self.blocks.transpose(0, 2, 1) @ prices).sum(axis=0)
        return found

    def _diagonal(self, wished: Matrix, step: float) -> Matrix:
        """Newton steps for ``x - wished = step * multiplier / x^2``, and a multiplier that brings
        the sum of 1 / x to P.
        """
        x = self.X[self.diagonal]
        for _ in range(2):
            pull = step * self.multiplier
            for _ in range(2):
                x = x - (x - wished - pull / x**2) / (1 + 2 * pull / x**3)
                x = np.clip(x, 1 / self.ranks, 1)
            self.multiplier *= float(np.exp(2 * ((1 / x).sum() / self.slots - 1)))
            self.multiplier = max(self.multiplier, 1e-9)
        return x

    def found(self, scale: float) -> Floats:
        """The prices of this iterate, scaled so that the weights of all steps sum to 1."""
        weights = self.p.sum(axis=1)
        missing = np.maximum(0, 1 - weights) if self.fixed else 0 * weights
        total = self.most * float(weights.sum() + missing.sum())
        part = self.most / max(total, 1e-3)
        values, vectors = np.linalg.eigh(self.Z)
        kept = values > max(1e-9 * float(values[-1]), 0)
        size = 2 * self.rho * scale * part / self.most
        factors = vectors[:, kept] * np.sqrt(values[kept] * size)
        return Floats(self.p[:, :-1] * part, (self.p[:, -1] + missing) * part, factors)


def _positive_part(matrix: Matrix) -> Matrix:
    """The nearest positive semidefinite matrix, ``(Q + Q sign(Q)) / 2``, but for about 1e-4 of Q.

    The sign by odd polynomials (K. Jordan et al., "Muon", 2024; then Newton and Schulz): products
    of small matrices only. Eigenvalues of 32 x 32 took 20 ms with threads on a busy machine, this
    takes 0.1.
    """
    bound = min(float(np.sqrt((matrix**2).sum())), float(np.abs(matrix).sum(axis=1).max()))
    sign: Matrix = matrix / max(1.01 * bound, 1e-300)
    for _ in range(6):
        square = sign @ sign
        sign = 3.4445 * sign + sign @ (2.0315 * (square @ square) - 4.7750 * square)
    for _ in range(3):
        sign = 1.5 * sign - 0.5 * sign @ (sign @ sign)
    twice: Matrix = matrix + matrix @ sign
    return (twice + twice.T) / 4


def _rows_within(points: Matrix) -> Matrix:
    """Each row's nearest point with entries >= 0 that sum to at most 1."""
    near: Matrix = np.maximum(points, 0)
    (over,) = np.nonzero(near.sum(axis=1) > 1)
    if len(over):
        falling = np.sort(points[over], axis=1)[:, ::-1]
        level: Any = (falling.cumsum(axis=1) - 1) / np.arange(1, points.shape[1] + 1)
        last = (falling > level).sum(axis=1) - 1
        near[over] = np.maximum(points[over] - level[np.arange(len(over)), last, None], 0)
    return near
