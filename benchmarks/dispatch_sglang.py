"""What SGLang 0.5.23 makes of a placement that it starts from, with its dispatcher and with ours.

    python benchmarks/dispatch_sglang.py decode       # steps of 64 tokens, 8 ranks of one node
    python benchmarks/dispatch_sglang.py full-scale   # 4,096 tokens, 32 ranks of one or four nodes

``--ep-dispatch-algorithm lp`` solves LPLB's program in every step, then each token draws a replica.
Started with ``--init-expert-location`` and a map, SGLang leaves a rank only the nearest replica
(``_find_nearest_expert`` of ``expert_location.py``): of an expert that it holds its own slot, else
of one that its node holds, and another node too, the first slot on its node; the program does not
know of that. A cell is the served loss in %:

- lp, all replicas: as after a rebalancing inside SGLang, where every rank knows all replicas;
- lp, from a file: with the nearest replicas alone;
- dispatch, dispatch:own: with ``EPLB_OPT_SGLANG`` set to this; reads the whole map in either case.

``--policies``, ``--layers`` and ``--steps`` leave out placements, layers, and steps served.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from dispatch import draw, even, lplb_drawn, lplb_shares, own_tokens, sources
from torch import Tensor
from yardstick import (
    DATA,
    LAYERS,
    Makespans,
    Served,
    Task,
    full_scale,
    full_scale_weights,
    loss,
    replay,
    steps_of,
    whole,
)

from eplb_opt.io.routing import read_routing

Run = Callable[[Served], Makespans]


def nearest(phy2log: Tensor, num_ranks: int, num_nodes: int, rank: int) -> Tensor:
    """The slots that are left to a rank, bool [L, P]."""
    slots = phy2log.shape[1]
    rank_of = torch.arange(slots) // (slots // num_ranks)
    here = rank_of == rank
    near = rank_of * num_nodes // num_ranks == rank * num_nodes // num_ranks
    same = phy2log[:, :, None] == phy2log[:, None, :]  # slots of the same expert, [L, P, P]

    def first(of: Tensor) -> Tensor:
        return of & ~(same & of).tril(-1).any(-1)

    narrowed = (same & near).any(-1) & (same & ~near).any(-1)
    others = first(near) | ~narrowed
    return torch.where((same & here).any(-1), first(here), others)


def lp_from_a_file(num_nodes: int) -> Run:
    """Each source draws by LPLB's shares among the slots that are left to it."""

    def run(served: Served) -> Makespans:
        generator, shares = torch.Generator().manual_seed(0), lplb_shares(served).double()
        tokens = torch.zeros(1)
        for rank, loads in enumerate(sources(served)):
            left = nearest(served.phy2log, served.num_ranks, num_nodes, rank)
            # Where the program gives nothing to what is left, SGLang draws evenly.
            part = shares.clamp(min=1e-12) * left
            tokens = tokens + draw(loads, served.phy2log, part, generator)
        return served.makespans(tokens)

    return run


def table(tasks: Sequence[Task], nodes: Sequence[int], options: argparse.Namespace) -> None:
    columns: dict[str, Run] = {"even": even, "lp, all replicas": lplb_drawn}
    columns |= {f"lp, from a file, {N} node{'s' * (N > 1)}": lp_from_a_file(N) for N in nodes}
    columns |= {"dispatch": whole, "dispatch:own": own_tokens}
    print(f"\n| placement | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
    for policy in options.policies:
        cases = [task.serve(task.place(policy)).first(options.steps) for task in tasks]
        losses = [loss([run(case) for case in cases], cases) for run in columns.values()]
        print(f"| `{policy}` | {' | '.join(f'{one:.2f}' for one in losses)} |", flush=True)


def decode(options: argparse.Namespace) -> None:
    trace, chosen = steps_of(read_routing(options.data / "gpt_oss_20b_tokens.npz"), 64, "shuffled")
    layers = slice(options.layers)
    tasks = replay(trace[:, layers], chosen[:, :, layers], 40)
    table(tasks, [1], options)


def full_scale_table(options: argparse.Namespace) -> None:
    weights = full_scale_weights(options.data)
    table([full_scale(weights, [layer]) for layer in LAYERS[: options.layers]], [1, 4], options)


def main() -> None:
    parts = {"decode": decode, "full-scale": full_scale_table}
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("part", choices=parts, help="table, see above")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of recordings")
    parser.add_argument("--policies", nargs="+", help="placements",
                        default=["deepseek", "lplb-graph:ring", "dispatch-aware"])  # fmt: skip
    parser.add_argument("--layers", type=int, help="the first so many")
    parser.add_argument("--steps", type=int, help="at most so many served for each placement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts[options.part](options)


if __name__ == "__main__":
    main()
