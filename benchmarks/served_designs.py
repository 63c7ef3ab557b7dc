"""What each part of the search of ``dispatch-aware`` is worth: the default effort without it.

    python benchmarks/served_designs.py

For decode steps of 64 requests (40 slots, steady and topics, as the yardstick) and four layers of
DeepSeek-V3 at (256, 288, 32), each placed on 1,000 drawn steps, 300 others served: loss in % under
optimal dispatch on the steps seen and on those served, and seconds for a placement. ``--only TEXT``
runs the designs whose name has it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from yardstick import DATA, Task, drawn_steps, full_scale, full_scale_weights, replay, steps_of

from eplb_opt.io.routing import read_routing
from heuristics.steps import annealing, dispatch_aware, draw_steps, proposals, starts
from heuristics.steps.dispatch_aware import Work
from heuristics.steps.values import mean_makespans

SEARCH, POLICY = annealing, "heuristics.steps.dispatch_aware"
"""The module of the policy is named, as its function has the same name."""
RING = {name: starts.BUILT[name] for name in ("deepseek", "refined")}
DESIGNS: dict[str, list[tuple[Any, str, Any]]] = {
    "default": [],
    "constructions only": [(POLICY, "EFFORTS", {"default": Work(0, 0)})],
    "no chains, no links to start from": [(starts, "BUILT", RING)],
    "descent: nothing worse is kept": [(SEARCH, "HOT", 1e-9), (SEARCH, "COLD", 1e-9)],
    "ten times as hot": [(SEARCH, "HOT", 0.1)],
    "partners by chance, not by prices": [(proposals, "JITTER", 1e6)],
    "prices without curvature": [(proposals, "CURVATURE", 0.0)],
    "no slots given away": [(proposals, "GIVE", 0.0)],
    "no room to spare": [(SEARCH, "ROOM", 0.0)],
    "all steps in every round": [(SEARCH, "FEW", 1024)],
    "64 steps in every round": [(SEARCH, "MANY", 64)],
}


@contextmanager
def changed(parts: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Constants of the search set to others."""
    with ExitStack() as stack:
        for module, name, value in parts:
            if isinstance(module, str):
                stack.enter_context(patch.dict(f"{module}.{name}", value))
            else:
                stack.enter_context(patch.object(module, name, value))
        yield


def loss(steps: torch.Tensor, phy2log: torch.Tensor, num_ranks: int) -> tuple[float, float]:
    """Sums of makespans and of mean rank loads."""
    makespans = mean_makespans(steps, phy2log[None], num_ranks).sum() * len(steps)
    return float(makespans), float(steps.sum()) / num_ranks


def cells(tasks: list[Task], more: int = 0) -> list[str]:
    """Loss seen and served in %, and seconds; placed on so many drawn steps besides."""
    sums, start = [], time.perf_counter()
    for task in tasks:
        seen = task.seen.float()
        if more:
            seen = torch.cat([seen, draw_steps(seen, steps=more)])
        sizes = (task.num_slots, task.num_groups, task.num_nodes, task.num_ranks)
        phy2log = dispatch_aware(seen, *sizes)
        sums.append([loss(steps, phy2log, task.num_ranks) for steps in (task.seen, task.served)])
    seconds = (time.perf_counter() - start) / len(tasks)
    found = []
    for each in zip(*sums, strict=True):
        makespans, means = (sum(part) for part in zip(*each, strict=True))
        found.append(f"{(makespans / means - 1) * 100:.2f}")
    return [*found, f"{seconds:.1f}"]


def skewed_and_mild(data: Path) -> Task:
    """Layers 3, 21, 39 and 57, 300 steps served."""
    weights, layers = full_scale_weights(data), (3, 21, 39, 57)
    each = [torch.from_numpy(drawn_steps(weights[layer], 1000 + layer, 300)) for layer in layers]
    return replace(full_scale(weights, layers), served=torch.stack(each, 1))


def main() -> None:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of recordings")
    parser.add_argument("--only", default="", help="designs whose name has this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    routing = read_routing(options.data / "gpt_oss_20b_tokens.npz")
    machines = [replay(*steps_of(routing, 64, order), 40) for order in ("shuffled", "topic")]
    machines.append([skewed_and_mild(options.data)])
    warm = machines[0][0]
    dispatch_aware(warm.seen[:2, :1].float(), 40, 1, 1, 8, effort="fast")
    names = [f"{name} {what}" for name in ("steady", "topics", "full scale") for what in
             ("seen", "served", "s")]  # fmt: skip
    print(f"| design | {' | '.join(names)} |\n|---|{'--:|' * len(names)}", flush=True)
    for name, parts in DESIGNS.items():
        if options.only in name:
            with changed(parts):
                found = [cell for tasks in machines for cell in cells(tasks)]
            print(f"| {name} | {' | '.join(found)} |", flush=True)
    name = "1,024 drawn steps besides"
    if options.only in name:
        found = [cell for tasks in machines for cell in cells(tasks, more=1024)]
        print(f"| {name} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
