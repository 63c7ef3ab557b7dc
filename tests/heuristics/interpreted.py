"""``python interpreted.py FILE``: what the kernels give for CASES and ROWS, interpreted by Triton.

A process of its own: TRITON_INTERPRET counts only if it is set before Triton is imported.
"""

import os
import sys

import torch

CASES = {  # T, L, E, P, G
    "steps and layers": (2, 2, 8, 12, 4),
    "three ranks": (2, 1, 12, 15, 3),
    "eight ranks": (1, 1, 24, 32, 8),
    "every expert twice": (1, 1, 6, 12, 6),
    "no replicas": (1, 1, 6, 6, 3),
    "one rank": (1, 1, 4, 6, 1),
    "no steps": (0, 2, 8, 12, 4),
}
ROWS = [  # B, E, P, G
    (2, 8, 12, 4),
    (1, 7, 15, 3),
    (1, 14, 16, 8),
    (1, 6, 6, 3),
    (0, 4, 6, 2),
]
SWEEPS = 2  # fewer than the default, for time


def case(name: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Loads [T, L, E] int64, phy2log [L, P], G; some experts and a step of a layer without load.

    Slots are drawn, so that replicas of an expert share ranks here and there.
    """
    steps, layers, experts, slots, ranks = CASES[name]
    rng = torch.Generator().manual_seed(len(name))
    loads = (200 * torch.rand(steps, layers, experts, generator=rng) ** 4).long()
    loads[:1, 1:] = 0
    more = torch.randint(experts, (layers, slots - experts), generator=rng)
    phy2log = torch.cat([torch.arange(experts).expand(layers, -1), more], 1)
    order = torch.rand(layers, slots, generator=rng).argsort(1)
    return loads, phy2log.gather(1, order), ranks


def row_loads(rows: tuple[int, int, int, int], dtype: torch.dtype) -> torch.Tensor:
    """Loads [2 B, E]: half of them drawn, half of them one of four numbers, with many ties."""
    rng = torch.Generator().manual_seed(sum(rows))
    drawn = 100 * torch.rand(rows[:2], generator=rng, dtype=torch.float64)
    return torch.cat([drawn, torch.randint(4, rows[:2], generator=rng)]).to(dtype)


def run_loops(loads: torch.Tensor, rows: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The expert of each replica, and the slot of each replica, heaviest first."""
    from heuristics import loops
    from heuristics.replication import replica_loads

    replicas = loops.greedy_replicas(loads, rows[2])
    items = replica_loads(loads, replicas).sort(stable=True, dim=1, descending=True).values
    return replicas, loops.assign_slots(items, rows[3])


def main(file: str) -> None:
    from heuristics.dispatch.fused import Plan, shares_and_tokens
    from heuristics.engines.sglang_dispatch import by_kernel

    found: dict[object, object] = {}
    for name in CASES:
        loads, phy2log, ranks = case(name)
        plan = Plan.of(phy2log, loads.shape[-1], ranks)
        found[name] = shares_and_tokens(loads, plan, sweeps=SWEEPS)
    loads, phy2log, ranks = case("three ranks")
    found["one layer"] = by_kernel(loads[0, 0].float(), phy2log[0], ranks)
    for rows in ROWS:
        for dtype in (torch.float32, torch.float64):
            found[str((rows, dtype))] = run_loops(row_loads(rows, dtype), rows)
    torch.save(found, file)


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    main(sys.argv[1])
