"""Proven share, time and gap of the search, for packings and for the joint problem.

    python benchmarks/exact_search.py packing --shapes 24,32,8 64,72,8 --seconds 60 --seeds 5
    python benchmarks/exact_search.py joint --shapes 16,24,8 24,32,8
    python benchmarks/exact_search.py incumbent --shapes 256,288,32 256,288,96 --seconds 5

Loads: lognormal of sigma 0.5, 1 and 1.5, and zipf with exponent 1 (the same for every seed, so run
once), rounded to integers with 4,096 tokens per expert on average. The gap is to the proven bound;
of an incumbent to the best closed-form bound.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eplb_opt import Instance, Layer, Topology
from eplb_opt.bounds import global_bound
from eplb_opt.metrics import exact_makespan, relative_gap
from solvers.counts import solve_counts
from solvers.incumbents.improve import improve
from solvers.options import Options
from solvers.search.joint import solve_joint
from solvers.search.outcome import Budget
from solvers.search.packing import solve_packing

TOKENS_PER_EXPERT = 4096
FAMILIES = ("lognormal 0.5", "lognormal 1.0", "lognormal 1.5", "zipf 1.0")
SHAPES = {
    "packing": ("24,32,8", "32,40,4", "32,40,8", "64,72,8", "24,36,12", "32,48,16"),
    "joint": ("8,16,4", "12,24,8", "16,24,8", "16,24,4", "20,24,8", "24,28,4", "24,32,8"),
    "incumbent": ("256,288,32", "256,320,64", "128,160,32", "256,288,72", "256,384,128"),
}


@dataclass(frozen=True)
class Run:
    """One layer: whether the optimum was proven, seconds, gap."""

    proven: bool
    seconds: float
    gap: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("problem", choices=SHAPES)
    parser.add_argument("--shapes", nargs="+", metavar="E,P,G")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="limit for one layer")
    arguments = parser.parse_args()
    run(arguments.problem, next(layers("8,16,4", "zipf 1.0", 1)), arguments.seconds)  # compiles
    print(f"{'E,P,G':>12} {'family':>14} {'proven':>7} {'median s':>9} {'max s':>7} "
          f"{'median gap %':>13} {'max gap %':>10}")  # fmt: skip
    for shape in arguments.shapes or SHAPES[arguments.problem]:
        for family in FAMILIES:
            seeds = 1 if family.startswith("zipf") else arguments.seeds
            runs = [
                run(arguments.problem, layer, arguments.seconds)
                for layer in layers(shape, family, seeds)
            ]
            show(shape, family, runs)


def layers(shape: str, family: str, seeds: int) -> Iterator[Layer]:
    num_experts, num_slots, num_ranks = (int(x) for x in shape.split(","))
    for seed in range(seeds):
        share = shares(family, num_experts, np.random.default_rng(seed))
        loads = np.rint(share / share.sum() * TOKENS_PER_EXPERT * num_experts).astype(np.int64)
        yield Instance([loads], Topology(num_slots, num_ranks)).layer(0)


def shares(family: str, num_experts: int, random: np.random.Generator) -> np.ndarray:
    kind, parameter = family.split()
    if kind == "zipf":
        return np.arange(1, num_experts + 1) ** -float(parameter)
    return random.lognormal(0, float(parameter), num_experts)


def run(problem: str, layer: Layer, seconds: float) -> Run:
    start, options = time.perf_counter(), Options(time_limit=seconds)
    if problem == "incumbent":
        bound = global_bound(layer).value
        value = exact_makespan(layer, improve(layer, budget=Budget(seconds), target=bound))
    else:
        counts = solve_counts(layer).counts or ()
        joint = problem == "joint"
        result = solve_joint(layer, options) if joint else solve_packing(layer, counts, options)
        bound, value = result.lower_bound, exact_makespan(layer, result.placement or ())
    return Run(value == bound, time.perf_counter() - start, relative_gap(value, bound))


def show(shape: str, family: str, runs: list[Run]) -> None:
    seconds, gaps = [r.seconds for r in runs], [100 * r.gap for r in runs]
    print(f"{shape:>12} {family:>14} {sum(r.proven for r in runs):>3}/{len(runs):<3} "
          f"{statistics.median(seconds):>9.2f} {max(seconds):>7.2f} "
          f"{statistics.median(gaps):>13.5f} {max(gaps):>10.5f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
