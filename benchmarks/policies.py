"""Balance and time of the heuristics, side by side in one run.

Each set of loads is placed by each policy on each shape. The gap is over a proven lower bound under
the rule: the closed form, or with ``--exact SECONDS`` that of an exact search of the layers 0, 20
and 40. Times are medians of interleaved runs of all 58 layers, as ratios to ``deepseek``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from eplb_opt import Instance, Topology
from eplb_opt import bounds as closed_forms
from heuristics import POLICIES
from heuristics.makespan import makespans
from heuristics.policies import Policy, refined, with_maps

LAYERS = 58
SHAPES = [
    (256, 288, 1, 1, 32),
    (256, 288, 8, 4, 32),
    (256, 320, 1, 1, 64),
    (256, 288, 1, 1, 72),
    (256, 288, 1, 1, 96),
    (256, 288, 1, 1, 144),
    (64, 80, 1, 1, 8),
    (128, 160, 1, 1, 32),
    (512, 576, 1, 1, 64),
    (256, 256, 1, 1, 32),
    (256, 256, 8, 4, 32),
]
"""(experts, slots, groups, nodes, ranks)"""
REAL = "deepseek_v3"


def runners() -> dict[str, Policy]:
    """Every policy, ``refined`` once an effort."""
    others = {name: run for name, run in POLICIES.items() if name != "refined"}
    efforts = ("fast", "default", "thorough")
    return others | {f"refined {e}": with_maps(partial(refined, effort=e)) for e in efforts}


@dataclass(frozen=True)
class Row:
    """One policy on one set and shape; gaps in percent, time in milliseconds."""

    shape: tuple[int, ...]
    loads: str
    policy: str
    gap_mean: float
    gap_max: float
    time: float
    ratio: float

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        slots = self.shape[1] // self.shape[4]
        gaps = f"{self.gap_mean:.4f} | {self.gap_max:.3f}"
        times = f"{self.time:.1f} | {self.ratio:.2f}"
        return f"| {sizes} | {slots} | {self.loads} | {self.policy} | {gaps} | {times} |"


def load_sets(experts: int) -> Iterator[tuple[str, Tensor]]:
    """The named sets of loads [58, E] for a number of experts."""
    rng = np.random.default_rng(experts)
    if experts == 256:
        yield from real_sets()
    yield "deepseek-v3-like", torch.from_numpy(generated(rng, experts))
    for sigma in (0.5, 1.0, 1.5):
        normal = rng.standard_normal((LAYERS, experts))
        yield f"lognormal {sigma}", torch.from_numpy(np.exp(sigma * normal) * 1000)
    ranked = np.tile(1e6 / np.arange(1, experts + 1), (LAYERS, 1))
    yield "zipf 1", torch.from_numpy(rng.permuted(ranked, axis=1))


def real_sets() -> Iterator[tuple[str, Tensor]]:
    """Recordings of DeepSeek-V3 in SGLang's format, where the folder is at hand."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("EPLB_RECORDED_LOADS", root.parent / "shared" / "data")) / REAL
    for file in sorted(folder.glob("*.json")):
        counts = np.array(json.loads(file.read_text())["logical_count"], dtype=np.float64)
        loads = counts.reshape(-1, *counts.shape[-2:]).sum(0)
        yield f"{REAL} {file.stem}", torch.from_numpy(loads[loads.sum(1) > 0])


def generated(rng: np.random.Generator, experts: int) -> np.ndarray:
    """Log-load = effect of one of 8 groups + effect of the expert, spreads varying over layers."""
    sigma_expert = np.exp(rng.normal(-0.564, 0.204, (LAYERS, 1)))
    sigma_group = np.exp(rng.normal(-1.317, 0.656, (LAYERS, 1)))
    group = np.repeat(rng.standard_normal((LAYERS, 8)), experts // 8, axis=1)
    expert = rng.standard_normal((LAYERS, experts))
    return np.exp(sigma_group * group + sigma_expert * expert) * 4096


def reference(loads: Tensor, shape: tuple[int, ...], exact: float | None) -> Tensor:
    """A lower bound for each layer [L]; after a search of so many seconds a layer, if any."""
    _, slots, groups, nodes, ranks = shape
    rule = "hierarchical" if nodes > 1 else "global"
    instance = Instance(loads.double().numpy(), Topology(slots, ranks, nodes, groups), rule=rule)
    layers = instance.layers()
    if exact is None:
        bounds = [closed_forms.of(layer).value for layer in layers]
    else:
        from solvers import solve  # takes a second to import

        options = {"time_limit": exact, "tolerance": 1e-5}
        bounds = [solve(layer, stage="joint", **options).lower_bound for layer in layers]
    return torch.tensor([float(bound) for bound in bounds], dtype=torch.float64)


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1000


def measure(
    name: str,
    loads: Tensor,
    shape: tuple[int, ...],
    policies: dict[str, Policy],
    repeats: int,
    exact: float | None,
) -> list[Row]:
    calls = {policy: partial(run, loads, *shape[1:]) for policy, run in policies.items()}
    spans = {
        policy: makespans(loads.double(), call()[0], shape[4]) for policy, call in calls.items()
    }
    times: dict[str, list[float]] = {policy: [] for policy in calls}
    for turn in range(repeats):
        for policy, call in calls.items():
            if turn == 0 or median(times[policy]) < 1000:  # the slow ones once
                times[policy].append(timed(call))
    layers = list(range(len(loads))) if exact is None else [0, 20, 40]
    bound = reference(loads[layers], shape, exact)
    base = median(times["deepseek"])
    rows = []
    for policy, span in spans.items():
        gap = (span[layers] / bound - 1) * 100
        spent = median(times[policy])
        figures = (float(gap.mean()), float(gap.max()), spent, spent / base)
        rows.append(Row(shape, name, policy, *figures))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=int, nargs="*", help="indices into SHAPES (default: all)")
    parser.add_argument("--sets", nargs="*", help="sets whose name starts so (default: all)")
    parser.add_argument("--policies", nargs="*", help="policies besides deepseek (default: all)")
    parser.add_argument("--quick", action="store_true", help="10 layers, one timed run")
    parser.add_argument("--exact", type=float, help="seconds of exact search a layer")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen, known = options.policies, runners()
    if unknown := set(chosen or ()) - set(known):
        parser.error(f"{sorted(unknown)} are not among {sorted(known)}")
    policies = {
        name: run
        for name, run in known.items()
        if name == "deepseek" or chosen is None or name in chosen
    }
    print("| E, P, K, N, G | S | loads | policy | gap mean % | max % | ms | x deepseek |")
    print("|---|---|---|---|---|---|---|---|")
    for index in options.shapes or range(len(SHAPES)):
        shape = SHAPES[index]
        for name, loads in load_sets(shape[0]):
            if options.sets and not name.startswith(tuple(options.sets)):
                continue
            kept = loads.float()[:10] if options.quick else loads.float()
            repeats = 1 if options.quick else 7
            for row in measure(name, kept, shape, policies, repeats, options.exact):
                print(row, flush=True)


if __name__ == "__main__":
    main()
