"""Dispatchers side by side: what is lost when the tokens of a step are shared by shares, or drawn.

    python benchmarks/dispatch.py yardstick       # decode steps of 64 requests, 8 ranks
    python benchmarks/dispatch.py full-scale      # steps of 4,096 tokens, (256, 288, 32)
    python benchmarks/dispatch.py by-size         # 16 to 4,096 tokens a step
    python benchmarks/dispatch.py speed           # beside a linear program

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
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, isnan
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array
from torch import Tensor

from eplb_opt.io.routing import Routing, batches, counts, read_routing
from heuristics import dispatch, rebalance_experts
from heuristics.dispatch.drawn import drawn as draw
from heuristics.dispatch.drawn import hashed as hash_tokens
from heuristics.dispatch.lplb import lplb as lplb_rule
from heuristics.dispatch.slots import even_shares, expert_loads, rank_loads
from solvers.dispatch.classes import classes_of, holders
from solvers.dispatch.optimal import optimal_makespans

DATA = Path(os.environ.get("EPLB_RECORDED_LOADS", Path(__file__).parents[2] / "shared" / "data"))
EXPERTS, RANKS = 32, 8
"""Of gpt-oss-20b, on the yardstick's machine."""
SEEN = {"deepseek": 256, "refined": 256}
"""Steps that a placement sees; others see 512."""
GRAPH = {40: "lplb-graph:ring", 48: "lplb-graph:cube"}
Makespans = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Served:
    """Steps that one placement served.

    Attributes:
        loads: [T, L, E] int64.
        phy2log: [L, P].
        num_ranks: G.
        chosen: the experts of each token, [T, B, L, k], None where only loads are known.
    """

    loads: Tensor
    phy2log: Tensor
    num_ranks: int
    chosen: NDArray[np.int8] | None = None

    def first(self, steps: int | None) -> Served:
        """So many of the steps at most, or all."""
        chosen = None if self.chosen is None else self.chosen[:steps]
        return replace(self, loads=self.loads[:steps], chosen=chosen)

    def makespans(self, tokens: Tensor) -> Makespans:
        """Of the steps, [T, L], from the tokens of each slot [T, L, P]."""
        return rank_loads(tokens.double(), self.num_ranks).amax(-1).numpy()

    def of_shares(self, shares: Tensor) -> Makespans:
        """Of the steps, [T, L], from shares [T, L, P]."""
        return self.makespans(expert_loads(self.loads, self.phy2log) * shares.double())

    @property
    def even(self) -> Tensor:
        """Shares [T, L, P]."""
        return even_shares(self.phy2log, self.loads.shape[-1]).expand(len(self.loads), -1, -1)


def even(served: Served) -> Makespans:
    return served.of_shares(served.even)


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


def exact(served: Served) -> NDArray[Any]:
    """The makespans under optimal dispatch, [T, L] fractions."""
    num_experts = served.loads.shape[-1]
    layers = []
    for layer, phy2log in enumerate(served.phy2log.tolist()):
        held = holders(phy2log, num_experts, served.num_ranks)
        layers.append(optimal_makespans(classes_of(served.loads[:, layer].numpy(), held)).values)
    return np.array(layers, dtype=object).T


def optimal(served: Served) -> Makespans:
    return exact(served).astype(np.float64)


def floor(served: Served) -> Makespans:
    return np.vectorize(ceil, otypes=[np.float64])(exact(served))


def best_shares(served: Served) -> Tensor:
    return dispatch.shares(served.loads.float(), served.phy2log, served.num_ranks)


def shares(served: Served) -> Makespans:
    return served.of_shares(best_shares(served))


def whole_tokens(served: Served, loads: Tensor, shares: Tensor) -> Tensor:
    return dispatch.whole(loads, served.phy2log, shares, served.num_ranks)


def whole(served: Served) -> Makespans:
    return served.makespans(whole_tokens(served, served.loads, best_shares(served)))


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


def loss(found: Sequence[Makespans], cases: Sequence[Served]) -> float:
    """Served loss in %."""
    mean = sum(float(served.loads.sum()) / served.num_ranks for served in cases)
    return (sum(float(makespans.sum()) for makespans in found) / mean - 1) * 100


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


def place(policy: str, loads: Tensor, num_slots: int, num_ranks: int) -> Tensor:
    """[L, P] from loads [L, E]."""
    return rebalance_experts(loads.float(), num_slots, 1, 1, num_ranks, policy=policy)[0]


def replay(policy: str, trace: Tensor, chosen: NDArray[np.int8], num_slots: int) -> list[Served]:
    """Placed before steps 512, 768 and 1,024, and the 256 steps after each."""
    cases = []
    for start in (512, 768, 1024):
        seen = trace[start - SEEN.get(policy, 512) : start].sum(0)
        after = slice(start, start + 256)
        phy2log = place(policy, seen, num_slots, RANKS)
        cases.append(Served(trace[after], phy2log, RANKS, chosen[after]))
    return cases


def steps_of(
    routing: Routing, batch: int, order: str, seed: int = 3
) -> tuple[Tensor, NDArray[np.int8]]:
    """The trace [T, L, E] and the experts of each token [T, B, L, k]."""
    rows = batches(routing, batch, order, seed)
    return torch.from_numpy(counts(routing, rows, EXPERTS)), routing.experts[rows]


def yardstick(options: argparse.Namespace) -> None:
    routing = read_routing(options.data / "gpt_oss_20b_tokens.npz")
    print(header("64 tokens a step"))
    for name, order in (("steady", "shuffled"), ("topics", "topic")):
        trace, chosen = steps_of(routing, 64, order)
        for slots, graph in GRAPH.items():
            for policy in ("deepseek", "refined", graph):
                cases = replay(policy, trace, chosen, slots)
                case = f"{name}, {slots} slots, `{policy}`"
                print(row(case, cases, options.steps), flush=True)


def drawn_steps(weights: NDArray[np.float64], seed: int, steps: int) -> NDArray[np.int64]:
    """[T, E] tokens: the weights times exp(0.2 z), normalised, then 32,768 assignments drawn."""
    random, found = np.random.default_rng(seed), []
    for _ in range(steps):
        popular = weights * np.exp(0.2 * random.normal(size=len(weights)))
        found.append(random.multinomial(32768, popular / popular.sum()))
    return np.array(found)


def full_scale_case(weights: NDArray[np.float64], layer: int, policy: str) -> Served:
    """One layer of DeepSeek-V3, placed on 1,000 drawn steps, 24 others served."""
    seen = torch.from_numpy(drawn_steps(weights, layer, 1000).sum(0))
    loads = torch.from_numpy(drawn_steps(weights, 1000 + layer, 24))
    return Served(loads[:, None], place(policy, seen[None], 288, 32), 32)


def full_scale(options: argparse.Namespace) -> None:
    document = json.loads((options.data / "deepseek_v3" / "prefill_in2048.json").read_text())
    weights = np.array(document["logical_count"], dtype=np.float64).reshape(-1, 61, 256).sum(0)
    print(header("4,096 tokens a step"))
    for policy in ("deepseek", "refined", "lplb-graph:ring"):
        layers = range(3, 58, 6)
        cases = [full_scale_case(weights[layer], layer, policy) for layer in layers]
        print(row(f"`{policy}`", cases, options.steps), flush=True)


SIZES = [(16, 1, 1), (64, 1, 1), (128, 1, 1), (256, 1, 4), (256, 4, 8), (256, 16, 16)]
"""Requests decoded together; steps of them summed; random orders of the requests."""


def halves(policy: str, trace: Tensor, chosen: NDArray[np.int8], summed: int) -> Served:
    """Placed on the first half of the steps, at most 256 after it served."""
    steps = len(trace) // summed
    loads = trace[: steps * summed].unflatten(0, (steps, summed)).sum(1)
    tokens = chosen[: steps * summed].reshape(steps, -1, *chosen.shape[2:])
    after = slice(steps // 2, steps // 2 + 256)
    phy2log = place(policy, loads[: steps // 2].sum(0), 40, RANKS)
    return Served(loads[after], phy2log, RANKS, tokens[after])


def by_size(options: argparse.Namespace) -> None:
    routing = read_routing(options.data / "gpt_oss_20b_tokens.npz")
    print(header("tokens a step"))
    for policy in ("deepseek", "refined", "lplb-graph:ring"):
        for batch, summed, orders in SIZES:
            cases = [
                halves(policy, *steps_of(routing, batch, "shuffled", seed), summed)
                for seed in range(3, 3 + orders)
            ]
            served = sum(len(case.first(options.steps).loads) for case in cases)
            name = f"{batch * summed:,} ({served} steps), `{policy}`"
            print(row(name, cases, options.steps), flush=True)


def linear_program(loads: Sequence[int], phy2log: Sequence[int], num_ranks: int) -> float:
    """The makespan under optimal dispatch by HiGHS: a share for each slot, and the makespan."""
    P, E = len(phy2log), len(loads)
    slot, expert = np.arange(P), np.array(phy2log)
    per_rank = P // num_ranks
    upper = coo_array(
        (
            np.r_[np.array(loads, float)[expert], np.full(num_ranks, -1.0)],
            (np.r_[slot // per_rank, np.arange(num_ranks)], np.r_[slot, np.full(num_ranks, P)]),
        )
    )
    equal = coo_array((np.ones(P), (expert, slot)), shape=(E, P + 1))
    cost = np.r_[np.zeros(P), 1.0]
    program = linprog(cost, upper.tocsr(), np.zeros(num_ranks), equal.tocsr(), np.ones(E))
    return float(program.fun)


def seconds(run: Callable[[], object]) -> float:
    """The median of three, once run before."""
    run()
    found = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return median(found)


def programs(served: Served, steps: int) -> list[float]:
    """The values of the first steps by linear programs."""
    phy2log = served.phy2log[0].tolist()
    return [linear_program(w.tolist(), phy2log, served.num_ranks) for w in served.loads[:steps, 0]]


def all_tokens(served: Served, tokens: Tensor) -> None:
    """Physical ids of the tokens of every step, one call a step, as if one source had them all."""
    assert served.chosen is not None
    chosen = torch.from_numpy(served.chosen[:, :, 0].astype(np.int64))
    for ids, of_slots in zip(chosen, tokens[:, 0], strict=True):
        dispatch.physical_ids(ids, served.phy2log[0], of_slots)


def speed_row(name: str, served: Served) -> str:
    """Milliseconds for each step of one layer, all steps in one call where there is one."""
    steps, few = len(served.loads), 20
    common = best_shares(served)
    tokens = whole_tokens(served, served.loads, common)
    runs: list[Callable[[], object]] = [
        lambda: optimal(served),
        lambda: best_shares(served),
        lambda: whole_tokens(served, served.loads, common),
        lambda: all_tokens(served, tokens),
        lambda: lplb_shares(served),
    ]
    program = seconds(lambda: programs(served, few)) / few
    np.testing.assert_allclose(programs(served, few), optimal(served)[:few, 0], rtol=1e-6)
    each = [program, *(seconds(run) / steps for run in runs)]
    one = replace(served, loads=served.loads[:1])
    each.append(seconds(lambda: best_shares(one)))
    cells = [f"{s * 1e3:.3f} ({program / s:,.{0 if s < program / 10 else 1}f})" for s in each]
    return f"| {name} | {' | '.join(cells)} |"


def synthetic(tokens: int, experts: int, chosen: int, steps: int) -> NDArray[np.int8]:
    """[T, B, 1, k] different experts of each token, lognormal 1 popularity that varies by 0.2."""
    random = np.random.default_rng(0)
    popular = random.normal(size=experts) + 0.2 * random.normal(size=(steps, 1, experts))
    keys = popular + random.gumbel(size=(steps, tokens, experts))
    return np.argpartition(-keys, chosen, axis=2)[:, :, None, :chosen]


SHAPES = [(64, 32, 4, 40, 8, 1000), (1024, 32, 4, 40, 8, 200), (4096, 256, 8, 288, 32, 100)]
"""Tokens, experts, experts of a token, slots, ranks, steps."""


def speed(options: argparse.Namespace) -> None:
    print("| (E, P, G), tokens, placement | linear program | exact | shares | whole | physical ids "
          "| LPLB | shares, one step |\n|---|--:|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    for tokens, E, k, P, G, steps in SHAPES:
        chosen = synthetic(tokens, E, k, steps)
        flat = torch.from_numpy(chosen.reshape(steps, -1).astype(np.int64))
        loads = torch.stack([torch.bincount(row, minlength=E) for row in flat])[:, None]
        for policy in ("deepseek", "lplb-graph:ring"):
            served = Served(loads, place(policy, loads.sum(0), P, G), G, chosen)
            served = served.first(options.steps)
            print(speed_row(f"({E}, {P}, {G}), {tokens:,}, `{policy}`", served), flush=True)


def main() -> None:
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "yardstick": yardstick,
        "full-scale": full_scale,
        "by-size": by_size,
        "speed": speed,
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
