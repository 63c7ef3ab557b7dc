"""The steps that the benchmarks of dispatchers and of placements serve, and what is lost on them.

- a ``Task``: steps to place on and steps to serve. Decode steps of gpt-oss-20b, 8 ranks:
  ``replay``, ``halves``; layers of DeepSeek-V3, 32 ranks, steps drawn: ``full_scale``;
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
from heuristics import dispatch
from heuristics.dispatch.slots import even_shares, expert_loads, rank_loads
from heuristics.policies import placer
from solvers.dispatch.classes import classes_of, holders
from solvers.dispatch.optimal import optimal_makespans

DATA = Path(os.environ.get("EPLB_RECORDED_LOADS", Path(__file__).parents[2] / "shared" / "data"))
EXPERTS, RANKS = 32, 8
"""Of gpt-oss-20b, on the yardstick's machine."""
LAYERS = range(3, 58, 6)
"""Of DeepSeek-V3, at full scale."""
BALANCED = ("deepseek", "refined")
"""Policies that balance one sum of loads."""
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


def place(
    policy: str,
    loads: Tensor,
    num_slots: int,
    num_ranks: int,
    num_groups: int = 1,
    num_nodes: int = 1,
    old: Tensor | None = None,
) -> Tensor:
    """[L, P] from loads [L, E] or steps [T, L, E]; ``old`` [L, P] is the placement until now."""
    return placer(policy)(loads.float(), num_slots, num_groups, num_nodes, num_ranks, old)


@dataclass(frozen=True, eq=False)
class Task:
    """A placement to make, and the steps that it will serve.

    Attributes:
        seen: [T, L, E] int64, steps to place on.
        served: [T', L, E] int64.
        num_slots: P.
        num_ranks: G.
        num_groups: K.
        num_nodes: N.
        recent: those that balance one sum of loads see so many of the last steps; None: all.
        chosen: the experts of each token that is served, [T', B, L, k].
    """

    seen: Tensor
    served: Tensor
    num_slots: int
    num_ranks: int
    num_groups: int = 1
    num_nodes: int = 1
    recent: int | None = None
    chosen: NDArray[np.int8] | None = None

    def place(self, policy: str, old: Tensor | None = None) -> Tensor:
        """[L, P] of all layers, in one call."""
        recent = self.recent if policy in BALANCED else None
        seen = self.seen[-recent:] if recent else self.seen
        sizes = (self.num_slots, self.num_ranks, self.num_groups, self.num_nodes)
        return place(policy, seen, *sizes, old=old)

    def serve(self, phy2log: Tensor) -> Served:
        """The steps to come, on a placement."""
        return Served(self.served, phy2log, self.num_ranks, self.chosen)


def steps_of(
    routing: Routing, batch: int, order: str, seed: int = 3
) -> tuple[Tensor, NDArray[np.int8]]:
    """The trace [T, L, E] and the experts of each token [T, B, L, k]."""
    rows = batches(routing, batch, order, seed)
    return torch.from_numpy(counts(routing, rows, EXPERTS)), routing.experts[rows]


def replay(trace: Tensor, chosen: NDArray[np.int8], num_slots: int) -> list[Task]:
    """Placed before steps 512, 768 and 1,024 on the 512 before, and the 256 steps after each."""
    tasks = []
    for start in (512, 768, 1024):
        before, after = slice(start - 512, start), slice(start, start + 256)
        served = (trace[after], num_slots, RANKS)
        tasks.append(Task(trace[before], *served, recent=256, chosen=chosen[after]))
    return tasks


SIZES = [(16, 1, 1), (64, 1, 1), (128, 1, 1), (256, 1, 4), (256, 4, 8), (256, 16, 16)]
"""Requests decoded together; steps of them summed; random orders of the requests."""


def halves(trace: Tensor, chosen: NDArray[np.int8], summed: int) -> Task:
    """Placed on the first half of the steps, at most 256 after it served."""
    steps = len(trace) // summed
    loads = trace[: steps * summed].unflatten(0, (steps, summed)).sum(1)
    tokens = chosen[: steps * summed].reshape(steps, -1, *chosen.shape[2:])
    after = slice(steps // 2, steps // 2 + 256)
    return Task(loads[: steps // 2], loads[after], 40, RANKS, chosen=tokens[after])


def full_scale_weights(data: Path) -> NDArray[np.float64]:
    """Tokens of each expert of DeepSeek-V3, [61, 256]."""
    document = json.loads((data / "deepseek_v3" / "prefill_in2048.json").read_text())
    return np.array(document["logical_count"], dtype=np.float64).reshape(-1, 61, 256).sum(0)


def drawn_steps(
    weights: NDArray[np.float64], seed: int, steps: int, spread: float = 0.2
) -> NDArray[np.int64]:
    """[T, E] tokens: weights times exp(spread z), normalised, then 32,768 assignments drawn."""
    random, found = np.random.default_rng(seed), []
    for _ in range(steps):
        popular = weights * np.exp(spread * random.normal(size=len(weights)))
        found.append(random.multinomial(32768, popular / popular.sum()))
    return np.array(found)


def full_scale(
    weights: NDArray[np.float64],
    layers: Sequence[int],
    num_slots: int = 288,
    num_ranks: int = 32,
    num_groups: int = 1,
    num_nodes: int = 1,
    spread: float = 0.2,
) -> Task:
    """Layers of DeepSeek-V3, placed on 1,000 drawn steps, 24 others served."""

    def drawn(seed: int, steps: int) -> Tensor:
        each = [drawn_steps(weights[layer], seed + layer, steps, spread) for layer in layers]
        return torch.from_numpy(np.stack(each, 1))

    sizes = (num_slots, num_ranks, num_groups, num_nodes)
    return Task(drawn(0, 1000), drawn(1000, 24), *sizes)
