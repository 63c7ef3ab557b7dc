"""``dispatch-aware`` under the rule ``home``: decode steps of gpt-oss-20b on 8 ranks, 2 nodes.

    python benchmarks/home_dispatch.py

Placed on 512 steps of 64 tokens with changing topics, 40 slots, the 24 steps after served by exact
optimal dispatch under a limit of traffic in every step. Loss is sum of makespans / sum of mean rank
loads - 1 in %; traffic in % of the tokens served, at its worst in a layer. ``--layers 4`` takes
every fourth layer.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from yardstick import DATA

from eplb_opt import Instance, Topology
from eplb_opt.problem.objective import Cost
from heuristics.policies import placer
from solvers.dispatch.costs import traffic, value

SLOTS, RANKS, NODES = 40, 8, 2
SEEN, SERVED = slice(256, 768), slice(768, 792)
RULES = [("hierarchical", 1.0), ("home", 0.05), ("home", 0.1), ("home", 1.0), ("global", 1.0)]
"""And the limit that the policy sees."""
COST = Cost.of("mean", "optimal")


def served(
    steps: torch.Tensor, phy2log: torch.Tensor, groups: int, rule: str, limit: float
) -> tuple[float, float]:
    """Loss and largest traffic in % of all layers."""
    machine = Topology(SLOTS, RANKS, NODES, groups)
    instance = Instance(steps.numpy(), machine, rule, traffic_limit=limit)
    rows = list(zip(instance.layers(), phy2log.tolist(), strict=True))
    makespans = sum(float(value(layer, row, *COST).value or 0) for layer, row in rows)
    away = max(float(traffic(layer, row, COST)) for layer, row in rows)
    return (makespans * len(steps) * RANKS / float(steps.sum()) - 1) * 100, away * 100


def run(layers: int) -> None:
    trace = torch.from_numpy(np.load(DATA / "gpt_oss_20b_decode64.npz")["topics"])[:, ::layers]
    print("| groups | placed under | dispatched under | loss | traffic |\n|--:|---|---|--:|--:|")
    for groups in (2, 4):
        for rule, limit in RULES:
            sizes = SLOTS, groups, NODES, RANKS
            placed = placer("dispatch-aware")(trace[SEEN].float(), *sizes, rule=rule, traffic=limit)
            for kept in (0.05, 0.1, 1.0) if (rule, limit) == ("home", 1.0) else (limit,):
                loss, away = served(trace[SERVED], placed, groups, rule, kept)
                where = f"{rule}, {limit:g}" if rule == "home" else rule
                print(f"| {groups} | {where} | {kept:g} | {loss:.2f} | {away:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    run(parser.parse_args().layers)


if __name__ == "__main__":
    main()
