"""What the exact side proves, and how fast: own methods beside generic CP-SAT and MILP.

    python benchmarks/exact.py packing --seconds 60 --seeds 5
    python benchmarks/exact.py joint --backends portfolio cp-sat scipy --seconds 10 --seeds 2
    python benchmarks/exact.py full --seconds 60 --seeds 1
    python benchmarks/exact.py hierarchical --seconds 10
    python benchmarks/exact.py staged --seeds 20

Loads: lognormal 0.5, 1, 1.5 and zipf 1, 4,096 tokens an expert. A cell is the number of layers
proven optimal, the median and the largest gap in percent, and the median of seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median

from eplb_opt import Instance, Topology
from eplb_opt.io.synthetic import generate
from eplb_opt.policies.names import load_policy
from eplb_opt.problem.result import Result
from solvers import solve
from solvers.dispatch import value

FAMILIES = {
    "lognormal 0.5": ("lognormal", 0.5),
    "lognormal 1": ("lognormal", 1.0),
    "lognormal 1.5": ("lognormal", 1.5),
    "zipf 1": ("zipf", 1.0),
}
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Table:
    """Shapes (E, P, G) of a table, the stage, and nodes and groups if hierarchical."""

    stage: str
    shapes: Sequence[Shape]
    nodes: int = 1
    groups: int = 1


TABLES = {
    "packing": Table(
        "packing",
        [(24, 32, 8), (32, 40, 4), (32, 40, 8), (64, 72, 8), (24, 36, 12), (32, 48, 16),
         (128, 144, 16), (256, 288, 32), (64, 80, 16), (128, 160, 32), (48, 72, 24), (64, 96, 32)],
    ),
    "joint": Table(
        "joint",
        [(8, 16, 4), (12, 24, 8), (16, 24, 8), (16, 24, 4), (20, 24, 8), (24, 28, 4), (24, 32, 8)],
    ),
    "small-packing": Table("packing", [(6, 9, 3), (8, 12, 4), (12, 16, 4), (12, 18, 6)]),
    "small-joint": Table("joint", [(6, 8, 4), (8, 10, 2), (8, 12, 4), (10, 12, 3)]),
    "beyond": Table("joint", [(32, 36, 4), (32, 40, 8), (64, 72, 8)]),
    "two-slots": Table("joint", [(16, 24, 12), (64, 96, 48), (256, 288, 144)]),
    "full": Table(
        "joint",
        [(256, 288, 32), (512, 576, 64), (256, 320, 64), (128, 160, 32), (256, 288, 72),
         (128, 144, 36), (256, 384, 128), (256, 288, 96)],
    ),
    "hierarchical": Table("joint", [(32, 40, 8), (256, 288, 32), (256, 320, 64)], 4, 8),
}  # fmt: skip


def instance_of(shape: Shape, family: str, seed: int, nodes: int = 1, groups: int = 1) -> Instance:
    experts, slots, ranks = shape
    name, parameter = FAMILIES[family]
    loads = generate(
        name,
        num_layers=1,
        num_experts=experts,
        tokens=4096 * experts,
        seed=seed,
        shape=parameter,
    )
    return Instance(loads, Topology(slots, ranks, nodes, groups))


def cell(results: Sequence[Result]) -> str:
    proven = sum(result.status == "optimal" for result in results)
    gaps = [100 * (result.gap or 0.0) for result in results]
    seconds = median(result.runtime for result in results)
    return f"{proven}/{len(results)} {median(gaps):.4f} {max(gaps):.4f} {seconds:6.1f}s"


def attempt(job: Callable[[], Result]) -> Result | str:
    """A backend may refuse a layer as too large."""
    try:
        return job()
    except ValueError as error:
        return str(error).split(":")[0]


def compare(table: Table, backends: Sequence[str], seconds: float, seeds: int) -> None:
    print(f"{'shape':<16} {'loads':<14} " + " ".join(f"{b:<32}" for b in backends))
    for shape in table.shapes:
        for family in FAMILIES:
            row = []
            for backend in backends:
                layers = [
                    instance_of(shape, family, seed, table.nodes, table.groups).layer(0)
                    for seed in range(seeds)
                ]
                found = [
                    attempt(
                        lambda layer=layer, backend=backend: solve(
                            layer, stage=table.stage, backend=backend, time_limit=seconds
                        )
                    )
                    for layer in layers
                ]
                results = [result for result in found if isinstance(result, Result)]
                row.append(cell(results) if results else f"refused: {found[0]}"[:31])
            print(f"{shape!s:<16} {family:<14} " + " ".join(f"{c:<32}" for c in row), flush=True)


def staged(seeds: int, seconds: float) -> None:
    """How far optimal stages, one after another, and the baseline are above the joint optimum."""
    print("percent above the joint optimum (or its bound): mean, max; share of layers above it")
    print(f"{'shape':<16} {'loads':<14} {'optimal stages':<24} {'baseline':<24}")
    baseline = load_policy("deepseek")
    for shape in [(16, 24, 8), (16, 24, 12), (20, 24, 8), (24, 28, 4), (32, 36, 4), (64, 72, 8)]:
        for family in FAMILIES:
            above: dict[str, list[float]] = {"staged": [], "baseline": []}
            for seed in range(seeds):
                instance = instance_of(shape, family, seed)
                layer = instance.layer(0)
                joint = solve(layer, time_limit=seconds, tolerance=1e-5).lower_bound
                stages = solve(layer, stage="packing", time_limit=seconds).objective
                slots = baseline.run(instance).placement.phy2log[0].tolist()
                above["staged"].append(100 * float(stages / joint - 1))
                above["baseline"].append(100 * float(value(layer, slots).incumbent / joint - 1))
            row = [
                f"{mean(v):.3f} {max(v):.3f} {sum(x > 1e-3 for x in v)}/{len(v)}"
                for v in above.values()
            ]
            print(f"{shape!s:<16} {family:<14} {row[0]:<24} {row[1]:<24}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=[*TABLES, "staged"])
    parser.add_argument("--backends", nargs="+", default=["auto"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.table == "staged":
        staged(arguments.seeds, arguments.seconds)
    else:
        table = TABLES[arguments.table]
        compare(table, arguments.backends, arguments.seconds, arguments.seeds)


if __name__ == "__main__":
    main()
