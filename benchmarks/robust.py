"""Placements for several steps under even dispatch: ``robust`` beside simple and published ways.

    python benchmarks/robust.py recordings   # five recordings of DeepSeek-V3 as steps; one left out
    python benchmarks/robust.py decode       # single decode steps of 64 tokens, 8 ranks
    python benchmarks/robust.py windows      # topics in windows of 1,024 tokens
    python benchmarks/robust.py objectives   # mean, worst and cvar:0.1, each valued by all three
    python benchmarks/robust.py speed        # 58 layers x 5, 64 and 1,000 steps
    python benchmarks/robust.py optima       # distance to the proven optima of small traces

``--efforts fast,default`` leaves out searches that take long, ``--efforts none`` all of ours;
``--rivals refined,best-swaps`` and ``--rivals none`` the same for ``robust_rivals.py``. ``--layers
2`` places the first two layers alone, ``--steps 20`` serves at most 20 steps after each placement.
``--machines 288,32`` of recordings: some slots, ranks, groups, nodes. Recordings are looked for in
``--data``, ``$EPLB_RECORDED_LOADS`` or ``../shared/data``.

Loss is sum of makespans / sum of mean rank loads - 1 in %, the mean over layers; "worst" is that of
the layer's worst step. Seconds are of CPU, one thread, all layers in one call. "behind": layers in
which a rival's mean loss on the steps placed on is below that of ``robust``, by 0.005 points.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from robust_rivals import GLOBAL_ONLY, RIVALS, Place
from served_optima import FAMILIES, SIZES, Optima, trace
from torch import Tensor
from yardstick import BALANCED, DATA, RANKS, full_scale, full_scale_weights, replay, steps_of

from eplb_opt.io.routing import read_routing
from heuristics.steps.even_values import even_makespans, over_steps
from heuristics.steps.robust import EFFORTS, robust

OURS = "robust"
RECORDINGS = [
    "decode_in1800out100",
    "decode_in2000out100",
    "prefill_in1024",
    "prefill_in1800out100",
    "prefill_in2048",
]
MACHINES = [(288, 32, 1, 1), (288, 32, 8, 4), (320, 64, 1, 1), (288, 72, 1, 1)]
"""Slots, ranks, groups, nodes."""
OBJECTIVES = ("mean", "worst", "cvar:0.1")
SHOWN = 0.005
"""Points that a table shows."""
SLOW = ("best-swaps", "flashlb-swaps")
"""Minutes where there are many steps of many slots."""


@dataclass(frozen=True)
class Machine:
    """Sizes."""

    slots: int
    ranks: int
    groups: int = 1
    nodes: int = 1

    def __str__(self) -> str:
        where = f", {self.groups} groups on {self.nodes} nodes" if self.nodes > 1 else ""
        return f"({self.slots}, {self.ranks}){where}"

    def place(self, policy: Place, loads: Tensor) -> Tensor:
        """[L, P]."""
        return policy(loads, self.slots, self.groups, self.nodes, self.ranks)

    def losses(self, loads: Tensor, phy2log: Tensor) -> NDArray[np.float64]:
        """In %, of each step and layer [T, L]."""
        return self.relative(even_makespans(loads, phy2log, self.ranks), loads.sum(2))

    def served(self, loads: Sequence[Tensor], placed: Sequence[Tensor]) -> NDArray[np.float64]:
        """In %, of each layer [L] over the steps that each placement serves."""
        pairs = list(zip(loads, placed, strict=True))
        makespans = [even_makespans(steps, phy2log, self.ranks).sum(0) for steps, phy2log in pairs]
        return self.relative(sum(makespans), sum(steps.sum((0, 2)) for steps in loads))

    def relative(self, makespans: Tensor, tokens: Tensor) -> NDArray[np.float64]:
        """Loss in % of makespans that are spent on so many tokens."""
        return ((makespans * self.ranks / tokens - 1) * 100).numpy()


def policies(options: argparse.Namespace, *left_out: str) -> dict[str, Place]:
    rivals = {name: RIVALS[name] for name in options.rivals if name not in left_out}
    ours = {f"{OURS}:{effort}": partial(robust, effort=effort) for effort in options.efforts}
    return rivals | ours


def timed(machine: Machine, policy: Place, loads: Sequence[Tensor]) -> tuple[list[Tensor], float]:
    """Placements on several traces, and seconds of CPU of one."""
    machine.place(policy, loads[0][:2, :1])  # compiles
    start = time.process_time()
    placed = [machine.place(policy, steps) for steps in loads]
    return placed, (time.process_time() - start) / len(loads)


def header(first: str, *names: str) -> None:
    print(f"\n| {first} | {' | '.join(names)} |\n|---|{'--:|' * len(names)}", flush=True)


def row(name: str, *cells: float | str) -> None:
    shown = [cell if isinstance(cell, str) else f"{cell:.2f}" for cell in cells]
    print(f"| {name} | {' | '.join(shown)} |", flush=True)


class Behind:
    """Counts the layers in which a rival is better, as rivals and then ours are told."""

    def __init__(self) -> None:
        self.least: NDArray[np.float64] | None = None

    def of(self, name: str, losses: NDArray[np.float64]) -> str:
        """The cell of a policy with losses [L]."""
        if name.startswith(OURS):
            return "" if self.least is None else str((losses > self.least + SHOWN).sum())
        self.least = losses if self.least is None else np.minimum(self.least, losses)
        return ""


# Recordings --------------------------------------------------------------------------------------


def recorded(options: argparse.Namespace) -> Tensor:
    """[5, L, 256] of the layers with load, each step's total 1,000,000."""
    found = []
    for name in RECORDINGS:
        document = json.loads((options.data / "deepseek_v3" / f"{name}.json").read_text())
        found.append(np.array(document["logical_count"], np.float64).reshape(-1, 61, 256).sum(0))
    loads = torch.from_numpy(np.stack(found))[:, 3:][:, : options.layers]
    return loads / loads.sum(2, keepdim=True) * 1e6


def recordings(options: argparse.Namespace) -> None:
    loads = recorded(options)
    parts = [torch.arange(5) != left for left in range(5)]
    for machine in options.machines:
        header(f"{machine}", "mean", "worst", "left out", "worst", "behind", "seconds")
        behind = Behind()
        for name, policy in policies(options, *(GLOBAL_ONLY if machine.nodes > 1 else ())).items():
            (placed,), seconds = timed(machine, policy, [loads])
            seen = machine.losses(loads, placed)
            others = [machine.place(policy, loads[kept]) for kept in parts]
            out = [machine.losses(loads[~kept], p) for kept, p in zip(parts, others, strict=True)]
            left = np.concatenate(out)
            cells = [seen.mean(), seen.max(0).mean(), left.mean(), left.max(0).mean()]
            row(f"`{name}`", *cells, behind.of(name, seen.mean(0)), seconds)


# gpt-oss-20b -------------------------------------------------------------------------------------

Case = tuple[Tensor, Tensor]
"""Steps to place on and steps to serve, both [T, L, E]."""


def compare(
    name: str, machine: Machine, cases: Sequence[Case], options: argparse.Namespace, recent: int
) -> None:
    """A line for each policy; those of one sum see the ``recent`` last steps."""
    cut = [(a[:, : options.layers], b[: options.steps, : options.layers]) for a, b in cases]
    served, behind, refined = [after for _, after in cut], Behind(), np.nan
    for policy, place in policies(options).items():
        last = recent if policy in BALANCED else None
        seen = [before[-last:] if last else before for before, _ in cut]
        placed, seconds = timed(machine, place, seen)
        found = machine.served(served, placed).mean()
        refined = found if policy == "refined" else refined
        below = f"{(1 - found / refined) * 100:.1f}" if np.isfinite(refined) else ""
        on_seen = machine.served([before for before, _ in cut], placed)
        cells = [found, below, on_seen.mean(), behind.of(policy, on_seen), seconds]
        row(f"{name}, `{policy}`", *cells)


COLUMNS = ("served", "% below `refined`", "seen", "behind", "seconds")


def gpt_oss(options: argparse.Namespace, order: str) -> tuple[Tensor, NDArray[np.int8]]:
    steps, chosen = steps_of(read_routing(options.data / "gpt_oss_20b_tokens.npz"), 64, order)
    return steps.double(), chosen


def decode(options: argparse.Namespace) -> None:
    """The cases of the yardstick: the 512 steps before, 256 for a policy of one sum."""
    header("64 tokens a step", *COLUMNS)
    for name, order in (("steady", "shuffled"), ("topics", "topic")):
        steps, chosen = gpt_oss(options, order)
        for slots in (40, 48):
            cases = [(task.seen, task.served) for task in replay(steps, chosen, slots)]
            compare(f"{name}, {slots} slots", Machine(slots, RANKS), cases, options, 256)


def windows(options: argparse.Namespace) -> None:
    """16 steps joined, placed before windows 32, 48 and 64 on the 32 before."""
    steps = gpt_oss(options, "topic")[0]
    joined = steps[: len(steps) // 16 * 16].unflatten(0, (-1, 16)).sum(1)
    cases = [(joined[at - 32 : at], joined[at : at + 16]) for at in (32, 48, 64)]
    header("windows of 1,024 tokens", *COLUMNS)
    for slots in (40, 48):
        machine = Machine(slots, RANKS)
        compare(f"{slots} slots", machine, cases, options, 32)
        for last in (16, 8) if "refined" in options.rivals else ():
            seen = [before[-last:, : options.layers] for before, _ in cases]
            served = [after[: options.steps, : options.layers] for _, after in cases]
            placed, seconds = timed(machine, RIVALS["refined"], seen)
            found = machine.served(served, placed).mean()
            row(f"{slots} slots, `refined`, last {last}", found, "", "", "", seconds)


# Objectives --------------------------------------------------------------------------------------


def objectives(options: argparse.Namespace) -> None:
    names = [f"{part} {objective}" for part in ("seen", "served") for objective in OBJECTIVES]
    header("placed for", *names, "seconds")
    loads = recorded(options)
    kept = [torch.arange(5) != left for left in range(5)]
    left_out = [(loads[part], loads[~part]) for part in kept]
    valued("recordings", Machine(288, 32), left_out, options)
    for name, order in (("steady", "shuffled"), ("topics", "topic")):
        tasks = replay(*gpt_oss(options, order), 40)
        layers = slice(options.layers)
        cases = [(task.seen[:, layers], task.served[: options.steps, layers]) for task in tasks]
        valued(f"{name}, 40 slots", Machine(40, RANKS), cases, options)


def valued(name: str, machine: Machine, cases: Sequence[Case], options: argparse.Namespace) -> None:
    """Of all steps that the placements of a layer serve, or saw, over the mean of a step."""
    variants: dict[str, Place] = {"refined": RIVALS["refined"]}
    for effort in options.efforts:
        for objective in OBJECTIVES:
            variants[f"{effort}, {objective}"] = partial(robust, effort=effort, objective=objective)
    for variant, place in variants.items():
        placed, seconds = timed(machine, place, [before for before, _ in cases])
        cells = []
        for part in (0, 1):
            found = [machine.losses(case[part], p) for case, p in zip(cases, placed, strict=True)]
            losses = torch.from_numpy(np.concatenate(found))
            cells += [float(over_steps(losses, objective).mean()) for objective in OBJECTIVES]
        row(f"{name}, `{variant}`", *cells, seconds)


# Speed -------------------------------------------------------------------------------------------


def speed(options: argparse.Namespace) -> None:
    """Steps drawn as those of the yardstick, and 24 others served; recordings serve themselves."""
    machine, loads = Machine(288, 32), recorded(options)
    layers = range(3, 61)[: options.layers]
    task = full_scale(full_scale_weights(options.data), layers)
    drawn, served = task.seen.double(), task.served.double()
    header("layers x steps", "seconds", "seen", "served")
    for seen, after in ((loads, None), (drawn[:64], served), (drawn, served)):
        for name, place in policies(options, *(SLOW if len(seen) > 64 else ())).items():
            (placed,), seconds = timed(machine, place, [seen])
            cell = "" if after is None else float(machine.losses(after, placed).mean())
            lost = float(machine.losses(seen, placed).mean())
            row(f"{len(layers)} x {len(seen):,}, `{name}`", seconds, lost, cell)


# Optima ------------------------------------------------------------------------------------------


def optima(options: argparse.Namespace) -> None:
    """Excess over the optimum, or where it is not proven over the lower bound, in %."""
    known = Optima(options.cache, options.seconds, "even")
    chosen = policies(options)
    header("(E, P, G), steps, loads", "proven", "loss", *(f"`{name}`" for name in chosen))
    for size in SIZES:
        for steps in (4, 16):
            for family in FAMILIES:
                loads = trace(family, options.number, size[0], options.data)[:steps]
                brackets = known.of(f"{family}, {steps} steps", size, loads)
                lower = np.array([float(b.lower_bound) for b in brackets])
                mean = loads.sum(2).mean(0) / size[2]
                cells = [
                    excess(place, torch.from_numpy(loads), size, lower) for place in chosen.values()
                ]
                proven = sum(b.proven for b in brackets)
                loss = float((lower / mean - 1).mean()) * 100
                row(f"{size}, {steps}, {family}", f"{proven} of {len(lower)}", loss, *cells)


def excess(
    place: Place, loads: Tensor, size: tuple[int, int, int], lower: NDArray[np.float64]
) -> str:
    """Mean and max over the layers, and how many are at the bound."""
    _, slots, ranks = size
    placed = place(loads.double(), slots, 1, 1, ranks)
    found = even_makespans(loads, placed, ranks).mean(0).numpy()
    above = (found / lower - 1) * 100
    if above.min() < -1e-9:
        raise RuntimeError(f"{found} is below a proven bound of {lower}")
    return f"{above.mean():.2f} / {above.max():.2f}, {int((above < 1e-9).sum())}"


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "recordings": recordings,
    "decode": decode,
    "windows": windows,
    "objectives": objectives,
    "speed": speed,
    "optima": optima,
}


def some(known: Sequence[str]) -> Callable[[str], list[str]]:
    """How a list of names, or ``none``, is read."""

    def read(words: str) -> list[str]:
        names = [] if words == "none" else words.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not of {', '.join(known)}")
        return [name for name in known if name in names]

    return read


def machine_of(words: str) -> Machine:
    return Machine(*map(int, words.split(",")))


def main() -> None:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("part", choices=PARTS, help="table, see above")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of recordings")
    parser.add_argument("--efforts", type=some(EFFORTS), default=list(EFFORTS), help="some")
    parser.add_argument("--rivals", type=some(list(RIVALS)), default=list(RIVALS), help="some")
    parser.add_argument("--layers", type=int, help="the first so many")
    parser.add_argument("--steps", type=int, help="at most so many served for each placement")
    machines = [Machine(*sizes) for sizes in MACHINES]
    parser.add_argument("--machines", type=machine_of, nargs="+", default=machines)
    parser.add_argument("--number", type=int, default=10, help="small layers of a family")
    parser.add_argument("--seconds", type=float, default=10, help="of a proof of a small layer")
    parser.add_argument("--cache", type=Path, help="file of proven optima")
    options = parser.parse_args()
    torch.set_num_threads(1)
    PARTS[options.part](options)


if __name__ == "__main__":
    main()
