"""What a placement costs after the loads changed, by how many transfers mend it.

``python benchmarks/migration.py LOADS`` places a recording of loads, multiplies the loads by
``exp(noise N(0, 1))``, and prints by method the makespan over the best known (the lightest of a
thorough ``refined`` and all others, layer by layer) and the transfers of a layer, under both
rules. ``--exact SECONDS`` compares with proven numbers on smaller layers instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from eplb_opt import Instance, Topology
from eplb_opt.certificate import TooLargeToCheckError, needs_transfers
from eplb_opt.io import read_loads
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.transfer import count_copies, count_transfers
from heuristics.makespan import makespans
from heuristics.migration import migrate
from heuristics.policies import refined
from heuristics.replication import count_replicas
from solvers.dispatch import value
from solvers.migration import fewest_transfers, relabel

SHAPES = {"global": (288, 1, 1, 32), "hierarchical": (288, 8, 4, 32)}
"""(slots, groups, nodes, ranks)"""
BUDGETS = (5, 10, 20, 40)


def read_recording(path: str, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Loads [L, E] of the layers with load, and the same with noise."""
    loads = read_loads(path).loads
    loads = torch.from_numpy(np.array(loads.sum(0) if loads.ndim == 3 else loads, dtype=float))
    loads = loads[loads.sum(1) > 0]
    normal = np.random.default_rng(seed).standard_normal(tuple(loads.shape))
    return loads, loads * torch.from_numpy(np.exp(noise * normal))


def repack(now: Tensor, old: Tensor, num_ranks: int) -> Tensor:
    """The rival design (global rule): fresh counts; what still has a place stays, the rest goes
    where room is, largest first.
    """
    fresh = refined(now, old.shape[1], 1, 1, num_ranks)
    counts = count_replicas(fresh, now.shape[1])
    per_rank, placed = old.shape[1] // num_ranks, old.clone()
    for row, left, load in zip(placed.numpy(), counts.numpy().copy(), now.numpy(), strict=True):
        share, free = load / left, []
        for slot, e in enumerate(row):
            left[e] -= 1
            if left[e] < 0:
                free.append(slot)
        total = np.bincount(np.arange(len(row)) // per_rank, share[row], num_ranks)
        np.subtract.at(total, np.array(free, dtype=int) // per_rank, share[row[free]])
        rest = np.repeat(np.arange(len(load)), left.clip(min=0))
        for e in rest[np.argsort(-share[rest])]:
            slot = min(free, key=lambda s: total[s // per_rank])
            free.remove(slot)
            row[slot] = e
            total[slot // per_rank] += share[e]
    return placed


Method = Callable[[], Tensor]


def methods(now: Tensor, old: Tensor, shape: tuple[int, ...]) -> Iterator[tuple[str, Method]]:
    """The ways to answer changed loads, by name."""
    nodes, ranks = shape[2:]
    yield "keep old", lambda: old
    yield "fresh refined", lambda: refined(now, *shape)
    yield "fresh, relabelled (heuristic)", lambda: refined(now, *shape, old=old)
    yield "fresh, relabelled (exact)", lambda: relabel_exactly(refined(now, *shape), old, shape)
    if nodes == 1:
        yield "fresh counts, ranks kept", lambda: repack(now, old, ranks)
    for budget in BUDGETS:
        yield f"budget {budget}", lambda b=budget: refined(now, *shape, old=old, move_budget=b)
    yield "budget 40, first pass", lambda: first_pass(now, old, shape)


def first_pass(now: Tensor, old: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The rival design: the target follows the makespan down, and nothing else."""
    found = migrate(now, old, shape[3], BUDGETS, num_nodes=shape[2], second_passes=())
    return found.phy2log[:, -1]


def relabel_exactly(fresh: Tensor, old: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``fresh`` relabelled by optimal assignment."""
    slots, groups, nodes, ranks = shape
    machine = Topology(slots, ranks, nodes, groups)
    rule = Instance(np.ones((1, 256)), machine).rule
    rows = zip(old.tolist(), fresh.tolist(), strict=True)
    return torch.tensor([relabel(a, b, machine, rule) for a, b in rows])


def compare(path: str, noise: float, seed: int) -> None:
    before, now = read_recording(path, noise, seed)
    for rule, shape in SHAPES.items():
        ranks, per_rank = shape[3], shape[0] // shape[3]
        old = refined(before, *shape)
        rows = []
        for name, run in methods(now, old, shape):
            start = time.perf_counter()
            placed = run()
            seconds = time.perf_counter() - start
            rows.append((name, makespans(now, placed, ranks), placed, seconds))
        thorough = makespans(now, refined(now, *shape, effort="thorough"), ranks)
        best = torch.stack([thorough, *(row[1] for row in rows)]).amin(0)
        for name, makespan, placed, seconds in rows:
            over = 100 * (makespan / best - 1)
            transfers = count_transfers(old, placed, per_rank).sum(1)
            local = count_copies(old, placed, per_rank).sum(1).mean()
            figures = (
                f"{over.mean():.3f} / {over.max():.3f} | {transfers.mean():.1f} / {transfers.max()}"
            )
            print(f"| {rule} | {name} | {figures} | {local:.1f} | {seconds:.2f} |", flush=True)


def prove(shape: tuple[int, int, int], noise: float, within: float, seconds: float) -> None:
    """Fewest transfers to come within a ratio of the best known: exact against the heuristic."""
    experts, slots, ranks = shape
    rng = np.random.default_rng(experts)
    before = np.exp(0.6 * rng.standard_normal((4, experts))) * 1000
    now = before * np.exp(noise * rng.standard_normal(before.shape))
    old = refined(torch.from_numpy(before), slots, 1, 1, ranks)
    best = refined(torch.from_numpy(now), slots, 1, 1, ranks, effort="thorough")
    budgets = range(slots + 1)
    found = migrate(torch.from_numpy(now), old, ranks, budgets, second_passes=budgets)
    for layer in Instance(now, Topology(slots, ranks)).layers():
        i, start = layer.index, old[layer.index].tolist()
        goal = value(layer, best[i].tolist()).incumbent
        limit = goal * (1 + Fraction(str(within)))
        over = float(value(layer, start).incumbent / goal - 1)
        maps = found.phy2log[i].tolist()
        fits = [x for x in maps if value(layer, x).incumbent <= limit]
        ours = [int(count_transfers([start], [x], slots // ranks).sum()) for x in fits]
        initial = [*fits, best[i].tolist()]
        result = fewest_transfers(layer, start, limit, time_limit=seconds, initial=initial)
        proven = f"{result.lower_bound} .. {result.transfers} | {result.status}, {result.proof}"
        proven += f" | {redo(layer, start, limit, result.lower_bound)}"
        print(
            f"| {experts}, {slots}, {ranks} | {i} | {100 * over:.1f} | {min(ours, default='-')} | "
            f"{proven} | {result.runtime:.1f} |",
            flush=True,
        )


def redo(layer: Layer, old: list[int], limit: Fraction, transfers: int) -> str:
    """What the checker, which knows no solver, says of a lower bound."""
    start = time.perf_counter()
    try:
        verdict = "yes" if needs_transfers(layer, old, limit, transfers) else "WRONG"
    except TooLargeToCheckError:
        verdict = "too large"
    return f"{verdict}, {time.perf_counter() - start:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loads", nargs="?", help="recorded loads, for instance SGLang's json")
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within", type=float, default=0.01)
    parser.add_argument("--exact", type=float, metavar="SECONDS", help="for each layer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.loads:
        compare(arguments.loads, arguments.noise, arguments.seed)
    if arguments.exact is not None:
        for shape in [(12, 16, 4), (16, 20, 4), (32, 40, 8)]:
            prove(shape, arguments.noise, arguments.within, arguments.exact)


if __name__ == "__main__":
    main()
