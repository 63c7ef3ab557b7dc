"""How far placements for steps are above the optimum, where the optimum can be proven.

    python benchmarks/served_optima.py
    python benchmarks/served_optima.py --sizes 16,20,4 --number 10 --seconds 60 --cache optima.json

Small layers of T = 16 steps, objective ``mean``, ``optimal`` dispatch, all placements valued
exactly on the steps that they saw. A cell is the excess over the optimum in %, mean and max over
the layers, and how many layers are at the optimum; where a solve ends at its time limit the excess
is over the lower bound. "loss" is that of the optima: value / mean rank load - 1, in %.

Layers of E experts, instance i = 0, 1, ..:

- steady, topics: decode steps of 64 requests: steps 32 i to 32 i + 15 of layer 5 i mod 24, and of
  its 32 experts those that numpy's ``default_rng(i).choice(32, E, replace=False)`` names;
- drawn: a popularity exp(z) of each expert, times exp(0.4 z) anew at each step, normalised, then
  multinomial counts of 4,096 assignments, by ``default_rng(i)``; the layers of served_exact.py;
- skewed: the same with exp(1.5 z) and exp(0.8 z); swinging: with exp(z) and exp(z).

Optima are kept in the file of ``--cache``, so that policies can be changed without solving again.
Recordings are looked for in ``--data``, ``$EPLB_RECORDED_LOADS`` or ``../shared/data``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eplb_opt import Instance, Topology
from heuristics import rebalance_experts
from heuristics.steps import dispatch_aware
from heuristics.steps.dispatch_aware import EFFORTS
from solvers import solve
from solvers.dispatch.classes import classes_of, holders
from solvers.dispatch.optimal import optimal_makespans

DATA = Path(os.environ.get("EPLB_RECORDED_LOADS", Path(__file__).parents[2] / "shared" / "data"))
SIZES = [(8, 12, 4), (12, 16, 4)]
"""Experts, slots, ranks."""
DRAWN = {"drawn": (1.0, 0.4), "skewed": (1.5, 0.8), "swinging": (1.0, 1.0)}
"""Standard deviations of the logarithm: of popularity, and of what changes from step to step."""
FAMILIES = ["steady", "topics", *DRAWN]
STEPS, ASSIGNMENTS = 16, 4096
Size = tuple[int, int, int]
Place = Callable[..., torch.Tensor]
"""(loads [T, L, E], slots, groups, nodes, ranks) -> phy2log [L, P]."""


def of_total(policy: str) -> Place:
    """A policy that sees the sum of the steps."""

    def place(loads: torch.Tensor, *sizes: int) -> torch.Tensor:
        return rebalance_experts(loads.sum(0).float(), *sizes, policy=policy)[0]

    return place


POLICIES: dict[str, Place] = {
    "deepseek": of_total("deepseek"),
    "refined": of_total("refined"),
    "ring": of_total("lplb-graph:ring"),
    **{
        f"dispatch-aware, {effort}": partial(dispatch_aware, effort=effort, enough=0)
        for effort in EFFORTS
    },
}


def draw(seed: int, num_experts: int, popularity: float, noise: float) -> NDArray[np.int64]:
    """[T, E] counts."""
    random = np.random.default_rng(seed)
    common, steps = popularity * random.normal(size=num_experts), []
    for _ in range(STEPS):
        share = np.exp(common + noise * random.normal(size=num_experts))
        steps.append(random.multinomial(ASSIGNMENTS, share / share.sum()))
    return np.array(steps)


def trace(family: str, number: int, num_experts: int, data: Path = DATA) -> NDArray[np.int64]:
    """[T, L, E] tokens, a layer for each instance."""
    if family in DRAWN:
        return np.stack([draw(i, num_experts, *DRAWN[family]) for i in range(number)], 1)
    recorded = np.load(data / "gpt_oss_20b_decode64.npz")[family].astype(np.int64)
    layers = []
    for i in range(number):
        experts = np.random.default_rng(i).choice(32, num_experts, replace=False)
        layers.append(recorded[32 * i : 32 * i + STEPS, 5 * i % 24, experts])
    return np.stack(layers, 1)


@dataclass(frozen=True)
class Bracket:
    """The best value known of a layer and its proven lower bound, tokens a step."""

    value: Fraction
    lower_bound: Fraction

    @property
    def proven(self) -> bool:
        """Whether the value is the optimum."""
        return self.value == self.lower_bound


def bracket(
    loads: NDArray[np.int64], size: Size, seconds: float, dispatch: str = "optimal"
) -> Bracket:
    """Of one layer with loads [T, E]."""
    _, slots, ranks = size
    layer = Instance(loads[:, None], Topology(slots, ranks)).layer(0)
    found = solve(layer, objective="mean", dispatch=dispatch, time_limit=seconds)
    if found.objective is None:
        raise RuntimeError(f"no placement for {layer}")
    return Bracket(found.objective, found.lower_bound)


class Optima:
    """Brackets by size, family and instance, kept in a file if there is one."""

    def __init__(self, file: Path | None, seconds: float, dispatch: str = "optimal") -> None:
        self.file, self.seconds, self.dispatch = file, seconds, dispatch
        self.known = json.loads(file.read_text()) if file and file.exists() else {}

    def of(self, family: str, size: Size, loads: NDArray[np.int64]) -> list[Bracket]:
        """Of every layer of a trace [T, L, E]."""
        return [
            self._find(f"{size} {family} {i}", w, size) for i, w in enumerate(loads.swapaxes(0, 1))
        ]

    def _find(self, name: str, loads: NDArray[np.int64], size: Size) -> Bracket:
        if name not in self.known:
            found = bracket(loads, size, self.seconds, self.dispatch)
            self.known[name] = [str(found.value), str(found.lower_bound)]
            if self.file:
                self.file.write_text(json.dumps(self.known, indent=0))
        return Bracket(*map(Fraction, self.known[name]))


def values(loads: NDArray[np.int64], phy2log: torch.Tensor, size: Size) -> list[Fraction]:
    """The mean makespan of each layer, exact."""
    num_experts, _, num_ranks = size
    found = []
    for layer, placed in enumerate(phy2log.tolist()):
        held = holders(placed, num_experts, num_ranks)
        makespans = optimal_makespans(classes_of(loads[:, layer], held)).values
        found.append(sum(makespans, Fraction(0)) / len(makespans))
    return found


def excesses(
    place: Place, loads: NDArray[np.int64], size: Size, optima: list[Bracket]
) -> NDArray[np.float64]:
    """Value / lower bound - 1 of each layer, in %; not a number where the policy does not place."""
    _, slots, ranks = size
    try:
        placed = place(torch.from_numpy(loads), slots, 1, 1, ranks)
    except ValueError:
        return np.full(len(optima), np.nan)
    found = values(loads, placed, size)
    for value, optimum in zip(found, optima, strict=True):
        if value < optimum.lower_bound:
            raise RuntimeError(f"{value} is below the proven bound {optimum.lower_bound}")
    above = [value / best.lower_bound - 1 for value, best in zip(found, optima, strict=True)]
    return 100 * np.array(above, dtype=np.float64)


def cell(above: NDArray[np.float64]) -> str:
    """Mean, max, number at the optimum."""
    if np.isnan(above).any():
        return ""
    return f"{above.mean():.2f} / {above.max():.2f}, {int((above == 0).sum())}"


def row(
    family: str, size: Size, policies: dict[str, Place], optima: Optima, number: int, data: Path
) -> str:
    loads = trace(family, number, size[0], data)
    best = optima.of(family, size, loads)
    mean = loads.sum(2).mean(0) / size[2]
    loss = np.mean([float(b.lower_bound) / m - 1 for b, m in zip(best, mean, strict=True)]) * 100
    cells = [cell(excesses(place, loads, size, best)) for place in policies.values()]
    proven = sum(b.proven for b in best)
    return f"| {size}, {family} | {proven} of {number} | {loss:.2f} | {' | '.join(cells)} |"


def _size(text: str) -> Size:
    experts, slots, ranks = map(int, text.split(","))
    return experts, slots, ranks


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--number", type=int, default=30, help="layers of a family")
    parser.add_argument("--sizes", type=_size, nargs="+", default=SIZES, help="E,P,G")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    optima = Optima(options.cache, options.seconds)
    names = ["(E, P, G), loads", "proven", "loss", *POLICIES]
    print(f"| {' | '.join(names)} |\n|---|{'--:|' * (len(names) - 1)}")
    for size in options.sizes:
        for family in FAMILIES:
            print(row(family, size, POLICIES, optima, options.number, options.data), flush=True)


if __name__ == "__main__":
    main()
