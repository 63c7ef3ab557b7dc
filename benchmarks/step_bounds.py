"""Bounds for a placement that stays over several steps, and what is known from above.

    python benchmarks/step_bounds.py steady=gpt_oss_20b_decode64.npz:steady --gpus 8 --physical 40

Each file is a trace [T, L, E]: .npy, or NAME=FILE.npz:ARRAY. Of each number of steps (from the
middle of the trace) and dispatch rule the means over the layers, in % over the mean load of the
wait-and-see bound, of four ideas for a constant placement, of the largest, and of the best
placement known; the seconds are of bounds.of.

- blocks: bounds of the summed loads of runs of 2, 4, .. T steps, and of steps with the same
  heaviest expert;
- counts: prices of ``m_t >= w[t, e] / c_e`` (same rank without factors);
- moments: the variance of rank loads (same rank with prices in proportion to the loads);
- same rank, one partition: as in eplb_opt/bounds.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import torch

from eplb_opt import Instance, Layer, Topology, bounds
from eplb_opt.bounds import saddle_point, same_rank
from eplb_opt.bounds.steps import _partition_bound, bound_of_sum, step_bounds
from eplb_opt.problem.objective import Cost, Dispatch, mean_load
from eplb_opt.problem.rationals import integer_array
from eplb_opt.problem.topology import Rule
from heuristics import POLICIES
from solvers.dispatch import value

COLUMNS = ("see", "blocks", "counts", "moments", "part", "rank", "best", "known", "open", "s")


def blocks_bound(layer: Layer, dispatch: Dispatch) -> Fraction:
    """For the mean over steps."""
    steps, T = layer.steps, len(layer.steps)
    heaviest = defaultdict(list)
    for t, e in enumerate(steps.argmax(axis=1).tolist()):
        heaviest[e].append(t)
    groupings = [list(heaviest.values())]
    length = 2
    while length < 2 * T:
        groupings.append([list(range(i, min(i + length, T))) for i in range(0, T, length)])
        length *= 2

    def bound(chosen: list[int]) -> Fraction:
        total = tuple(map(int, steps[chosen].sum(axis=0)))
        block = Layer(total, layer.unit, layer.topology, layer.rule, layer.index,
                      layer.spread_replicas, integer_array([total]))  # fmt: skip
        return bound_of_sum(block, dispatch).value

    return max(sum(map(bound, grouping), Fraction(0)) / T for grouping in groupings)


def same_rank_variant(layer: Layer, cost: Cost, factors: bool, prices: bool) -> Fraction:
    """With the factors or the prices that floats find, or without factors, or with prices in
    proportion to the loads.
    """
    floors = step_bounds(layer, cost.dispatch)
    best = cost.objective.over(floors)
    units = [floor / layer.unit for floor in floors]
    state = saddle_point._State.__dict__["advance"]

    def advance(self: saddle_point._State) -> None:
        kept = self.p
        state(self)
        if not factors:
            self.Z[:] = 0
        if not prices:
            self.p = kept

    saddle_point._State.advance = advance  # type: ignore[method-assign]
    try:
        for found in saddle_point.saddle_points(layer, cost.objective, units, 1.0):
            evidence = same_rank._rounded(cost.objective, floors, found)
            best = max(best, same_rank.same_rank_value(layer, evidence))
    finally:
        saddle_point._State.advance = state  # type: ignore[method-assign]
    return best


@numba.njit(cache=True)
def even_cost(loads, slots, ranks):
    """Mean over steps; loads [T, E] tokens, slots [P] experts."""
    T, E = loads.shape
    P = len(slots)
    per = P // ranks
    counts = np.zeros(E)
    for e in slots:
        counts[e] += 1
    total = 0.0
    for t in range(T):
        most = 0.0
        for g in range(ranks):
            rank = 0.0
            for p in range(g * per, g * per + per):
                rank += loads[t, slots[p]] / counts[slots[p]]
            most = max(most, rank)
        total += most
    return total / T


@numba.njit(cache=True)
def optimal_cost(loads, slots, ranks):
    """Mean over steps, from all sets of ranks; loads [T, E] tokens, slots [P] experts."""
    T, E = loads.shape
    per = len(slots) // ranks
    masks = np.zeros(E, dtype=np.int64)
    for p in range(len(slots)):
        masks[slots[p]] |= 1 << (p // per)
    sets = 1 << ranks
    size = np.zeros(sets)
    for u in range(1, sets):
        size[u] = size[u >> 1] + (u & 1)
    inside = np.zeros(sets)
    total = 0.0
    for t in range(T):
        inside[:] = 0
        for e in range(E):
            inside[masks[e]] += loads[t, e]
        for g in range(ranks):
            bit = 1 << g
            for u in range(sets):
                if u & bit:
                    inside[u] += inside[u ^ bit]
        most = 0.0
        for u in range(1, sets):
            most = max(most, inside[u] / size[u])
        total += most
    return total / T


@numba.njit(cache=True)
def anneal(loads, start, ranks, moves, optimal, node, seed):
    """Swap two slots, or give a slot to another expert; slots of one ``node`` only where given."""
    np.random.seed(seed)
    slots, P = start.copy(), len(start)
    cost = optimal_cost(loads, slots, ranks) if optimal else even_cost(loads, slots, ranks)
    best, kept = cost, slots.copy()
    warm = 0.002 * cost
    for move in range(moves):
        trial = slots.copy()
        a, b = np.random.randint(P), np.random.randint(P)
        if a // node != b // node:
            continue
        if np.random.random() < 0.8:
            trial[a], trial[b] = slots[b], slots[a]
        else:
            if (slots == slots[a]).sum() < 2:
                continue
            trial[a] = slots[b]
        new = optimal_cost(loads, trial, ranks) if optimal else even_cost(loads, trial, ranks)
        heat = warm * (1 - move / moves) ** 2 + 1e-12
        if new <= cost or np.random.random() < np.exp((cost - new) / heat):
            slots, cost = trial, new
            if cost < best:
                best, kept = cost, slots.copy()
    return kept


def ring(layer: Layer) -> np.ndarray:
    """LPT without redundancy on the sum, the heaviest expert of each rank copied to the next."""
    E, G, P = layer.num_logical_experts, layer.topology.num_ranks, len(layer.loads)
    weight = torch.tensor([layer.loads], dtype=torch.float64)
    placed = POLICIES["deepseek"](weight, E, 1, 1, G)[0][0].numpy().reshape(G, P // G)
    heaviest = placed[np.arange(G), np.array(layer.loads, dtype=float)[placed].argmax(axis=1)]
    return np.concatenate([placed, np.roll(heaviest, 1)[:, None]], axis=1).ravel()


def starts(layer: Layer) -> Iterator[np.ndarray]:
    topology = layer.topology
    hierarchical = layer.rule == Rule.HIERARCHICAL
    groups, nodes = (topology.num_groups, topology.num_nodes) if hierarchical else (1, 1)
    weight = torch.tensor([layer.loads], dtype=torch.float64)
    for name in ("deepseek", "refined"):
        found = POLICIES[name](weight, topology.num_physical_experts, groups, nodes,
                               topology.num_ranks)  # fmt: skip
        yield found[0][0].numpy()
    if layer.num_redundant_experts == topology.num_ranks and not hierarchical:
        yield ring(layer)


def best_known(layer: Layer, dispatch: Dispatch, moves: int) -> Fraction:
    """The least mean over steps of the starts and of what annealing makes of them."""
    ranks, optimal = layer.topology.num_ranks, dispatch == Dispatch.OPTIMAL
    node = layer.topology.num_physical_experts
    if layer.rule == Rule.HIERARCHICAL:
        node = layer.topology.slots_per_node
    loads = layer.steps.astype(np.float64) * float(layer.unit)
    found = list(starts(layer))
    sets = optimal and ranks <= 10  # else for even dispatch, which costs no less
    each = len(loads) * ((ranks + 1) << ranks if sets else len(found[0]))
    share = max(300, int(moves / each))
    found += [anneal(loads, start, ranks, share, sets, node, 0) for start in found]
    return min(value(layer, tuple(map(int, slots)), "mean", dispatch).value for slots in found)


def row(layer: Layer, dispatch: Dispatch, moves: int) -> list[float]:
    cost = Cost.of("mean", dispatch)
    start = time.perf_counter()
    best = bounds.of(layer, *cost).value
    seconds = time.perf_counter() - start
    see = bounds.wait_and_see(layer, *cost).value
    hierarchical = layer.rule == Rule.HIERARCHICAL
    part = _partition_bound(layer, cost).value if hierarchical else see
    shares = dispatch != Dispatch.OPTIMAL
    moments = same_rank_variant(layer, cost, factors=True, prices=False) if shares else see
    counts = same_rank_variant(layer, cost, factors=False, prices=True)
    found = same_rank_variant(layer, cost, factors=True, prices=True) if shares else see
    known = best_known(layer, dispatch, moves)
    assert best <= known
    values = (see, blocks_bound(layer, dispatch), counts, moments, part, found, best, known)
    mean = mean_load(layer, cost.objective)
    over = [100 * float(v / mean - 1) for v in values]
    return [*over, 100 * float(known / best - 1), seconds]


def read(source: str) -> tuple[str, np.ndarray]:
    name, _, file = source.rpartition("=")
    path, _, array = file.partition(":")
    found = np.load(path)
    return name or Path(path).stem, found[array] if array else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("traces", nargs="+")
    for name in ("gpus", "physical"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("nodes", "groups"):
        parser.add_argument(f"--{name}", type=int, default=1)
    parser.add_argument("--steps", default="16,64,256,0", help="0 for all")
    parser.add_argument("--layers", default="0,6,12,18")
    parser.add_argument("--dispatch", default="even,fixed,optimal")
    parser.add_argument("--moves", type=float, default=3e9, help="operations of annealing")
    parser.add_argument("--normalize", action="store_true", help="steps of equal totals")
    given = parser.parse_args()
    topology = Topology(given.physical, given.gpus, given.nodes, given.groups)
    print(f"{'trace':<10}{'steps':>6} {'dispatch':<8}" + "".join(f"{c:>9}" for c in COLUMNS))
    for source in given.traces:
        name, trace = read(source)
        trace = trace[:, [int(i) for i in given.layers.split(",")]]
        for number in dict.fromkeys(int(n) or len(trace) for n in given.steps.split(",")):
            middle = max(0, (len(trace) - number) // 2)
            part = trace[middle : middle + number]
            instance = Instance(part, topology, normalize_steps=given.normalize)
            for dispatch in given.dispatch.split(","):
                rows = [row(layer, Dispatch(dispatch), given.moves) for layer in instance.layers()]
                means = np.mean(rows, axis=0)
                print(f"{name:<10}{len(part):>6} {dispatch:<8}"
                      + "".join(f"{mean:9.2f}" for mean in means), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
