"""Steps and placements on which every dispatcher is checked: small ones, and sizes as in
production.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from eplb_opt.io.synthetic import generate
from eplb_opt.testing.dispatchers.measure import Case, Ints

ASSIGNMENTS = 32_768
"""Of a drawn step of full size: 4,096 tokens of 8 experts."""
NOISE = 0.2
"""Standard deviation of the logarithm of an expert's load from step to step."""

ROWS = {
    "published": [600, 560, 120, 120, 20, 10, 10, 10],
    "equal": [1] * 8,
    "one expert has all": [1000, 0, 0, 0, 0, 0, 0, 0],
    "the last has all": [0, 0, 0, 0, 0, 0, 0, 1000],
    "powers": [128, 64, 32, 16, 8, 4, 2, 1],
    "near-equal": [1000, 1001, 999, 1000, 1000, 1002, 998, 1000],
    "no load": [0] * 8,
    "huge ratio": [10**6, 1, 1, 1, 1, 1, 1, 1],
    "few tokens": [3, 1, 0, 2, 0, 0, 1, 1],
}
"""Kinds of steps of eight experts."""


def placed(loads: NDArray[np.int64], num_slots: int, num_ranks: int, policy: str) -> Ints:
    """[L, P] the placement by a named policy for loads [L, E]."""
    import torch

    from heuristics import rebalance_experts

    weight = torch.from_numpy(loads).float()
    found = rebalance_experts(weight, num_slots, 1, 1, num_ranks, policy=policy)[0]
    return np.asarray(found.numpy(), dtype=np.int64)


def ring(loads: NDArray[np.int64], num_ranks: int) -> Ints:
    """[L, E + G]: equally many experts on every rank, dealt by falling load back and forth, and the
    heaviest of each rank again on the next one.
    """
    order = np.argsort(-loads, axis=1, kind="stable").reshape(len(loads), -1, num_ranks).copy()
    order[:, 1::2] = order[:, 1::2, ::-1]
    copies = np.roll(order[:, :1], 1, axis=2)
    return np.concatenate([order, copies], axis=1).swapaxes(1, 2).reshape(len(loads), -1)


def placements(loads: NDArray[np.int64], num_slots: int, num_ranks: int) -> tuple[str, Ints]:
    """Names of the placements, and [names * L, P] of ``deepseek``, ``refined``, and of a ring of
    copies where the sizes allow it.
    """
    kinds = {name: placed(loads, num_slots, num_ranks, name) for name in ("deepseek", "refined")}
    if num_slots - loads.shape[1] == num_ranks and loads.shape[1] % num_ranks == 0:
        kinds["a ring"] = ring(loads, num_ranks)
    return ", ".join(kinds), np.concatenate(list(kinds.values()))


def drawn_steps(loads: NDArray[np.int64], steps: int, chance: np.random.Generator) -> Ints:
    """[steps, L, E] multinomial counts of loads [L, E] with noise, not those placed on."""
    noisy = loads * np.exp(NOISE * chance.standard_normal((steps, *loads.shape)))
    return chance.multinomial(ASSIGNMENTS, noisy / noisy.sum(axis=-1, keepdims=True))


def small_case(num_slots: int, num_ranks: int, rows: list[list[int]] | None = None) -> Case:
    """Steps of every kind for eight experts placed by loads of another kind."""
    steps = np.array(rows or list(ROWS.values()))
    names, phy2log = placements(np.array([[9, 8, 5, 4, 3, 2, 2, 1]]), num_slots, num_ranks)
    loads = np.repeat(steps[:, None], len(phy2log), axis=1)
    source = f"8 experts, {num_slots} slots, {num_ranks} ranks, placed by {names}"
    return Case(source, loads, phy2log, num_ranks)


def full_scale_case(num_slots: int, num_ranks: int, steps: int = 4) -> Case:
    """Drawn steps of 256 experts of two kinds of loads."""
    sizes = {"num_layers": 1, "num_experts": 256, "tokens": 10**6, "seed": 1}
    families = {"deepseek-v3": {}, "lognormal": {"shape": 1.0}}
    loads = np.concatenate([generate(f, **sizes, **more) for f, more in families.items()])  # type: ignore[arg-type]
    names, phy2log = placements(loads, num_slots, num_ranks)
    served = np.tile(loads, (len(phy2log) // len(loads), 1))
    served = drawn_steps(served, steps, np.random.default_rng(num_slots + num_ranks))
    source = f"256 experts, {num_slots} slots, {num_ranks} ranks, placed by {names}"
    return Case(source, served, phy2log, num_ranks)


@cache
def cases() -> tuple[Case, ...]:
    """All of them; the small ones first."""
    small = [small_case(*sizes) for sizes in ((12, 4), (10, 2), (16, 8), (24, 4))]
    return (*small, *(full_scale_case(*sizes) for sizes in ((288, 32), (320, 64), (288, 72))))
