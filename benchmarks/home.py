"""The rule ``home``: balance and traffic of placements between hierarchical and global.

    python benchmarks/home.py recordings   # the frontier of five recordings, (256,288,32)
    python benchmarks/home.py shapes       # other machines, generated loads
    python benchmarks/home.py rivals       # the policy beside simple ways, home_rivals.py
    python benchmarks/home.py steps        # the recordings as steps: policies that look at each
    python benchmarks/home.py speed        # seconds beside refined under the hierarchical rule

``--layers 6`` takes every sixth layer, ``--limits 0.05,0.1`` other limits of traffic, ``--policy
robust`` another policy under ``home``, or a rival (of ``steps`` several, by commas). Recordings are
looked for in ``--data``, ``$EPLB_RECORDED_LOADS`` or ``../shared/data``.

Bound and loss are over the mean rank load, "above" is the distance to the bound over the bound, all
in %; mean and most over layers. Traffic in % of a layer's tokens. Seconds are of CPU, one thread,
all layers in one call, the least of three, over those of ``refined`` under the hierarchical rule.
Under the other rules the policy is ``refined``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from home_rivals import RIVALS
from numpy.typing import NDArray
from torch import Tensor
from yardstick import DATA

from eplb_opt import Instance, Topology, bounds
from eplb_opt.io.synthetic import FAMILIES, generate
from eplb_opt.problem.homes import traffic
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import layer_violation, over_limit
from heuristics import rebalance_experts
from heuristics.makespan import makespans
from solvers.dispatch import value

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RECORDINGS = (
    "decode_in1800out100",
    "decode_in2000out100",
    "prefill_in1024",
    "prefill_in1800out100",
    "prefill_in2048",
)
LIMITS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 1.0)


@dataclass(frozen=True)
class Machine:
    """Sizes."""

    slots: int = 288
    ranks: int = 32
    nodes: int = 4
    groups: int = 8

    def __str__(self) -> str:
        return f"{self.slots} slots, {self.ranks} ranks, {self.groups} groups, {self.nodes} nodes"

    @property
    def topology(self) -> Topology:
        """The same for an instance."""
        return Topology(self.slots, self.ranks, self.nodes, self.groups)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """As arguments of a policy."""
        return self.slots, self.groups, self.nodes, self.ranks


@dataclass(frozen=True)
class Under:
    """A rule and its limit of traffic."""

    rule: str
    limit: float = 1.0

    def __str__(self) -> str:
        return self.rule if self.rule != "home" else f"home, {self.limit:g}"

    def instance(self, loads: Ints | Floats, machine: Machine) -> Instance:
        """With its limit."""
        return Instance(loads, machine.topology, Rule(self.rule), traffic_limit=self.limit)

    def place(self, loads: Ints, machine: Machine, policy: str) -> Tensor:
        """[L, P], by a policy or, under the rule ``home``, one of ``RIVALS``."""
        weight = torch.from_numpy(loads).double()
        if self.rule == "home" and policy in RIVALS:
            return RIVALS[policy](weight, *machine.sizes, self.limit)
        limit = {"traffic": self.limit} if self.rule == "home" else {}
        return rebalance_experts(weight, *machine.sizes, policy=policy, rule=self.rule, **limit)[0]


MACHINES = (Machine(320), Machine(nodes=8), Machine(320, 64), Machine(320, 64, 8))
HIERARCHICAL, GLOBAL = Under("hierarchical"), Under("global")


def rules(limits: Sequence[float]) -> list[Under]:
    return [HIERARCHICAL, *(Under("home", limit) for limit in limits), GLOBAL]


def header(first: str, *names: str) -> None:
    print(f"\n| {first} | {' | '.join(names)} |\n|---|{'--:|' * len(names)}", flush=True)


def row(name: str, *cells: float | str) -> None:
    shown = [cell if isinstance(cell, str) else f"{cell:.2f}" for cell in cells]
    print(f"| {name} | {' | '.join(shown)} |", flush=True)


def spread(values: Sequence[float] | NDArray[np.float64]) -> str:
    """Mean and most, in %."""
    return f"{np.mean(values) * 100:.2f} / {np.max(values) * 100:.2f}"


def timed(place: Callable[[], Tensor], repeats: int = 3) -> tuple[Tensor, float]:
    """The placement and the least seconds of CPU."""
    found, seconds = place(), []
    for _ in range(repeats):
        start = time.process_time()
        place()
        seconds.append(time.process_time() - start)
    return found, min(seconds)


@dataclass(frozen=True)
class Measured:
    """Of each layer, [L]: over the mean rank load the bound and the makespan, and the traffic."""

    bound: Floats
    makespan: Floats
    traffic: Floats

    @property
    def cells(self) -> list[str]:
        """As ``COLUMNS``."""
        above = self.makespan / self.bound - 1
        return [spread(cell) for cell in (self.bound - 1, self.makespan - 1, above, self.traffic)]


COLUMNS = ("bound", "loss", "above", "traffic")


@cache
def bound(layer: Layer, objective: str = "sum", dispatch: str = "even") -> Fraction:
    return bounds.of(layer, objective, dispatch).value


def measure(instance: Instance, placed: Tensor) -> Measured:
    """Checks the placements, too.

    Raises:
        RuntimeError: one breaks the rule or its limit, or is below the bound.
    """
    ranks, loads = instance.topology.num_ranks, torch.tensor(instance.loads).double()
    lower, away = [], []
    for layer, phy2log in zip(instance.layers(), placed.tolist(), strict=True):
        if wrong := layer_violation(layer, phy2log) or over_limit(layer, phy2log):
            raise RuntimeError(f"{instance}, layer {layer.index}: {wrong}")
        lower.append(float(bound(layer)))
        away.append(float(traffic(layer, phy2log, present=False) or 0))
    mean = (loads.sum(1) / ranks).numpy()
    found = Measured(
        np.array(lower) / mean, makespans(loads, placed, ranks).numpy() / mean, np.array(away)
    )
    if (found.makespan < found.bound - 1e-9).any():
        raise RuntimeError(f"{instance}: a placement is below the bound")
    return found


# Frontiers ---------------------------------------------------------------------------------------


def recorded(options: argparse.Namespace) -> dict[str, Ints]:
    """[L, 256] of the layers with load, by recording."""
    found = {}
    for name in RECORDINGS:
        document = json.loads((options.data / "deepseek_v3" / f"{name}.json").read_text())
        loads = np.array(document["logical_count"], np.int64).reshape(-1, 61, 256).sum(0)
        found[name] = loads[3 :: options.layers]
    return found


def frontier(name: str, loads: Ints, machine: Machine, options: argparse.Namespace) -> None:
    """A row by rule and limit."""
    usual = timed(partial(HIERARCHICAL.place, loads, machine, "refined"))[1]
    for under in rules(options.limits):
        policy = options.policy if under.rule == "home" else "refined"
        placed, seconds = timed(partial(under.place, loads, machine, policy))
        measured = measure(under.instance(loads, machine), placed)
        row(f"{name}, {under}", *measured.cells, f"{seconds / usual:.1f}")


def recordings(options: argparse.Namespace) -> None:
    header("recording, rule", *COLUMNS, "time")
    for name, loads in recorded(options).items():
        frontier(name, loads, Machine(), options)


def shapes(options: argparse.Namespace) -> None:
    """The mildest and the most skewed recording on other machines; generated loads."""
    header("loads, machine, rule", *COLUMNS, "time")
    loads = recorded(options)
    for machine in MACHINES:
        for name in ("prefill_in1024", "prefill_in2048"):
            frontier(f"{name}, {machine}", loads[name], machine, options)
    for family in FAMILIES:
        sizes = {"num_layers": 58, "num_experts": 256, "tokens": 2**20, "seed": 0}
        drawn = generate(family, **sizes)[:: options.layers]
        frontier(family, drawn, Machine(), options)


def rivals(options: argparse.Namespace) -> None:
    header("recording, limit, way", *COLUMNS, "seconds")
    for name, loads in recorded(options).items():
        for limit in options.limits:
            under, machine = Under("home", limit), Machine()
            for way in (*RIVALS, options.policy):
                placed, seconds = timed(partial(under.place, loads, machine, way), 1)
                measured = measure(under.instance(loads, machine), placed)
                row(f"{name}, {limit:g}, `{way}`", *measured.cells, seconds)


# Steps -------------------------------------------------------------------------------------------


def steps(options: argparse.Namespace) -> None:
    """The recordings as steps of equal weight: bound and value are means over steps, and the
    traffic is that of replicas sharing alike.
    """
    loads = np.stack(list(recorded(options).values())).astype(np.float64)
    loads *= 1e6 / loads.sum(2, keepdims=True)
    header("dispatch, rule, policy", "bound", "loss", "traffic", "seconds")
    for dispatch, under in product(("even", "optimal"), rules(options.limits)):
        instance = under.instance(loads, Machine())
        mean = loads.sum(2).mean(0) / 32
        lower = [float(bound(layer, "mean", dispatch)) for layer in instance.layers()]
        for policy in options.policy.split(","):
            placed, seconds = timed(partial(under.place, loads, Machine(), policy), 1)
            found, away = [], []
            for layer, phy2log in zip(instance.layers(), placed.tolist(), strict=True):
                bracket = value(layer, phy2log, "mean", dispatch)
                found.append(float(bracket.value))
                away.append(float(traffic(layer, phy2log, present=False) or 0))
            cells = [spread(np.array(part) / mean - 1) for part in (lower, found)]
            row(f"{dispatch}, {under}, `{policy}`", *cells, spread(away), seconds)


def speed(options: argparse.Namespace) -> None:
    """Of 58 generated layers."""
    header("machine, rule", "seconds", "over `refined`")
    for machine in (Machine(), *MACHINES):
        loads = generate("deepseek-v3", num_layers=58, num_experts=256, tokens=2**20, seed=0)
        usual = timed(partial(HIERARCHICAL.place, loads, machine, "refined"), 7)[1]
        for under in rules(options.limits):
            policy = options.policy if under.rule == "home" else "refined"
            seconds = timed(partial(under.place, loads, machine, policy), 7)[1]
            row(f"{machine}, {under}", f"{seconds:.4f}", f"{seconds / usual:.1f}")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "recordings": recordings,
    "shapes": shapes,
    "rivals": rivals,
    "steps": steps,
    "speed": speed,
}


def options_of(description: str | None) -> argparse.ArgumentParser:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=as_written)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of recordings")
    parser.add_argument("--layers", type=int, default=1, help="every so manieth layer")
    parser.add_argument("--policy", default="refined", help="name, of steps names by commas")
    parser.add_argument("--limits", type=numbers, default=list(LIMITS), help="of traffic")
    return parser


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("part", choices=PARTS, help="table, see above")
    options = parser.parse_args()
    torch.set_num_threads(1)
    PARTS[options.part](options)


def numbers(words: str) -> list[float]:
    return [float(word) for word in words.split(",")]


if __name__ == "__main__":
    main()
