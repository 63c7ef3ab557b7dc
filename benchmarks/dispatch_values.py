"""Seconds to value one placement over many steps, exactly, under each dispatch rule.

    python benchmarks/dispatch_values.py [--trace TRACE.npy]

Synthetic loads: lognormal 1 experts whose popularity varies by lognormal 0.2 from step to step,
multinomial tokens. A trace [T, L, E] is measured layer by layer instead (.npy, or an array of a
.npz as ``FILE.npz:NAME``). Placements are those of ``deepseek`` on the sum, and a ring: no
redundancy, then each rank's heaviest expert copied to the next rank. Compiled before; median of 3.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eplb_opt import Instance, Layer, Topology
from heuristics import rebalance_experts
from solvers.dispatch import best_shares, flow, linear_program, optimal, value
from solvers.dispatch.classes import classes_of, holders

SHAPES = [(32, 40, 8, 512), (64, 80, 16, 1000), (256, 288, 32, 1000), (256, 320, 64, 1000)]
"""(experts, slots, ranks, steps)"""
PYTHON_STEPS = 20
"""Steps of which the flow in Python is measured."""


@dataclass(frozen=True)
class Placed:
    """A layer and a placement of it."""

    name: str
    layer: Layer
    phy2log: list[int]

    def value(self, objective: str, dispatch: str) -> Any:
        """Its bracket."""
        return value(self.layer, self.phy2log, objective, dispatch)

    def makespans(self, method: Callable[[Any], Any]) -> None:
        """Under optimal dispatch, found by ``method``."""
        ranks = self.layer.topology.num_ranks
        held = holders(self.phy2log, len(self.layer.loads), ranks)
        method(classes_of(self.layer.steps, held))


def synthetic(experts: int, steps: int) -> NDArray[np.int64]:
    """[T, E] tokens, 128 for each expert on average."""
    random = np.random.default_rng(0)
    popular = random.lognormal(0, 1, experts)
    drifting = popular * random.lognormal(0, 0.2, (steps, experts))
    shares = drifting / drifting.sum(axis=1, keepdims=True)
    return np.array([random.multinomial(128 * experts, row) for row in shares])


def place(loads: Sequence[int], num_slots: int, num_ranks: int) -> list[int]:
    placed = rebalance_experts(torch.tensor([loads]).float(), num_slots, 1, 1, num_ranks)[0][0]
    return [int(expert) for expert in placed]


def placements(name: str, trace: NDArray[Any], num_slots: int, num_ranks: int) -> list[Placed]:
    layer = Instance(trace[:, None], Topology(num_slots, num_ranks)).layer(0)
    found = [Placed(f"{name} deepseek", layer, place(layer.loads, num_slots, num_ranks))]
    experts = trace.shape[1]
    if num_slots - experts == num_ranks:
        own = np.array(place(layer.loads, experts, num_ranks)).reshape(num_ranks, -1)
        heaviest = [max(rank, key=lambda e: layer.loads[e]) for rank in own.tolist()]
        ring = np.c_[own, np.roll(heaviest, 1)].ravel().tolist()
        found.append(Placed(f"{name} ring", layer, ring))
    return found


def seconds(run: Callable[[], object], times: int = 3) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return median(found)


def table_of_values(placed: list[Placed]) -> None:
    print("\n| loads, placement | even | optimal | fixed, mean | worst | cvar:0.1 | open |")
    print("|---|---|---|---|---|---|---|")
    for one in placed:
        costs = [("mean", "even"), ("mean", "optimal")]
        costs += [(objective, "fixed") for objective in ("mean", "worst", "cvar:0.1")]
        times = [seconds(partial(one.value, *cost)) for cost in costs]
        brackets = [one.value(*cost) for cost in costs]
        gap = max(float((b.value - b.bound) / b.bound) for b in brackets)
        print(f"| {one.name} | {' | '.join(f'{t:.3f}' for t in times)} | {gap:.1g} |", flush=True)


def table_of_methods(placed: list[Placed]) -> None:
    """Rivals: all sets of ranks, flows compiled and in Python; linear programs by two methods, all
    rows at once or added.
    """
    print("\n| loads, placement | all sets | compiled flow | Python flow | rows added | all rows |")
    print("|---|---|---|---|---|---|")
    for one in placed:
        few = one.layer.topology.num_ranks <= optimal.FEW_RANKS
        steps = one.layer.each_step()[:PYTHON_STEPS]
        flows = seconds(lambda: [best_shares(step, one.phy2log) for step in steps], 1)  # noqa: B023
        cells = [
            f"{seconds(partial(one.makespans, optimal.try_all_sets)):.4f}" if few else "-",
            f"{seconds(partial(one.makespans, optimal.compiled_cuts)):.4f}",
            f"{flows / len(steps) * len(one.layer.steps):.1f}",
        ]
        usual = linear_program.NEW_ROWS
        for rows in (usual, one.layer.topology.num_ranks):
            linear_program.NEW_ROWS = rows
            cells.append(f"{seconds(partial(one.value, 'mean', 'fixed')):.3f}")
        linear_program.NEW_ROWS = usual
        print(f"| {one.name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", help="[T, L, E], .npy or FILE.npz:NAME")
    parser.add_argument("--slots", type=int, default=40)
    parser.add_argument("--ranks", type=int, default=8)
    arguments = parser.parse_args()
    flow.rehearse()
    if arguments.trace is None:
        placed = [
            one
            for E, P, G, T in SHAPES
            for one in placements(f"({E}, {P}, {G}) x {T}", synthetic(E, T), P, G)
        ]
        table_of_values(placed)
        table_of_methods(placed)
        return
    path, _, name = arguments.trace.partition(".npz:")
    trace = np.load(path + ".npz")[name] if name else np.load(path)
    trace = trace.astype(np.int64)
    layers = [
        placements(str(i), trace[:, i], arguments.slots, arguments.ranks)
        for i in range(trace.shape[1])
    ]
    for objective, dispatch in [("mean", d) for d in ("even", "optimal", "fixed")]:
        runs = [partial(one.value, objective, dispatch) for placed in layers for one in placed[:1]]
        total = seconds(lambda: [run() for run in runs], 1)  # noqa: B023
        print(f"{len(runs)} layers x {len(trace)} steps, {dispatch}: {total:.2f} s")


if __name__ == "__main__":
    main()
