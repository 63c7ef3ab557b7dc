"""How time and memory of ``deepseek`` and ``refined`` grow with layers, experts, ranks and slots.

One size varies at a time; lognormal 1 loads; the median of runs with one thread, each size in a
process of its own: its peak memory includes python and torch, about 0.23 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

AXES = {
    "layers": [1, 4, 16, 58, 232, 1000],
    "experts": [64, 128, 256, 512],
    "ranks": [8, 16, 32, 64, 128],
    "slots": [1, 2, 3, 4, 6, 9, 18],
}
POLICIES = ("deepseek", "refined")


@dataclass(frozen=True)
class Size:
    """Sizes of one instance; 8 of 9 slots are needed for the experts, the rest is spare."""

    axis: str
    layers: int
    experts: int
    ranks: int
    slots: int


def along(axis: str, value: int) -> Size:
    """The base with another number of layers; of experts on 8 ranks; of ranks of 9 slots; of slots
    a rank for 256 experts.
    """
    layers = value if axis == "layers" else 58
    if axis == "experts":
        return Size(axis, layers, value, 8, value * 9 // 64)
    if axis == "slots":
        return Size(axis, layers, 256, 288 // value, value)
    ranks = value if axis == "ranks" else 32
    return Size(axis, layers, ranks * 8, ranks, 9)


def run_here(policy: str, layers: int, experts: int, ranks: int, slots: int) -> None:
    """Print milliseconds and peak gigabytes of this process."""
    import resource

    import torch

    from heuristics import POLICIES as RUN

    torch.set_num_threads(1)
    normal = torch.randn(layers, experts, generator=torch.Generator().manual_seed(0))
    loads, times = normal.exp() * 1000, []
    while len(times) < 2 or (len(times) < 9 and sum(times) < 3):
        start = time.perf_counter()
        RUN[policy](loads, ranks * slots, 1, 1, ranks)
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(1000 * median(times[1:]), peak)


def measure(policy: str, size: Size) -> tuple[float, float]:
    sizes = [size.layers, size.experts, size.ranks, size.slots]
    command = [sys.executable, __file__, "--one", policy, *map(str, sizes)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    milliseconds, peak = map(float, output.split())
    return milliseconds, peak


def plot(found: dict[tuple[str, str], list[tuple[int, float]]], target: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(AXES), figsize=(14, 3.4), sharey=True)
    for ax, axis in zip(axes, AXES, strict=True):
        for policy, marker in zip(POLICIES, "os", strict=True):
            ax.plot(*zip(*found[axis, policy], strict=True), marker=marker, label=policy)
        ax.set(xscale="log", yscale="log", xlabel=axis if axis != "slots" else "slots per rank")
        ax.set_xticks(AXES[axis], [str(value) for value in AXES[axis]])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds, all layers")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--plot", metavar="FILE.svg", help="draw it (needs matplotlib)")
    options = parser.parse_args()
    if options.one:
        run_here(options.one[0], *map(int, options.one[1:]))
        return
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    print("| varies | L, E, G, S | policy | ms | peak GB |")
    print("|---|---|---|---|---|")
    for axis, values in AXES.items():
        for size in (along(axis, value) for value in values):
            for policy in POLICIES:
                milliseconds, peak = measure(policy, size)
                found.setdefault((axis, policy), []).append((getattr(size, axis), milliseconds))
                shape = f"{size.layers}, {size.experts}, {size.ranks}, {size.slots}"
                print(
                    f"| {axis} | {shape} | {policy} | {milliseconds:.1f} | {peak:.2f} |", flush=True
                )
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
