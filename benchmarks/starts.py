"""Where a search for steps starts: constructions and policies, drawn and recorded steps.

    python benchmarks/starts.py starts    # losses of all starts on drawn steps
    python benchmarks/starts.py noise     # what fits recordings, and losses on steps drawn from it

Recordings are looked for in ``--data``, ``$EPLB_RECORDED_LOADS`` or ``../shared/data``. Losses are
mean makespan / mean rank load - 1 over all steps and layers, in %, by shares of
``heuristics.dispatch``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heuristics.dispatch.slots import even_shares, expert_loads, rank_loads
from heuristics.steps.noise import draw_steps, fit
from heuristics.steps.starts import starts
from heuristics.steps.values import mean_makespans

DATA = Path(os.environ.get("EPLB_RECORDED_LOADS", Path(__file__).parents[2] / "shared" / "data"))


def deepseek_v3(file: Path) -> Tensor:
    """[58, 256] tokens of the layers with experts."""
    counts = np.array(json.loads(file.read_text())["logical_count"], dtype=np.float64)
    return torch.from_numpy(counts.reshape(-1, 61, 256).sum(0)[3:])


def loss(makespans: Tensor, steps: Tensor, num_ranks: int) -> float:
    """From the mean makespan of each layer [L]."""
    mean = steps.double().sum(-1).mean(0) / num_ranks
    return (float(makespans.sum() / mean.sum()) - 1) * 100


def table_of_starts(data: Path) -> None:
    loads = deepseek_v3(data / "deepseek_v3" / "prefill_in2048.json")[::3]
    for P, G in ((288, 32), (320, 32), (320, 64), (288, 72)):
        for spread in (0.2, 0.4):
            placed = starts(loads, P, 1, 1, G)
            steps = draw_steps(loads, steps=100, spread=spread, seed=5)
            found = mean_makespans(steps, torch.stack([*placed.values()]), G)
            best = found.amin(0)
            print(
                f"\n(256, {P}, {G}), spread {spread}: {loss(best, steps, G):.2f} by the best of all"
            )
            for name, makespans in zip(placed, found, strict=True):
                layers = int((makespans <= best * (1 + 1e-9)).sum())
                percent = loss(makespans, steps, G)
                print(f"| {name} | {percent:.2f} | best in {layers} of {len(loads)} |", flush=True)


def recordings(data: Path) -> Iterator[tuple[str, Tensor, int, int]]:
    """Name, steps [T, L, E], slots, ranks."""
    decode = np.load(data / "gpt_oss_20b_decode64.npz")
    for name in ("steady", "topics"):
        yield name, torch.from_numpy(decode[name][:512]).float(), 40, 8
    summed = torch.from_numpy(decode["steady"][:1392]).float().unflatten(0, (-1, 16)).sum(1)
    yield "steady, 16 steps summed", summed, 40, 8
    yield "windows", torch.from_numpy(np.load(data / "gpt_oss_20b_windows.npy")), 40, 8
    yield "Qwen1.5-MoE", torch.from_numpy(np.load(data / "qwen15_moe_steps.npy")[:20]), 64, 4
    yield "OLMoE", torch.from_numpy(np.load(data / "olmoe_domains.npy")), 72, 8
    five = torch.stack(
        [deepseek_v3(file) for file in sorted((data / "deepseek_v3").glob("*.json"))]
    )
    yield "DeepSeek-V3", five / five.sum(-1, keepdim=True) * 32768, 288, 32


def both(steps: Tensor, placed: Tensor, num_ranks: int) -> tuple[float, float]:
    """The losses under even and under optimal dispatch."""
    even = expert_loads(steps.double(), placed) * even_shares(placed, steps.shape[-1])
    makespans = rank_loads(even, num_ranks).amax(-1).mean(0)
    optimal = mean_makespans(steps, placed[None], num_ranks)[0]
    return loss(makespans, steps, num_ranks), loss(optimal, steps, num_ranks)


def left_out(steps: Tensor, name: str, P: int, G: int) -> tuple[float, float]:
    """Each step served by a placement made from the others."""
    found = []
    for t in range(len(steps)):
        others = torch.cat([steps[:t], steps[t + 1 :]]).sum(0)
        found.append(both(steps[t : t + 1], starts(others, P, 1, 1, G)[name], G))
    even, optimal = np.mean(found, 0)
    return even, optimal


def table_of_noise(data: Path) -> None:
    print("| steps | n | k | sigma | placement | recorded | drawn | multinomial | left out |")
    print("|---|--:|--:|--:|---|--:|--:|--:|--:|")
    for name, steps, P, G in recordings(data):
        noise, number = fit(steps), max(256, len(steps))
        drawn = draw_steps(steps, steps=number, seed=1)
        chance = draw_steps(steps, steps=number, spread=0.0, per_token=1.0, seed=1)
        n, k, sigma = (float(x.mean()) for x in (noise.tokens, noise.per_token, noise.spread))
        fitted = f"{n:,.0f} | {k:.1f} | {sigma:.2f}"
        for start in ("deepseek", "ring", "chain"):
            placed = starts(steps.sum(0), P, 1, 1, G)[start]
            losses = [both(part, placed, G) for part in (steps, drawn, chance)]
            losses += [left_out(steps, start, P, G)] if len(steps) < 10 else []
            cells = " | ".join(f"{even:.1f} / {optimal:.2f}" for even, optimal in losses)
            print(f"| {name} | {fitted} | {start} | {cells} |", flush=True)


def main() -> None:
    parts: dict[str, Callable[[Path], Any]] = {"starts": table_of_starts, "noise": table_of_noise}
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("part", choices=parts, help="table, see above")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of recordings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts[options.part](options.data)


if __name__ == "__main__":
    main()
