"""How long a dispatch of one layer takes, beside a linear program.

Run: python benchmarks/dispatch_speed.py

``--steps 20`` serves no more than the first 20 steps, for a first look. A cell is milliseconds for
each step, all steps in one call where there is one, and in brackets how many times faster than the
linear program that is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array
from torch import Tensor
from yardstick import Served, best_shares, optimal, place, whole_tokens

from heuristics import dispatch
from heuristics.dispatch.lplb import lplb


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
        lambda: lplb(served.loads.float(), served.phy2log, served.num_ranks),
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds of a dispatch of one layer")
    parser.add_argument("--steps", type=int, help="at most so many")
    options = parser.parse_args()
    torch.set_num_threads(1)
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


if __name__ == "__main__":
    main()
