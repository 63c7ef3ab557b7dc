"""What the parts of the packing search give: each left out in turn, on the same packings.

    python benchmarks/packing_parts.py --work 4000000

Of each variant: packings proven optimal, placements and bounds as good as the best of all variants,
and seconds.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import numpy as np

from eplb_opt import Instance, Layer, Topology
from eplb_opt.bounds.closed_form import threshold_counts
from solvers.bracket import Bracket
from solvers.options import Budget, SearchOptions
from solvers.tree_search import packing
from solvers.tree_search.count_vectors import compile_searches

SHAPES = (
    *((8, 12, 3), (12, 16, 4), (12, 18, 6), (16, 20, 4), (16, 24, 8), (24, 32, 8), (32, 36, 4)),
    *((32, 40, 8), (48, 60, 12), (64, 72, 8), (64, 96, 32), (128, 144, 16), (256, 288, 32)),
    (256, 288, 96),
)
"""Experts, slots, ranks."""
WITHOUT = {
    "all": {},
    "no re-packing": {"repair": lambda ranks, *_, **__: ranks},
    "no ascent": {"DESCENT": 1.0},
    "no modular bound": {"modular_bound": lambda _items, _ranks, bound: bound},
}


def draw(kind: str, experts: int, random: np.random.Generator) -> list[int]:
    """Loads of one of five kinds."""
    if kind == "lognormal":
        return np.maximum(1, random.lognormal(0, 1, experts) * 1000).astype(int).tolist()
    if kind == "zipf":
        return np.maximum(1, 3000 / np.arange(1, experts + 1)).astype(int).tolist()
    if kind == "equal":
        odd = random.random(experts) < 0.15
        return (6 + odd * random.integers(1, 20, experts)).tolist()
    return random.integers(1, 1000 if kind == "uniform" else 12, experts).tolist()


def search(layer: Layer, work: int) -> tuple[Bracket, float]:
    start = time.perf_counter()
    budget = Budget(SearchOptions(work_limit=work))
    return packing.solve_packing(
        layer, threshold_counts(layer), budget
    ), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=int, default=4_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    compile_searches()
    random, number = np.random.default_rng(0), 0
    found = {name: np.zeros(4) for name in WITHOUT}
    for kind in ("lognormal", "uniform", "small", "zipf", "equal"):
        for experts, slots, ranks in SHAPES * arguments.seeds:
            layer = Instance([draw(kind, experts, random)], Topology(slots, ranks)).layer(0)
            outcomes = {}
            for name, parts in WITHOUT.items():
                with mock.patch.multiple(packing, **parts) if parts else mock.MagicMock():
                    outcomes[name] = search(layer, arguments.work)
            value = min(bracket.incumbent for bracket, _ in outcomes.values())
            bound = max(bracket.bound for bracket, _ in outcomes.values())
            for name, (bracket, seconds) in outcomes.items():
                found[name] += (
                    bracket.closed,
                    bracket.value == value,
                    bracket.bound == bound,
                    seconds,
                )
            number += 1
    print(f"{number} packings | proven | best placement | best bound | seconds")
    for name, (proven, values, bounds, seconds) in found.items():
        print(f"{name} | {proven:.0f} | {values:.0f} | {bounds:.0f} | {seconds:.1f}")


if __name__ == "__main__":
    main()
