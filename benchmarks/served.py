"""Placements for a dispatcher beside others: what is lost on the steps after those they saw.

    python benchmarks/served.py yardstick      # decode steps of 64 tokens, 8 ranks, 40 or 48 slots
    python benchmarks/served.py full-scale     # ten layers, 4,096 tokens a step, (256, 288, 32)
    python benchmarks/served.py families       # more slots or ranks there, and more noise
    python benchmarks/served.py by-size        # 16 to 4,096 tokens a step
    python benchmarks/served.py hierarchical   # the ten layers on 4 nodes, 8 groups
    python benchmarks/served.py budget         # few transfers from the placement before
    python benchmarks/served.py speed          # seconds and memory of a whole model

``--efforts fast,default`` leaves out searches that take long, ``--layers 2`` places the first two
layers alone, ``--steps 20`` serves no more than the first 20 steps of each placement. Recordings
are looked for in ``--data``, ``$EPLB_RECORDED_LOADS`` or ``../shared/data``.

A line is a policy. Its columns:

- even, optimal, shares, whole, floor: served loss, sum of makespans / sum of mean rank loads - 1 in
  %, by equal shares, by the best shares (exact), by shares and whole tokens of
  ``heuristics.dispatch``, and by ceil(optimal), the best in whole tokens;
- seen: that of the best shares on the steps that it was placed on;
- above: the layers in which ``dispatch-aware`` has an optimal loss greater by 0.005 points at least
  than the policy of each line before that is not ``dispatch-aware``, in their order;
- seconds: for a placement of all layers, in one call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from yardstick import (
    BALANCED,
    DATA,
    LAYERS,
    RANKS,
    SIZES,
    Makespans,
    Served,
    Task,
    even,
    floor,
    full_scale,
    full_scale_weights,
    halves,
    loss,
    optimal,
    replay,
    shares,
    steps_of,
    whole,
)

from eplb_opt import Instance, Topology, bounds
from eplb_opt.io.routing import read_routing
from eplb_opt.problem.transfer import count_transfers
from heuristics.policies import LPLB_GRAPHS

OURS = "dispatch-aware"
EFFORTS = {"fast": f"{OURS}:fast", "default": OURS, "thorough": f"{OURS}:thorough"}
SHOWN = 0.005
"""Points that a table shows."""
ORDERS = {"steady": "shuffled", "topics": "topic"}
COLUMNS: dict[str, Callable[[Served], Makespans]] = {
    "even": even,
    "optimal": optimal,
    "shares": shares,
    "whole": whole,
    "floor": floor,
}


@dataclass(frozen=True, eq=False)
class Placed:
    """What one policy made of several tasks.

    Attributes:
        cases: the steps that each placement served.
        seen: the steps that it was placed on.
        seconds: of a placement, all layers in one call, in the mean.
    """

    cases: list[Served]
    seen: list[Served]
    seconds: float

    @cached_property
    def by_layer(self) -> NDArray[np.float64]:
        """Served loss in % by the best shares, [L]."""
        makespans = sum(optimal(case).sum(0) for case in self.cases)
        tokens = sum(case.loads.sum((0, 2)).numpy() for case in self.cases)
        return (makespans * self.cases[0].num_ranks / tokens - 1) * 100


def put(policy: str, tasks: Sequence[Task]) -> Placed:
    """The placements of a policy."""
    start = time.perf_counter()
    placed = [task.place(policy) for task in tasks]
    seconds = (time.perf_counter() - start) / len(tasks)
    cases = [task.serve(phy2log) for task, phy2log in zip(tasks, placed, strict=True)]
    seen = [replace(case, loads=task.seen) for task, case in zip(tasks, cases, strict=True)]
    return Placed(cases, seen, seconds)


def warm_up(task: Task) -> None:
    """Compile what is compiled at the first call."""
    replace(task, seen=task.seen[:2, :1]).place(EFFORTS["fast"])


def others(task: Task) -> list[str]:
    """The policies to compare with: graphs only where they have such numbers."""
    sizes = (task.num_slots, task.num_groups, task.num_nodes, task.num_ranks)
    found = list(BALANCED)
    for name, graph in LPLB_GRAPHS.items():
        try:
            assert graph.check is not None
            graph.check(task.seen.shape[-1], *sizes)
        except ValueError:
            continue
        found.append(name)
    return found


def cut(task: Task, options: argparse.Namespace) -> Task:
    """The first layers, and the first steps served, of the options."""
    layers = slice(options.layers)
    seen, served = task.seen[:, layers], task.served[: options.steps, layers]
    return replace(task, seen=seen, served=served, chosen=None)


def header(first: str, names: Sequence[str] = (*COLUMNS, "seen", "above", "seconds")) -> None:
    print(f"\n| {first} | {' | '.join(names)} |\n|---|{'--:|' * len(names)}", flush=True)


def row(name: str, cells: Sequence[str]) -> None:
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def compare(name: str, tasks: Sequence[Task], options: argparse.Namespace) -> dict[str, Placed]:
    """A line for each policy, as soon as it is known."""
    tasks = [cut(task, options) for task in tasks]
    warm_up(tasks[0])
    found: dict[str, Placed] = {}
    for policy in [*others(tasks[0]), *options.efforts]:
        placed = found[policy] = put(policy, tasks)
        cases, seen = placed.cases, placed.seen
        losses = [loss([run(case) for case in cases], cases) for run in COLUMNS.values()]
        losses.append(loss([optimal(case) for case in seen], seen))
        above = [
            str((placed.by_layer > found[other].by_layer + SHOWN).sum())
            for other in others(tasks[0])
            if policy.startswith(OURS)
        ]
        cells = [*(f"{percent:.2f}" for percent in losses), ", ".join(above)]
        cells.append(f"{placed.seconds:.2f}")
        row(f"{name}`{policy}`", cells)
    return found


def decode(options: argparse.Namespace, num_slots: int, order: str) -> list[Task]:
    routing = read_routing(options.data / "gpt_oss_20b_tokens.npz")
    return replay(*steps_of(routing, 64, ORDERS[order]), num_slots)


def yardstick(options: argparse.Namespace) -> None:
    header("64 tokens a step")
    for order in ORDERS:
        for slots in (40, 48):
            compare(f"{order}, {slots} slots, ", decode(options, slots, order), options)


def ten_layers(options: argparse.Namespace, *sizes: int, spread: float = 0.2) -> Task:
    """Sizes: slots, ranks, groups, nodes."""
    layers = LAYERS[: options.layers]
    return full_scale(full_scale_weights(options.data), layers, *sizes, spread=spread)


def full_scale_table(options: argparse.Namespace) -> None:
    header("4,096 tokens a step")
    found = compare("", [ten_layers(options, 288, 32)], options)
    header("optimal, by layer", [str(layer) for layer in LAYERS[: options.layers]])
    for policy, placed in found.items():
        row(f"`{policy}`", [f"{percent:.2f}" for percent in placed.by_layer])


def families(options: argparse.Namespace) -> None:
    header("4,096 tokens a step")
    for slots, ranks in ((320, 32), (320, 64), (288, 72)):
        for spread in (0.2, 0.4):
            task = ten_layers(options, slots, ranks, spread=spread)
            compare(f"(256, {slots}, {ranks}), noise {spread}, ", [task], options)


def by_size(options: argparse.Namespace) -> None:
    routing = read_routing(options.data / "gpt_oss_20b_tokens.npz")
    header("tokens a step")
    for batch, summed, orders in SIZES:
        seeds = range(3, 3 + orders)
        tasks = [halves(*steps_of(routing, batch, "shuffled", seed), summed) for seed in seeds]
        served = sum(len(task.served[: options.steps]) for task in tasks)
        compare(f"{batch * summed:,} ({served} steps), ", tasks, options)


def least(task: Task) -> float:
    """Served loss in % that is proven for every placement that stays."""
    topology = Topology(task.num_slots, task.num_ranks, task.num_nodes, task.num_groups)
    layers = Instance(task.served.numpy(), topology).layers()
    found = sum(float(bounds.of(layer, "mean", "optimal").value) for layer in layers)
    return (found * len(task.served) * task.num_ranks / float(task.served.sum()) - 1) * 100


def hierarchical(options: argparse.Namespace) -> None:
    task = ten_layers(options, 288, 32, 8, 4)
    header("4,096 tokens a step, 8 groups on 4 nodes")
    row("proven for all placements", ["", f"{least(cut(task, options)):.2f}", *[""] * 6])
    compare("", [task], options)


def budget(options: argparse.Namespace) -> None:
    """Placed anew before steps 768 and 1,024, from the placement of before."""
    names = ["optimal", "whole", "floor", "transfers a layer", "at most", "seconds"]
    header("64 tokens a step", names)
    for order in ORDERS:
        for slots in (40, 48):
            tasks = [cut(task, options) for task in decode(options, slots, order)]
            warm_up(tasks[0])
            for effort in options.efforts:
                start = tasks[0].place(effort)
                for kept in ("0", "8", "32", "128", "relabel", "anew"):
                    policy = effort if kept == "anew" else f"{effort}:{kept}"
                    row(f"{order}, {slots} slots, `{policy}`", moved(policy, tasks[1:], start))


def moved(policy: str, tasks: Sequence[Task], start: Tensor) -> list[str]:
    """Served losses, transfers and seconds of placements that follow each other."""
    cases, transfers, seconds, old = [], [], [], start
    for task in tasks:
        begin = time.perf_counter()
        new = task.place(policy, old)
        seconds.append(time.perf_counter() - begin)
        transfers += count_transfers(old, new, task.num_slots // task.num_ranks).sum(1).tolist()
        cases.append(task.serve(new))
        old = new
    losses = [loss([run(case) for case in cases], cases) for run in (optimal, whole, floor)]
    counted = [f"{mean(transfers):.1f}", str(max(transfers)), f"{mean(seconds):.2f}"]
    return [*(f"{percent:.2f}" for percent in losses), *counted]


def memory(word: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` the most since :func:`forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(word))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def speed_rows(name: str, task: Task, efforts: Sequence[str]) -> None:
    """Seconds, the median of three where they are short, and memory beyond that of the steps."""
    warm_up(task)
    found: dict[str, float] = {}
    for policy in (*BALANCED, *efforts):
        forget_peak()
        before, times = memory("VmRSS"), []
        while not times or (len(times) < 3 and sum(times) < 5):
            start = time.perf_counter()
            task.place(policy)
            times.append(time.perf_counter() - start)
        peak, found[policy] = memory("VmHWM") - before, median(times)
        ratios = [f"{found[policy] / found[other]:,.1f}" for other in BALANCED if other in found]
        cells = [f"{found[policy]:.3f}", *ratios, *[""] * (2 - len(ratios)), f"{peak:,.0f}"]
        row(f"{name}, `{policy}`", cells)


def speed(options: argparse.Namespace) -> None:
    layers = slice(options.layers)
    header("layers x steps", ["seconds", "x `deepseek`", "x `refined`", "peak MiB"])
    routing = read_routing(options.data / "gpt_oss_20b_tokens.npz")
    trace = steps_of(routing, 64, "shuffled")[0][:512, layers]
    name = f"(32, 40, 8), {trace.shape[1]} x {len(trace)}"
    speed_rows(name, Task(trace, trace, 40, RANKS), options.efforts)
    task = full_scale(full_scale_weights(options.data), range(3, 61)[layers])
    name = f"(256, 288, 32), {task.seen.shape[1]} x {len(task.seen):,}"
    speed_rows(name, task, options.efforts)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "yardstick": yardstick,
    "full-scale": full_scale_table,
    "families": families,
    "by-size": by_size,
    "hierarchical": hierarchical,
    "budget": budget,
    "speed": speed,
}


def efforts(words: str) -> list[str]:
    """The policies of a list such as ``fast,default``."""
    return [EFFORTS[word] for word in words.split(",")]


def main() -> None:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("part", choices=PARTS, help="table, see above")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of recordings")
    parser.add_argument("--efforts", type=efforts, default=list(EFFORTS.values()), help="some")
    parser.add_argument("--layers", type=int, help="the first so many")
    parser.add_argument("--steps", type=int, help="at most so many served for each placement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    PARTS[options.part](options)


if __name__ == "__main__":
    main()
