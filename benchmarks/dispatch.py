"""Dispatchers side by side: what is lost when the tokens of a step are shared by shares, or drawn.

    python benchmarks/dispatch.py yardstick       # decode steps of 64 requests, 8 ranks
    python benchmarks/dispatch.py full-scale      # steps of 4,096 tokens, (256, 288, 32)
    python benchmarks/dispatch.py by-size         # 16 to 4,096 tokens a step

``--steps 20`` serves no more than the first 20 steps of each placement, for a first look.
Recordings are looked for in ``--data``, ``$EPLB_RECORDED_LOADS`` or ``../shared/data``. Every table
of losses has a line for each placement and a column for each way of dispatching; a cell is the
served loss, sum of makespans / sum of mean rank loads - 1, in %:

- even: shares 1 / c; drawn evenly: each token draws a replica; hashed: by the token's place in the
  batch (vLLM), where tokens are known;
- optimal: best shares, exact; floor: ceil(optimal), the best in whole tokens;
- shares, whole: shares and whole tokens of ``heuristics.dispatch``;
- drawn: each token draws a replica by these shares; own tokens: every rank, which has one in G of
  the tokens, rounds these shares on its own counts; alone: shares and whole tokens of its own
  counts, knowing of no other rank;
- LPLB: shares after five steps of an interior-point method; LPLB drawn: each token draws by them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yardstick import (
    DATA,
    LAYERS,
    SIZES,
    Makespans,
    Served,
    Task,
    best_shares,
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
    whole_tokens,
)

from eplb_opt.io.routing import read_routing
from heuristics import dispatch
from heuristics.dispatch.drawn import drawn as draw
from heuristics.dispatch.drawn import hashed as hash_tokens
from heuristics.dispatch.lplb import lplb as lplb_rule

GRAPH = {40: "lplb-graph:ring", 48: "lplb-graph:cube"}


def drawn(served: Served, by: Tensor) -> Makespans:
    generator = torch.Generator().manual_seed(0)
    tokens = draw(served.loads, served.phy2log, by, generator)
    return served.makespans(tokens)


def drawn_evenly(served: Served) -> Makespans:
    return drawn(served, served.even)


def hashed(served: Served) -> Makespans:
    """By vLLM's hash of the token's place in the batch; NaN where tokens are not known."""
    if served.chosen is None:
        return np.full(served.loads.shape[:2], np.nan)
    steps, _, layers, _ = served.chosen.shape
    chosen = torch.from_numpy(served.chosen.astype(np.int64))
    found = torch.zeros(steps, *served.phy2log.shape, dtype=torch.int64)
    for t in range(steps):
        for layer in range(layers):
            slots = hash_tokens(chosen[t, :, layer].contiguous(), served.phy2log[layer])
            found[t, layer] = torch.bincount(slots.flatten(), minlength=found.shape[-1])
    return served.makespans(found)


def drawn_by_shares(served: Served) -> Makespans:
    return drawn(served, best_shares(served))


def own_tokens(served: Served) -> Makespans:
    common = best_shares(served)
    tokens = [
        dispatch.own_tokens(loads, served.phy2log, common, rank)
        for rank, loads in enumerate(sources(served))
    ]
    return served.makespans(torch.stack(tokens).sum(0))


def alone(served: Served) -> Makespans:
    parts = [replace(served, loads=loads) for loads in sources(served)]
    tokens = [whole_tokens(part, part.loads, best_shares(part)) for part in parts]
    return served.makespans(torch.stack(tokens).sum(0))


def sources(served: Served) -> Iterator[Tensor]:
    """The loads [T, L, E] of the tokens of each rank: equal parts of the batch, or drawn."""
    if served.chosen is not None:
        num_experts = served.loads.shape[-1]
        for part in np.array_split(served.chosen, served.num_ranks, axis=1):
            yield torch.nn.functional.one_hot(torch.from_numpy(part).long(), num_experts).sum(
                (1, 3)
            )
        return
    random, left = np.random.default_rng(0), served.loads.numpy()
    for ranks in range(served.num_ranks, 0, -1):
        part = random.binomial(left, 1 / ranks)
        left = left - part
        yield torch.from_numpy(part)


def lplb_shares(served: Served) -> Tensor:
    return lplb_rule(served.loads.float(), served.phy2log, served.num_ranks)


def lplb(served: Served) -> Makespans:
    return served.of_shares(lplb_shares(served))


def lplb_drawn(served: Served) -> Makespans:
    return drawn(served, lplb_shares(served))


COLUMNS: dict[str, Callable[[Served], Makespans]] = {
    "even": even,
    "drawn evenly": drawn_evenly,
    "hashed": hashed,
    "optimal": optimal,
    "shares": shares,
    "floor": floor,
    "whole": whole,
    "drawn": drawn_by_shares,
    "own tokens": own_tokens,
    "alone": alone,
    "LPLB": lplb,
    "LPLB drawn": lplb_drawn,
}


def excess(found: Sequence[Makespans], best: Sequence[Makespans], cases: Sequence[Served]) -> float:
    """The 99th percentile over dispatches of the makespan above the best, in % of the mean."""
    above = [
        (makespans - least) / (served.loads.sum(-1).numpy() / served.num_ranks)
        for makespans, least, served in zip(found, best, cases, strict=True)
    ]
    return float(np.percentile(np.concatenate([one.ravel() for one in above]), 99)) * 100


def row(name: str, cases: Sequence[Served], steps: int | None) -> str:
    """The losses, then what shares and whole tokens have above the best; of so many steps."""
    cases = [served.first(steps) for served in cases]
    found = {column: [run(served) for served in cases] for column, run in COLUMNS.items()}
    losses = [loss(makespans, cases) for makespans in found.values()]
    cells = ["" if isnan(percent) else f"{percent:.2f}" for percent in losses]
    pairs = [("shares", "optimal"), ("whole", "floor"), ("LPLB", "optimal")]
    cells += [f"{excess(found[ours], found[best], cases):.2f}" for ours, best in pairs]
    return f"| {name} | {' | '.join(cells)} |"


def header(first: str) -> str:
    names = [first, *COLUMNS, "shares, 99 %", "whole, 99 %", "LPLB, 99 %"]
    return f"\n| {' | '.join(names)} |\n|---|{'--:|' * (len(names) - 1)}"


def serve(policy: str, tasks: Sequence[Task]) -> list[Served]:
    return [task.serve(task.place(policy)) for task in tasks]


def yardstick(options: argparse.Namespace) -> None:
    routing = read_routing(options.data / "gpt_oss_20b_tokens.npz")
    print(header("64 tokens a step"))
    for name, order in (("steady", "shuffled"), ("topics", "topic")):
        steps = steps_of(routing, 64, order)
        for slots, graph in GRAPH.items():
            tasks = replay(*steps, slots)
            for policy in ("deepseek", "refined", graph):
                case = f"{name}, {slots} slots, `{policy}`"
                print(row(case, serve(policy, tasks), options.steps), flush=True)


def full_scale_layers(options: argparse.Namespace) -> None:
    weights = full_scale_weights(options.data)
    tasks = [full_scale(weights, [layer]) for layer in LAYERS]
    print(header("4,096 tokens a step"))
    for policy in ("deepseek", "refined", "lplb-graph:ring"):
        print(row(f"`{policy}`", serve(policy, tasks), options.steps), flush=True)


def by_size(options: argparse.Namespace) -> None:
    routing = read_routing(options.data / "gpt_oss_20b_tokens.npz")
    print(header("tokens a step"))
    for policy in ("deepseek", "refined", "lplb-graph:ring"):
        for batch, summed, orders in SIZES:
            seeds = range(3, 3 + orders)
            tasks = [halves(*steps_of(routing, batch, "shuffled", seed), summed) for seed in seeds]
            served = sum(len(task.served[: options.steps]) for task in tasks)
            name = f"{batch * summed:,} ({served} steps), `{policy}`"
            print(row(name, serve(policy, tasks), options.steps), flush=True)


def main() -> None:
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "yardstick": yardstick,
        "full-scale": full_scale_layers,
        "by-size": by_size,
    }
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("part", choices=parts, help="table, see above")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of recordings")
    parser.add_argument("--steps", type=int, help="at most so many for each placement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts[options.part](options)


if __name__ == "__main__":
    main()
