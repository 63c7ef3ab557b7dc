"""The dispatcher's shares beside the exact optimum: quality against sweeps.

    python benchmarks/dispatcher_quality.py sweeps
    python benchmarks/dispatcher_quality.py families
    python benchmarks/dispatcher_quality.py methods
    python benchmarks/dispatcher_quality.py fixed

Excess of the makespan over the optimum, in % of the mean rank load: 99th percentile / maximum over
dispatches. Drawn steps: lognormal expected loads (sigma 1), each step times exp(0.2 z), multinomial
counts of 2, 8 and 128 tokens an expert, placed on the expected loads. ``sweeps`` also takes the
recorded decode steps where they are: placed on 256 steps (the ring on 512), the 256 after them
served. ``families``: the worst of 1 to 8 experts and 1 to 4 copies a rank on 8 to 72 ranks.
``methods``: water-filling, expert by expert, in place of the interior-point method. On one thread.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eplb_opt import Instance, Topology
from heuristics.dispatch import fixed_shares, shares
from heuristics.dispatch.interior_point import SWEEPS
from heuristics.dispatch.slots import even_shares, expert_loads, rank_loads
from heuristics.policies import placer
from solvers.dispatch import value
from solvers.dispatch.classes import classes_of, holders
from solvers.dispatch.optimal import optimal_makespans

SHAPES = [(32, 40, 8), (32, 48, 8), (64, 80, 16), (256, 288, 32), (256, 320, 64), (256, 288, 72)]
RINGS = [(32, 40, 8), (64, 80, 16), (256, 288, 32), (256, 320, 64), (288, 360, 72)]
TOKENS = (2, 8, 128)
"""Per expert and step."""
NUMBERS = (0, 3, 4, 5, 6, SWEEPS, 8, 12)
DATA = Path(os.environ.get("EPLB_RECORDED_LOADS", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Served:
    """Steps served on a placement: loads [T, L, E], phy2log [L, P], optima [T, L]."""

    name: str
    loads: Tensor
    phy2log: Tensor
    num_ranks: int
    optima: Tensor

    def costs(self, found: Tensor) -> Tensor:
        """[T, L] makespans with shares [T, L, P] or [L, P]."""
        tokens = expert_loads(self.loads.double(), self.phy2log) * found
        return rank_loads(tokens, self.num_ranks).amax(-1)

    def excess(self, found: Tensor) -> Tensor:
        """Of each dispatch with load over its optimum, in % of the mean rank load."""
        mean = self.loads.double().sum(-1) / self.num_ranks
        return (100 * (self.costs(found) - self.optima) / mean)[mean > 0]


def show(percent: Tensor) -> str:
    """99th percentile / maximum."""
    return f"{percent.quantile(0.99):6.3f} /{percent.max():6.2f}"


def place(policy: str, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """[L, P] for loads [L, E] at (E, P, G)."""
    name = "lplb-graph:ring" if policy == "ring" else policy
    return placer(name)(weight, shape[1], 1, 1, shape[2])


def serve(name: str, loads: np.ndarray, phy2log: Tensor, num_ranks: int) -> Served:
    optima = np.zeros(loads.shape[:2])
    for layer, slots in enumerate(phy2log.tolist()):
        steps = loads[:, layer].astype(np.int64)
        found = optimal_makespans(classes_of(steps, holders(slots, loads.shape[2], num_ranks)))
        optima[:, layer] = found.loads / found.critical.sum(1)
    return Served(name, torch.from_numpy(loads), phy2log, num_ranks, torch.from_numpy(optima))


def drawn(policy: str, shape: Sequence[int], tokens: int, steps: int, layers: int = 4) -> Served:
    """``tokens`` an expert and step."""
    generator = np.random.default_rng(sum(shape) + tokens)
    expected = np.exp(generator.normal(size=(layers, shape[0])))
    parts = expected * np.exp(0.2 * generator.normal(size=(steps, *expected.shape)))
    parts /= parts.sum(-1, keepdims=True)
    loads = generator.multinomial(tokens * shape[0], parts)
    phy2log = place(policy, torch.tensor(expected, dtype=torch.float32), shape)
    return serve(f"{policy} {tuple(shape)}", loads, phy2log, shape[2])


def recorded() -> Iterator[list[Served]]:
    path = DATA / "gpt_oss_20b_decode64.npz"
    if not path.is_file():
        return
    for name, trace in np.load(path).items():
        steps = trace[512:768].astype(np.int64)
        for policy, slots, window in (
            ("deepseek", 40, 256), ("refined", 40, 256), ("ring", 40, 512), ("deepseek", 48, 256)
        ):  # fmt: skip
            past = torch.tensor(trace[512 - window : 512].sum(0), dtype=torch.float32)
            phy2log = place(policy, past, (32, slots, 8))
            yield [serve(f"{policy} {(32, slots, 8)} {name}", steps, phy2log, 8)]


def cases(steps: int) -> Iterator[list[Served]]:
    for policy, shapes in (("deepseek", SHAPES), ("refined", SHAPES), ("ring", RINGS)):
        for shape in shapes:
            yield [drawn(policy, shape, tokens, steps) for tokens in TOKENS]
    yield from recorded()


def sweeps(steps: int) -> None:
    print(f"{'sweeps':28}" + "".join(f"{number:>16}" for number in NUMBERS))
    for row in cases(steps):
        percent = [
            torch.cat([c.excess(shares(c.loads, c.phy2log, c.num_ranks, sweeps=n)) for c in row])
            for n in NUMBERS
        ]
        print(f"{row[0].name:28}" + "  ".join(show(each) for each in percent), flush=True)


def families(steps: int) -> None:
    """The worst of all shapes by sweeps: 99th percentile, largest, dispatches above 0.2 %."""
    print(f"{'worst of all':20}{'99 %':>8}{'largest':>9}{'above 0.2 %':>13}")
    found: dict[int, list[Tensor]] = {number: [] for number in (5, 6, SWEEPS, 8)}
    for policy, ranks, experts, copies, tokens in product(
        ("deepseek", "refined"), (8, 16, 24, 32, 48, 72), (1, 2, 4, 8), (1, 2, 4), (2, 16, 128)
    ):
        if ranks * experts > 320:
            continue
        case = drawn(policy, (ranks * experts, ranks * (experts + copies), ranks), tokens, steps, 3)
        for number, each in found.items():
            each.append(case.excess(shares(case.loads, case.phy2log, ranks, sweeps=number)))
    for number, each in found.items():
        worst = max(float(one.quantile(0.99)) for one in each)
        together = torch.cat(each)
        above = 100 * float((together > 0.2).double().mean())
        print(
            f"{f'{number} sweeps':20}{worst:8.3f}{together.max():9.3f}{above:11.3f} %", flush=True
        )
    print(f"{len(each)} rows of {len(each[0])} dispatches at most")


def water_filling(case: Served, number: int, relaxation: float) -> Tensor:
    """[T, L, P]: the loads of the ranks of one expert are made equal, expert after expert.

    A change is ``relaxation`` times as large as equal loads need, but in the last two sweeps.
    """
    even = even_shares(case.phy2log, case.loads.shape[-1]).double()
    found = even.expand(*case.loads.shape[:-1], -1).clone()
    tokens = expert_loads(case.loads.double(), case.phy2log)
    per_rank = case.phy2log.shape[1] // case.num_ranks
    for sweep in range(number):
        for expert in range(case.loads.shape[-1]):
            for layer in (case.phy2log == expert).sum(1).gt(1).nonzero()[:, 0].tolist():
                slots = (case.phy2log[layer] == expert).nonzero()[:, 0]
                load = rank_loads(tokens[:, layer] * found[:, layer], case.num_ranks)
                own = case.loads[:, layer, expert, None].double()
                now = found[:, layer][:, slots]
                other = load[:, slots // per_rank] - own * now
                order = other.sort(-1).values
                counts = torch.arange(1, len(slots) + 1)
                level = ((own + order.cumsum(-1)) / counts).amin(-1, keepdim=True)
                best = (level - other).clamp(min=0) / own.clamp(min=1e-9)
                factor = relaxation if sweep < number - 2 else 1.0
                moved = (now + factor * (best - now)).clamp(min=0)
                moved = moved / moved.sum(-1, keepdim=True).clamp(min=1e-9)
                found[:, layer, slots] = torch.where(own > 0, moved, now)
    return found


def methods(steps: int) -> None:
    print(f"{'':28}{'interior point':>18}{'water-filling, 10':>18}{'20':>15}{'50':>15}"
          f"{'over-relaxed, 10':>18}{'20':>15}")  # fmt: skip
    for policy, shape in (
        ("deepseek", (32, 40, 8)), ("ring", (32, 40, 8)),
        ("deepseek", (256, 288, 32)), ("ring", (256, 288, 32)),
    ):  # fmt: skip
        case = drawn(policy, shape, 8, steps, layers=1)
        found = [shares(case.loads, case.phy2log, case.num_ranks)]
        found += [water_filling(case, number, 1.0) for number in (10, 20, 50)]
        found += [water_filling(case, number, 1.5) for number in (10, 20)]
        print(f"{case.name:28}" + "   ".join(show(case.excess(each)) for each in found), flush=True)


def fixed(_: int) -> None:
    """Mean makespan over that of the best fixed shares, in % of the mean rank load."""
    print(f"{'':28}{'even':>9}{'ours':>9}{'per step':>10}{'s':>9}{'LP s':>9}")
    for policy in ("deepseek", "refined", "ring"):
        for shape, steps in (((32, 40, 8), 64), ((256, 288, 32), 48), ((256, 288, 32), 192)):
            case = drawn(policy, shape, 8, steps, layers=1)
            layer = Instance(case.loads.numpy(), Topology(*shape[1:])).layer(0)
            start = time.perf_counter()
            best = float(value(layer, tuple(case.phy2log[0].tolist()), "mean", "fixed").bound)
            program = time.perf_counter() - start
            start = time.perf_counter()
            found = fixed_shares(case.loads, case.phy2log, case.num_ranks)
            seconds = time.perf_counter() - start
            mean = case.loads.sum() / steps / case.num_ranks
            even = case.costs(even_shares(case.phy2log, shape[0]))
            free = case.optima
            percent = [
                100 * (each.mean() - best) / mean for each in (even, case.costs(found), free)
            ]
            print(f"{case.name + f' x {steps}':28}{percent[0]:9.3f}{percent[1]:9.4f}"
                  f"{percent[2]:10.2f}{seconds:9.3f}{program:9.3f}", flush=True)  # fmt: skip


TABLES = {"sweeps": sweeps, "families": families, "methods": methods, "fixed": fixed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--steps", type=int, default=128, help="drawn, for each of four layers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    TABLES[arguments.table](arguments.steps)


if __name__ == "__main__":
    main()
