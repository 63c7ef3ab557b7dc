"""How near whole tokens come to the best makespan, and what sources lose that know only themselves.

    python benchmarks/whole_tokens.py designs [--steps 64]
    python benchmarks/whole_tokens.py sources [--steps 64]

``designs``: from the same shares, the quotas; then sweeps (expert after expert, its tokens poured
over its ranks as water); moves along edges (all ranks at once, half of the difference to the
lightest rank that an expert reaches); pushes along shortest paths, as ``heuristics.dispatch.whole``
does. Each cell: % of dispatches above ceil(optimum) / above it by more than 0.2 % of the mean load.

``sources``: each source holds its part of the tokens. Each cell: makespans of all sources together
over the sum of ceil(optimum), less 1, in %. ``known``: counts of all sources are known. ``own``:
each makes shares and whole tokens of its own counts; ``turned``: the same, source i counts ranks
from i on, so that ties fall elsewhere. With shares of the sum of all counts: ``whole``, whole
tokens of its own counts; ``own_tokens``, rounded from a phase of the source; ``drawn``, each token
draws a slot. ``fixed``, ``even``: own_tokens of shares fitted on past steps, and of even shares.

Steps of 256, 1,024 and 4,096 assignments (decode) or 256, 2,048 and 32,768 (drawn) count alike.
The decode traces of $EPLB_RECORDED_LOADS (8 ranks, ``decode``), and loads exp(z) of each expert
times exp(0.2 z) at each step, multinomial, by numpy's default_rng. Placements are made for the sum
of the steps before. ``ring``: LPT without redundancy, each rank's heaviest experts copied to ranks
g + 1, g + 3.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eplb_opt.io.routing import batches, counts, read_routing
from heuristics import rebalance_experts
from heuristics.dispatch import fixed_shares, own_tokens, shares, whole
from heuristics.dispatch.drawn import drawn
from heuristics.dispatch.slots import even_shares, rank_loads
from heuristics.dispatch.tiles import Tiles
from heuristics.dispatch.whole import (
    FAR,
    makespan_of_shares,
    push_tokens,
    quotas,
    tokens_alone,
)
from solvers.dispatch.classes import classes_of, holders
from solvers.dispatch.optimal import optimal_makespans

DATA = Path(os.environ.get("EPLB_RECORDED_LOADS", "shared/data"))
SHAPES = [(64, 80, 16), (64, 128, 64), (256, 288, 32), (256, 320, 64), (256, 288, 72)]
PLACEMENTS = ["ring", "deepseek", "refined"]
HOPS = (1, 3)
LAYERS = [0, 6, 12, 18]
PAST = 256


@dataclass(frozen=True)
class Case:
    """Steps ``loads [T, E]`` on one placement ``phy2log [P]``; ``past [T, E]`` came before."""

    name: str
    past: Tensor
    loads: Tensor
    phy2log: Tensor
    num_ranks: int

    def ceil_optimum(self) -> Tensor:
        """[T]."""
        held = holders(self.phy2log.tolist(), self.loads.shape[1], self.num_ranks)
        found = optimal_makespans(classes_of(self.loads.numpy(), held))
        return torch.from_numpy(-(-found.loads // found.critical.sum(1)))


def placed(placement: str, past: Tensor, num_slots: int, num_ranks: int) -> Tensor:
    """[P] for the sum of the past steps."""
    total = past.sum(0)[None].float()
    if placement != "ring":
        return rebalance_experts(total, num_slots, 1, 1, num_ranks, policy=placement)[0][0]
    experts = past.shape[1]
    alone, _, _ = rebalance_experts(total, experts, 1, 1, num_ranks, policy="deepseek")
    own = alone.view(num_ranks, -1)
    heaviest = total[0][own].argsort(1, descending=True)
    copies = (num_slots - experts) // num_ranks
    columns = [own.gather(1, heaviest[:, j : j + 1]).roll(HOPS[j], 0) for j in range(copies)]
    return torch.cat([own, *columns], 1).flatten()


def decode_trace(tokens: int = 64) -> NDArray[np.int64]:
    """[T, L, 32]; several steps of 64 tokens are summed for more."""
    trace = np.load(DATA / "gpt_oss_20b_decode64.npz")["steady"].astype(np.int64)
    joined = tokens // 64
    return trace[: len(trace) // joined * joined].reshape(-1, joined, *trace.shape[1:]).sum(1)


def drawn_loads(experts: int, assignments: int, steps: int, seed: int) -> Tensor:
    """[T, E]."""
    random = np.random.default_rng(seed)
    popularity = random.normal(size=experts)
    share = np.exp(popularity + 0.2 * random.normal(size=(steps, experts)))
    rows = [random.multinomial(assignments, s / s.sum()) for s in share]
    return torch.from_numpy(np.array(rows))


def cases(steps: int) -> Iterator[Case]:
    for slots in (40, 48):
        for placement in PLACEMENTS:
            for tokens in (64, 256, 1024):
                trace = torch.from_numpy(decode_trace(tokens))
                split = 512 * 64 // tokens
                for layer in LAYERS:
                    past, now = trace[:split, layer], trace[split : split + steps, layer]
                    slots_of = placed(placement, past, slots, 8)
                    name = f"(32, {slots}, 8) decode, {placement}"
                    yield Case(name, past, now, slots_of, 8)
    for E, P, G in SHAPES:
        for placement in PLACEMENTS:
            if placement == "ring" and (E % G or (P - E) % G):
                continue
            for assignments in (256, 2048, 32_768):
                loads = drawn_loads(E, assignments, PAST + steps, seed=E + G)
                past, now = loads[:PAST], loads[PAST:]
                name = f"({E}, {P}, {G}) {placement}"
                yield Case(name, past, now, placed(placement, past, P, G), G)


def sweep(tokens: Tensor, held: Tensor, base: Tensor, sweeps: int) -> Iterator[Tensor]:
    """Makespans [T, L] after each sweep of pouring, remainders to the lightest ranks."""
    tokens, load = tokens.clone(), base + tokens.sum(-2)
    number = torch.arange(1, tokens.shape[-1] + 1)
    for _ in range(sweeps):
        for r in range(tokens.shape[-2]):
            poured = tokens[..., r, :].sum(-1, keepdim=True)
            level, order = torch.where(held[:, r], load - tokens[..., r, :], FAR).sort(stable=True)
            filled = poured + level.cumsum(-1)
            wet = (filled >= number * level).sum(-1, keepdim=True).clamp(min=1)
            total = filled.gather(-1, wet - 1)
            height, extra = total // wet, total % wet
            new = torch.where(number <= wet, height - level, 0) + (number <= extra)
            new = torch.zeros_like(new).scatter(-1, order, new)
            load = load - tokens[..., r, :] + new
            tokens[..., r, :] = new
        yield load.amax(-1)


def move_along_edges(tokens: Tensor, held: Tensor, base: Tensor, rounds: int) -> Iterator[Tensor]:
    """Makespans [T, L] after each round."""
    expert = torch.arange(tokens.shape[-2])[:, None]
    rank = torch.arange(tokens.shape[-1])
    for _ in range(rounds):
        load = base + tokens.sum(-2)
        lightest, to = torch.where(held, load[..., None, :], FAR).min(-1)
        least, sent = torch.where(tokens > 0, lightest[..., None], FAR).min(-2)
        half = ((load - least) // 2).clamp(min=0)
        out = torch.where(expert == sent[..., None, :], half[..., None, :], 0).minimum(tokens)
        tokens = tokens - out + torch.where(rank == to[..., None], out.sum(-1, keepdim=True), 0)
        yield (base + tokens.sum(-2)).amax(-1)


def designs(case: Case) -> dict[str, Tensor]:
    """Makespans [T] of each design."""
    loads, phy2log, G = case.loads[:, None], case.phy2log[None], case.num_ranks
    part = shares(loads, phy2log, G)
    tiles = Tiles.of(phy2log, loads.shape[-1], G)
    start, held = quotas(loads, part, tiles), tiles.copies > 0
    base = rank_loads(tokens_alone(loads, tiles), G)
    target = makespan_of_shares(loads, phy2log, part, G)
    first = (base + start.sum(-2)).amax(-1)
    found = {"quotas": first}
    for name, made in (
        ("sweeps", sweep(start, held, base, 3)),
        ("edges", move_along_edges(start, held, base, 20)),
    ):
        best = first
        for number, makespan in enumerate(made, 1):
            best = best.minimum(makespan)
            if number in (1, 2, 3, 20):
                found[f"{name} {number}"] = best
    for rounds in (4, 8, 16):
        moved = push_tokens(start, held, base, target, rounds)
        found[f"pushes {rounds}"] = (base + moved.sum(-2)).amax(-1)
    return {name: makespan[:, 0] for name, makespan in found.items()}


def compare_designs(steps: int) -> None:
    table: dict[str, dict[str, list[Tensor]]] = {}
    for case in cases(steps):
        ceil, mean = case.ceil_optimum(), case.loads.sum(1) / case.num_ranks
        for design, makespan in designs(case).items():
            above = torch.stack([makespan > ceil, makespan - ceil > 0.002 * mean])
            for row in (case.name, "all"):
                table.setdefault(row, {}).setdefault(design, []).append(above)
    print("dispatches of each design, % above ceil(optimum) / by more than 0.2 % of the mean")
    print_table(
        {
            name: {
                d: "/".join(f"{100 * x:.1f}" for x in torch.cat(a, 1).float().mean(1).tolist())
                for d, a in row.items()
            }
            for name, row in table.items()
        }
    )


def print_table(rows: dict[str, dict[str, str]]) -> None:
    """As Markdown."""
    columns = list(next(iter(rows.values())))
    print("| |", " | ".join(columns), "|")
    print("|" + "---|" * (len(columns) + 1))
    for name, cells in rows.items():
        print(f"| {name} |", " | ".join(cells[c] for c in columns), "|", flush=True)


def decode_sources(steps: int) -> Iterator[tuple[Case, Tensor]]:
    """The yardstick with the counts [T, 8, E] of 8 sources, each 8 requests that go on."""
    routing = read_routing(DATA / "gpt_oss_20b_tokens.npz")
    rows = batches(routing, 64, "shuffled")
    past = torch.from_numpy(counts(routing, rows[256:512], 32))
    split = [counts(routing, r, 32) for r in np.split(rows[512 : 512 + steps], 8, axis=1)]
    by_source = torch.from_numpy(np.stack(split, 1))
    for slots in (40, 48):
        for placement in PLACEMENTS:
            for layer in LAYERS:
                now = by_source[:, :, layer]
                phy2log = placed(placement, past[:, layer], slots, 8)
                name = f"decode (32, {slots}, 8) {placement}, 8 sources of 8 tokens"
                yield Case(name, past[:, layer], now.sum(1), phy2log, 8), now


def drawn_sources(steps: int) -> Iterator[tuple[Case, Tensor]]:
    """32,768 assignments a step, each of one of 32 sources by chance."""
    E, P, G = 256, 288, 32
    loads = drawn_loads(E, 32_768, PAST + steps, seed=0)
    random = np.random.default_rng(1)
    left, parts = loads[PAST:].numpy(), []
    for sources in range(G, 0, -1):
        parts.append(random.binomial(left, 1 / sources))
        left = left - parts[-1]
    now = torch.from_numpy(np.stack(parts, 1))
    for placement in PLACEMENTS:
        phy2log = placed(placement, loads[:PAST], P, G)
        name = f"({E}, {P}, {G}) {placement}, 32 sources of about 128 tokens"
        yield Case(name, loads[:PAST], now.sum(1), phy2log, G), now


def dispatch_sources(case: Case, own: Tensor) -> dict[str, Tensor]:
    """Makespans [T] of all sources with counts [T, n, E] together."""
    phy2log, G, n = case.phy2log, case.num_ranks, own.shape[1]
    loads, part = case.loads[:, None], shares(case.loads[:, None], phy2log[None], G)
    fixed = fixed_shares(case.past[:, None].float(), phy2log[None], G)
    turns = [i * len(phy2log) // G for i in range(n)]
    turned = whole_of(own, torch.stack([phy2log.roll(-slots) for slots in turns]), G)
    tokens = {
        "known": whole(loads, phy2log[None], part, G),
        "own": whole_of(own, phy2log.expand(n, -1), G),
        "turned": torch.stack([turned[:, i].roll(turns[i], -1) for i in range(n)], 1),
        "whole": whole(own, phy2log.expand(n, -1), part.expand(-1, n, -1), G),
        "own_tokens": rounded(own, phy2log, part),
        "drawn": drawn(loads, phy2log[None], part, torch.Generator().manual_seed(0)),
        "fixed": rounded(own, phy2log, fixed),
        "even": rounded(own, phy2log, even_shares(phy2log[None], own.shape[-1])),
    }
    return {name: rank_loads(t.sum(1), G).amax(-1) for name, t in tokens.items()}


def rounded(own: Tensor, phy2log: Tensor, part: Tensor) -> Tensor:
    """[T, n, P] of sources with counts [T, n, E] by shares [T, 1, P] or [1, P]."""
    sources = range(own.shape[1])
    found = [own_tokens(own[:, i : i + 1], phy2log[None], part, i) for i in sources]
    return torch.cat(found, 1)


def whole_of(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:
    return whole(loads, phy2log, shares(loads, phy2log, num_ranks), num_ranks)


def compare_sources(steps: int) -> None:
    table: dict[str, dict[str, list[Tensor]]] = {}
    best: dict[str, list[Tensor]] = {}
    for made in (decode_sources, drawn_sources):
        for case, own in made(steps):
            best.setdefault(case.name, []).append(case.ceil_optimum())
            for rule, makespan in dispatch_sources(case, own).items():
                table.setdefault(case.name, {}).setdefault(rule, []).append(makespan)
    print("makespans of all sources over ceil(optimum), less 1, in %")
    rows: dict[str, dict[str, str]] = {}
    for name, row in table.items():
        least = torch.cat(best[name]).sum()
        rows[name] = {
            r: f"{100 * float(torch.cat(m).sum() / least - 1):.2f}" for r, m in row.items()
        }
    print_table(rows)


def main() -> None:
    commands: dict[str, Callable[[int], None]] = {
        "designs": compare_designs,
        "sources": compare_sources,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=commands)
    parser.add_argument("--steps", type=int, default=64, help="steps that are dispatched")
    arguments = parser.parse_args()
    commands[arguments.command](arguments.steps)


if __name__ == "__main__":
    main()
