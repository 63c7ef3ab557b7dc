"""Pattern bound against the simple bound and a quick incumbent, one line a layer.

    python benchmarks/pattern_bound.py --shape 256,288,72 --family zipf lognormal:1 --seeds 0 1
    python benchmarks/pattern_bound.py --shape 256,288,96 --sglang FILE.json --layers 3 10

``simple`` is max(mean rank load, threshold). The incumbent is a plain annealing for measuring only.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from eplb_opt.bounds import threshold_counts
from eplb_opt.instance import Instance, Layer, Topology
from eplb_opt.metrics import exact_makespan
from solvers.patterns import certified_pattern_bound, pattern_bound

TOKENS_PER_EXPERT = 4096


def synthetic_loads(family: str, num_experts: int, seed: int) -> list[int]:
    """Multinomial counts with lognormal or zipf probabilities."""
    rng = np.random.default_rng(seed)
    name, _, parameter = family.partition(":")
    if name == "zipf":
        share = 1 / np.arange(1, num_experts + 1)
    elif name == "lognormal":
        share = np.exp(rng.normal(0, float(parameter), num_experts))
    else:
        raise SystemExit(f"--family {family}: expected zipf or lognormal:SIGMA")
    return [int(n) for n in rng.multinomial(TOKENS_PER_EXPERT * num_experts, share / share.sum())]


def simple_bound(layer: Layer) -> Fraction:
    """max(mean rank load, least possible load of the heaviest replica), in tokens."""
    counts = threshold_counts(layer)
    threshold = max(Fraction(w, c) for w, c in zip(layer.loads, counts, strict=True))
    return max(Fraction(sum(layer.loads), layer.topology.num_ranks), threshold) * layer.unit


class Annealing:
    """Swaps of slots and changes of counts that lower sum(max(0, load - target)^2)."""

    def __init__(self, layer: Layer, target: float, slots: list[int], seed: int) -> None:
        self.loads = [float(w * layer.unit) for w in layer.loads]
        self.size = layer.topology.slots_per_rank
        self.random = random.Random(seed)
        self.target, self.slots = target, slots
        self.held = [{s for s, e in enumerate(slots) if e == x} for x in range(len(layer.loads))]
        self.ranks = [0.0] * layer.topology.num_ranks
        for s, e in enumerate(slots):
            self.ranks[s // self.size] += self.replica(e)

    def replica(self, expert: int, more: int = 0) -> float:
        """Load of one replica if the expert had ``more`` replicas."""
        return self.loads[expert] / (len(self.held[expert]) + more)

    def change(self, s: int, t: int) -> dict[int, float]:
        """New rank loads if slots ``s`` and ``t`` are swapped."""
        a, b = s // self.size, t // self.size
        moved = self.replica(self.slots[s]) - self.replica(self.slots[t])
        return {} if a == b else {a: self.ranks[a] - moved, b: self.ranks[b] + moved}

    def recount(self, s: int, f: int) -> dict[int, float]:
        """New rank loads if slot ``s`` goes to expert ``f``."""
        e = self.slots[s]
        if e == f or len(self.held[e]) == 1:
            return {}
        new: dict[int, float] = {}
        for expert, more in ((e, -1), (f, 1)):
            difference = self.replica(expert, more) - self.replica(expert)
            for slot in self.held[expert]:
                r = slot // self.size
                new[r] = new.get(r, self.ranks[r]) + difference
        r = s // self.size
        new[r] += -self.replica(e, -1)
        new[r] = new[r] + self.replica(f, 1)
        return new

    def accept(self, new: dict[int, float], temperature: float) -> bool:
        """Metropolis' rule; takes the new rank loads over."""
        worse = sum(
            max(0.0, load - self.target) ** 2 - max(0.0, self.ranks[r] - self.target) ** 2
            for r, load in new.items()
        )
        if not new or (worse > 0 and self.random.random() >= math.exp(-worse / temperature)):
            return False
        for r, load in new.items():
            self.ranks[r] = load
        return True

    def put(self, s: int, f: int) -> None:
        """Slot ``s`` holds expert ``f`` from now on."""
        self.held[self.slots[s]].discard(s)
        self.slots[s] = f
        self.held[f].add(s)

    def run(self, moves: int) -> list[int]:
        """The best slots met."""
        best, slots = max(self.ranks), list(self.slots)
        for i in range(moves):
            temperature = (self.target * 0.05 * 0.01 ** (i / moves)) ** 2
            s = self.random.randrange(len(self.slots))
            if self.random.random() < 0.9:
                t = self.random.randrange(len(self.slots))
                if self.accept(self.change(s, t), temperature):
                    e, f = self.slots[s], self.slots[t]
                    self.put(s, f)
                    self.put(t, e)
            else:
                f = self.random.randrange(len(self.loads))
                if self.accept(self.recount(s, f), temperature):
                    self.put(s, f)
            if i % 64 == 0 and max(self.ranks) < best:
                best, slots = max(self.ranks), list(self.slots)
        return slots


def quick_incumbent(layer: Layer, bound: Fraction, moves: int) -> Fraction:
    """Value of the best of five annealing runs with targets just above ``bound``."""
    counts = threshold_counts(layer)
    start = [e for e, c in enumerate(counts) for _ in range(c)]
    values = []
    for seed, excess in enumerate((0, 0.001, 0.003, 0.01, 0.03)):
        random.Random(seed).shuffle(start)
        search = Annealing(layer, float(bound) * (1 + excess), list(start), seed)
        values.append(exact_makespan(layer, search.run(moves)))
    return min(values)


def layers_of(args: argparse.Namespace) -> Iterator[tuple[str, Layer]]:
    E, P, G = (int(n) for n in args.shape.split(","))
    topology = Topology(P, G)
    for family in args.family:
        for seed in args.seeds:
            loads = synthetic_loads(family, E, seed)
            yield f"{family}/{seed}", Instance([loads], topology).layer(0)
    if args.sglang:
        counts = np.array(json.loads(args.sglang.read_text())["logical_count"])
        recorded = Instance(counts, topology)
        for i in args.layers:
            yield f"{args.sglang.stem}/{i}", recorded.layer(i)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", required=True, help="experts,slots,ranks")
    parser.add_argument("--family", nargs="*", default=[], help="zipf, lognormal:SIGMA")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--sglang", type=Path, help="recording with logical_count [L, E]")
    parser.add_argument("--layers", nargs="*", type=int, default=[])
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--moves", type=int, default=1_000_000, help="annealing moves, five runs")
    args = parser.parse_args()
    print(
        f"{'layer':<28}{'simple':>12}{'pattern':>12}{'incumbent':>12}{'gap simple':>12}{'gap':>10}"
    )
    for name, layer in layers_of(args):
        simple = simple_bound(layer)
        found = pattern_bound(layer, lower=simple, time_limit=args.time_limit)
        if found.certificate is not None:
            certified_pattern_bound(layer, found.certificate)
        value = quick_incumbent(layer, found.value, args.moves)
        print(
            f"{name:<28}{float(simple):12.1f}{float(found.value):12.1f}{float(value):12.1f}"
            f"{float(value / simple - 1):12.3%}{float(value / found.value - 1):10.3%}"
            f"  {found.runtime:.1f} s, {found.trials} trials, {found.pricings} pricings",
            flush=True,
        )


if __name__ == "__main__":
    main()
