"""The dispatcher's shares beside the exact optimum: quality against sweeps, and time.

    python benchmarks/dispatcher_quality.py sweeps
    python benchmarks/dispatcher_quality.py methods
    python benchmarks/dispatcher_quality.py fixed
    python benchmarks/dispatcher_quality.py speed

Excess of the makespan over the optimum, in % of the mean rank load: 99th percentile / maximum over
dispatches. Drawn steps: lognormal expected loads (sigma 1), each step times exp(0.2 z), multinomial
counts of 2, 8 and 128 tokens an expert, placed on the expected loads. ``sweeps`` also takes the
recorded decode steps where they are: placed on 256 steps (the ring on 512), the 256 after them
served. ``methods``: water-filling, expert by expert, in place of the interior-point method. On one
thread.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.sparse import coo_array, hstack
from torch import Tensor

from eplb_opt import Instance, Topology
from heuristics.dispatch import fixed_shares, shares
from heuristics.dispatch.interior_point import SWEEPS
from heuristics.dispatch.slots import even_shares, expert_loads, rank_loads
from heuristics.policies import deepseek
from heuristics.refined import refined
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


def ring(weight: Tensor, num_ranks: int) -> Tensor:
    """LPT without redundancy, then each rank's heaviest expert on the next rank too, [L, P]."""
    layers, experts = weight.shape
    own = deepseek(weight, experts, 1, 1, num_ranks).view(layers, num_ranks, -1)
    heaviest = weight.gather(1, own.flatten(1)).view_as(own).argmax(2, keepdim=True)
    return torch.cat([own, own.gather(2, heaviest).roll(1, 1)], 2).flatten(1)


def place(policy: str, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """[L, P] for loads [L, E] at (E, P, G)."""
    if policy == "ring":
        return ring(weight, shape[2])
    return {"deepseek": deepseek, "refined": refined}[policy](weight, shape[1], 1, 1, shape[2])


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


def linear_program(case: Served, step: int) -> float:
    """The optimum of a step of the first layer, by HiGHS with sparse matrices."""
    slots, loads = case.phy2log[0].numpy(), case.loads[step, 0].double().numpy()
    index, last = np.arange(len(slots)), np.ones(case.num_ranks)
    rank = index * case.num_ranks // len(slots)
    of_ranks = hstack([coo_array((loads[slots], (rank, index))), -last[:, None]])
    sums = coo_array((np.ones(len(slots)), (slots, index)), (len(loads), len(slots) + 1))
    cost = np.r_[np.zeros(len(slots)), 1.0]
    found = linprog(cost, of_ranks, np.zeros(case.num_ranks), sums, np.ones(len(loads)))
    return float(found.fun)


def seconds(run: Callable[[], object]) -> float:
    """Of the faster of two runs."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def speed(steps: int) -> None:
    """Microseconds a dispatch: one step of one layer."""
    print(f"{'':28}{'ours':>9}{'max-flow':>10}{'LP':>9}")
    for policy, shape in (("deepseek", (32, 40, 8)), ("deepseek", (256, 288, 32)),
                          ("ring", (256, 288, 32)), ("ring", (288, 360, 72))):  # fmt: skip
        case = drawn(policy, shape, 128, steps, layers=1)
        loads, held = case.loads[:, 0].numpy(), holders(case.phy2log[0].tolist(), *shape[::2])
        ours = seconds(partial(shares, case.loads, case.phy2log, case.num_ranks)) / steps
        exact = seconds(lambda w=loads, h=held: optimal_makespans(classes_of(w, h))) / steps
        few = seconds(lambda c=case: [linear_program(c, step) for step in range(16)]) / 16
        print(f"{case.name:28}{1e6 * ours:9.0f}{1e6 * exact:10.0f}{1e6 * few:9.0f}", flush=True)


TABLES = {"sweeps": sweeps, "methods": methods, "fixed": fixed, "speed": speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--steps", type=int, default=128, help="drawn, for each of four layers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    TABLES[arguments.table](arguments.steps)


if __name__ == "__main__":
    main()
