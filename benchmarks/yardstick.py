"""The steps that the benchmarks of dispatchers and of placements serve, and what is lost on them.

- decode steps of gpt-oss-20b, 8 ranks: ``steps_of``, ``replay`` (needs the recordings);
- layers of DeepSeek-V3 at (256, 288, 32), steps drawn: ``full_scale_case`` (needs them, too);
- ``Served`` steps of a placement, and their makespans by a way of dispatching, [T, L]: ``even``,
  ``optimal`` (exact), ``floor`` (ceil of it, the best in whole tokens), ``shares`` and ``whole``
  (of ``heuristics.dispatch``); ``loss`` of them in %.

Recordings are looked for in ``--data``, ``$EPLB_RECORDED_LOADS`` or ``../shared/data``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eplb_opt.io.routing import Routing, batches, counts
from heuristics import dispatch, rebalance_experts
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


def loss(found: Sequence[Makespans], cases: Sequence[Served]) -> float:
    """Served loss in %."""
    mean = sum(float(served.loads.sum()) / served.num_ranks for served in cases)
    return (sum(float(makespans.sum()) for makespans in found) / mean - 1) * 100


def place(policy: str, loads: Tensor, num_slots: int, num_ranks: int) -> Tensor:
    """[L, P] from loads [L, E]."""
    return rebalance_experts(loads.float(), num_slots, 1, 1, num_ranks, policy=policy)[0]


def steps_of(
    routing: Routing, batch: int, order: str, seed: int = 3
) -> tuple[Tensor, NDArray[np.int8]]:
    """The trace [T, L, E] and the experts of each token [T, B, L, k]."""
    rows = batches(routing, batch, order, seed)
    return torch.from_numpy(counts(routing, rows, EXPERTS)), routing.experts[rows]


def replay(policy: str, trace: Tensor, chosen: NDArray[np.int8], num_slots: int) -> list[Served]:
    """Placed before steps 512, 768 and 1,024, and the 256 steps after each."""
    cases = []
    for start in (512, 768, 1024):
        seen = trace[start - SEEN.get(policy, 512) : start].sum(0)
        after = slice(start, start + 256)
        phy2log = place(policy, seen, num_slots, RANKS)
        cases.append(Served(trace[after], phy2log, RANKS, chosen[after]))
    return cases


def drawn_steps(weights: NDArray[np.float64], seed: int, steps: int) -> NDArray[np.int64]:
    """[T, E] tokens: the weights times exp(0.2 z), normalised, then 32,768 assignments drawn."""
    random, found = np.random.default_rng(seed), []
    for _ in range(steps):
        popular = weights * np.exp(0.2 * random.normal(size=len(weights)))
        found.append(random.multinomial(32768, popular / popular.sum()))
    return np.array(found)


def full_scale_weights(data: Path) -> NDArray[np.float64]:
    """Tokens of each expert of DeepSeek-V3, [61, 256]."""
    document = json.loads((data / "deepseek_v3" / "prefill_in2048.json").read_text())
    return np.array(document["logical_count"], dtype=np.float64).reshape(-1, 61, 256).sum(0)


def full_scale_case(weights: NDArray[np.float64], layer: int, policy: str) -> Served:
    """One layer of DeepSeek-V3, placed on 1,000 drawn steps, 24 others served."""
    seen = torch.from_numpy(drawn_steps(weights, layer, 1000).sum(0))
    loads = torch.from_numpy(drawn_steps(weights, 1000 + layer, 24))
    return Served(loads[:, None], place(policy, seen[None], 288, 32), 32)
