"""Where the time of `eplb-opt gap` goes at full scale: policy, measuring, bounds by rule.

Run: python benchmarks/spine.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from eplb_opt import Instance, Topology, bounds
from eplb_opt.io.synthetic import generate
from eplb_opt.policies.names import load_policy
from solvers.dispatch import value

REPEATS = 5
SHAPES = {
    "(256,288,32) global": Topology(288, 32),
    "(256,288,32) 4 nodes": Topology(288, 32, 4, 8),
    "(256,320,64) global": Topology(320, 64),
    "(256,288,96) global": Topology(288, 96),
    "(256,288,144) global": Topology(288, 144),
}


def seconds(job: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> None:
    loads = generate("deepseek-v3", num_layers=58, num_experts=256, tokens=1 << 20, seed=0)
    print(f"58 layers like DeepSeek-V3, seconds, median of {REPEATS}; ratio to the policy itself")
    print(f"{'shape':<22} {'policy':>8} {'measure':>8} {'bound':>8} {'bound/policy':>13}")
    policy = load_policy("deepseek")
    for name, topology in SHAPES.items():
        instance = Instance(loads, topology)
        layers = instance.layers()
        rows = policy.run(instance).placement.phy2log.tolist()
        place = seconds(lambda i=instance: policy.run(i))
        measure = seconds(lambda ls=layers, rs=rows: [*map(value, ls, rs)])
        bound = seconds(lambda ls=layers: [*map(bounds.of, ls)])
        print(f"{name:<22} {place:8.3f} {measure:8.3f} {bound:8.3f} {bound / place:13.1f}")


if __name__ == "__main__":
    main()
