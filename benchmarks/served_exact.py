"""How far optima over several steps are proven, by dispatch rule and objective.

    python benchmarks/served_exact.py methods --seconds 20 --seeds 3
    python benchmarks/served_exact.py frontier --dispatch optimal --steps 4 --seconds 60
    python benchmarks/served_exact.py frontier --trace FILE.npy --layer 0 --backends cp-sat
    python benchmarks/served_exact.py agree --number 2000 --backends portfolio search cp-sat cuts

``methods``: all backends side by side on small layers: how many of the seeds are proven optimal,
the median of seconds and the largest gap of bound and value. ``frontier``: the best backend on
growing shapes, a row until two larger shapes have no layer proven. ``agree``: random tiny layers of
both rules, some with spread replicas, with ties, zeros and floats, against enumeration.

Loads: a popularity exp(z) of each expert, times exp(0.4 z) anew at each step, normalised; then
multinomial counts of 4,096 assignments a step, z standard normal, by numpy's default_rng(seed). A
trace [T, L, E] gives its first T steps, of one layer, of the first E experts.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from statistics import median

import numpy as np
from numpy.typing import NDArray

from eplb_opt import Instance, Layer, Topology
from eplb_opt.problem.objective import EVEN_SUM, Cost
from solvers import solve
from solvers.backends import JOINT_OVER_STEPS

ASSIGNMENTS = 4096
NOISE = 0.4
SMALL = [(6, 8, 4), (8, 12, 4), (12, 16, 4), (12, 16, 8)]
GROWING = [
    *[(6, 8, 4), (8, 12, 4), (12, 16, 4), (16, 20, 4), (16, 24, 8), (24, 32, 8), (32, 40, 8)],
    *[(48, 64, 16), (64, 72, 8), (128, 144, 16)],
]
DISPATCHES = ["even", "fixed", "optimal"]
TINY = [
    *[(3, 4, 2), (4, 4, 2), (1, 4, 2), (2, 6, 2), (3, 3, 3), (4, 6, 3), (5, 6, 3), (3, 4, 4)],
    *[(4, 4, 2, 2, 2), (2, 4, 4, 2, 2), (4, 6, 2, 2, 4)],
]
FLOATS = [0.0, 0.1, 1 / 3, 0.5, 1e6, 2.5, 7.7]
PATIENCE = 2
"""Larger shapes without a proof that end a row."""


def draw(seed: int, num_steps: int, num_experts: int) -> NDArray[np.int64]:
    """[T, E] counts."""
    random = np.random.default_rng(seed)
    popularity = random.normal(size=num_experts)
    steps = []
    for _ in range(num_steps):
        share = np.exp(popularity + NOISE * random.normal(size=num_experts))
        steps.append(random.multinomial(ASSIGNMENTS, share / share.sum()))
    return np.array(steps)


@dataclass(frozen=True)
class Cell:
    """Of one shape over the seeds: how many are proven, median of seconds, largest gap, and what
    the bounds rest on.
    """

    proven: int
    seconds: float
    gap: float
    sources: str

    def __str__(self) -> str:
        return f"{self.proven} {self.seconds:.1f} s {100 * self.gap:.2g} %"


def layers(
    options: argparse.Namespace, num_steps: int, shape: tuple[int, int, int]
) -> Iterator[Layer]:
    """One for each seed, or that of the trace."""
    experts, slots, ranks = shape
    machine = Topology(slots, ranks, options.nodes, options.groups)
    if options.trace:
        steps = np.load(options.trace)[:num_steps, [options.layer], :experts]
        yield Instance(steps, machine, spread_replicas=options.spread).layer(0)
        return
    for seed in range(options.seeds):
        steps = draw(seed, num_steps, experts)[:, None]
        yield Instance(steps, machine, spread_replicas=options.spread).layer(0)


def measure(
    options: argparse.Namespace,
    num_steps: int,
    shape: tuple[int, int, int],
    cost: tuple[str, str],
    backend: str,
) -> Cell:
    """One backend on all seeds."""
    found = [
        solve(
            layer, objective=cost[0], dispatch=cost[1], backend=backend, time_limit=options.seconds
        )
        for layer in layers(options, num_steps, shape)
    ]
    gaps = [result.gap or 0.0 for result in found]
    proven = sum(result.status == "optimal" for result in found)
    return Cell(
        proven,
        median(r.runtime for r in found),
        max(gaps),
        ", ".join({r.bound_source for r in found}),
    )


def methods(options: argparse.Namespace) -> None:
    """A row for each shape and cost, a column for each backend."""
    names = options.backends or [n for n in JOINT_OVER_STEPS if n != "brute-force"]
    print("| T, shape, cost |", " | ".join(names), "|", flush=True)
    print("|---" * (len(names) + 1) + "|")
    for dispatch, num_steps, shape in product(
        options.dispatch, options.steps, options.shapes or SMALL
    ):
        for objective in options.objective:
            row = []
            for name in names:
                try:
                    row.append(str(measure(options, num_steps, shape, (objective, dispatch), name)))
                except ValueError:
                    row.append("")
            print(
                f"| {num_steps}, {shape}, {objective} {dispatch} |",
                " | ".join(row),
                "|",
                flush=True,
            )


def frontier(options: argparse.Namespace) -> None:
    """A row for each cost and number of steps, shapes until nothing is proven."""
    for dispatch, num_steps, objective in product(
        options.dispatch, options.steps, options.objective
    ):
        if num_steps == 1 and objective != options.objective[0]:
            continue  # one step: all objectives are the same
        failed = 0
        for shape in options.shapes or GROWING:
            for backend in options.backends or ["auto"]:
                cell = measure(options, num_steps, shape, (objective, dispatch), backend)
                row = (num_steps, objective, dispatch, shape, backend, cell, cell.sources)
                print(f"| {' | '.join(map(str, row))} |", flush=True)
            failed = 0 if cell.proven else failed + 1
            if failed == PATIENCE:
                break


def tiny(random: np.random.Generator) -> Layer:
    """1 to 4 steps, at most 6 slots."""
    experts, slots, ranks, *nodes = TINY[random.integers(len(TINY))]
    size = (int(random.integers(1, 5)), 1, experts)
    largest = int(random.choice([3, 60, 4096]))
    steps = random.integers(0, largest, size) * random.integers(0, 2, size)
    loads = steps if random.random() < 0.75 else random.choice(FLOATS, size)
    machine = Topology(slots, ranks, *nodes)
    enough = experts >= slots // ranks * machine.num_nodes
    return Instance(loads, machine, spread_replicas=enough and random.random() < 0.4).layer(0)


def agree(options: argparse.Namespace) -> None:
    """How many layers each backend was asked for, and proved; stops at a contradiction."""
    random, asked, proven = np.random.default_rng(0), Counter[str](), Counter[str]()
    for _ in range(options.number):
        layer, dispatch = tiny(random), str(random.choice(options.dispatch))
        objective = str(random.choice(["sum", "mean", "worst", "cvar:1/2", "cvar:0.7"]))
        cost = Cost.of(objective, dispatch).on(layer)
        words = {"objective": objective, "dispatch": dispatch}
        truth = solve(layer, backend="brute-force", **words).objective
        for name in options.backends or ["auto"]:
            entry = JOINT_OVER_STEPS.get(name)
            if entry and (cost.dispatch not in entry.dispatches or cost == EVEN_SUM):
                continue
            found = solve(layer, backend=name, **words)
            if truth is None or not found.lower_bound <= truth <= (found.objective or 0):
                raise SystemExit(f"{name} contradicts {truth}: {found} on {layer} {layer.steps}")
            asked[name] += 1
            proven[name] += found.status == "optimal"
    print({name: f"{proven[name]} of {number} proven" for name, number in asked.items()})


def _shape(text: str) -> tuple[int, int, int]:
    experts, slots, ranks = map(int, text.split(","))
    return experts, slots, ranks


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("table", choices=["methods", "frontier", "agree"])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--shapes", type=_shape, nargs="+")
    parser.add_argument("--dispatch", nargs="+", default=DISPATCHES)
    parser.add_argument("--objective", nargs="+", default=["mean", "worst"])
    parser.add_argument("--backends", nargs="+")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--spread", action="store_true")
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--trace")
    parser.add_argument("--layer", type=int, default=0)
    options = parser.parse_args()
    {"methods": methods, "frontier": frontier, "agree": agree}[options.table](options)


if __name__ == "__main__":
    main()
