"""What a dispatcher's answer must be, and what it costs beside even shares and the optimum.

Loads are w [T, L, E] tokens, slot p is on rank p // S and serves ``w[e] x[p]`` tokens of its expert
e; the makespan of a step of a layer is the largest sum over the slots of a rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solvers.dispatch.classes import classes_of, holders
from solvers.dispatch.optimal import optimal_makespans

SHARE_TOLERANCE = 1e-5
"""The shares of an expert sum to 1 within this: they are float32."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class BadAnswerError(AssertionError):
    """What a dispatcher returned says not how all tokens are served; the message is one line."""


@dataclass(frozen=True, eq=False)
class Case:
    """Steps that a dispatcher serves with one placement of each layer.

    Attributes:
        source: for messages.
        loads: [T, L, E] tokens.
        phy2log: [L, P] the expert in each slot.
        num_ranks: G.
    """

    source: str
    loads: Ints
    phy2log: Ints
    num_ranks: int

    @property
    def num_experts(self) -> int:
        """E."""
        return int(self.loads.shape[-1])

    @property
    def counts(self) -> Ints:
        """[L, E] slots of each expert."""
        return by_expert(np.ones_like(self.phy2log), self).astype(np.int64)

    @property
    def mean_loads(self) -> Floats:
        """[T, L] tokens of a rank in the mean."""
        return np.asarray(self.loads.sum(axis=-1) / self.num_ranks, dtype=np.float64)


def by_expert(slots: NDArray[Any], case: Case) -> NDArray[Any]:
    """Sums over the slots of each expert: [..., L, E] from [..., L, P]."""
    layers, num_slots = case.phy2log.shape
    index = case.phy2log + case.num_experts * np.arange(layers)[:, None]
    rows = slots.reshape(int(np.prod(slots.shape[:-2])), layers * num_slots)
    sums = np.zeros((len(rows), layers * case.num_experts), slots.dtype)
    np.add.at(sums.T, index.ravel(), rows.T)
    return sums.reshape(*slots.shape[:-1], case.num_experts)


def by_rank(slots: NDArray[Any], case: Case) -> NDArray[Any]:
    """Sums over the slots of each rank: [..., G] from [..., P]."""
    slots_per_rank = slots.shape[-1] // case.num_ranks
    ranks = slots.reshape(*slots.shape[:-1], case.num_ranks, slots_per_rank)
    return np.asarray(ranks.sum(axis=-1))


def of_experts(values: NDArray[Any], case: Case) -> NDArray[Any]:
    """For each slot what stands for its expert: [..., L, P] from [..., L, E]."""
    index = np.broadcast_to(case.phy2log, (*values.shape[:-1], case.phy2log.shape[-1]))
    return np.take_along_axis(values, index, axis=-1)


def is_whole(values: NDArray[Any]) -> bool:
    """Whether an answer is whole tokens: integers; else it is shares."""
    return values.dtype.kind in "iub"


def check_answer(values: NDArray[Any], case: Case) -> None:
    """Shares [T, L, P], finite, not negative, that sum to 1 over the slots of an expert; or whole
    tokens, not negative, that sum to its load.

    Raises:
        BadAnswerError: names the first step, layer, and slot or expert where it is not so.
    """
    expected = (*case.loads.shape[:-1], case.phy2log.shape[-1])
    if values.shape != expected:
        raise BadAnswerError(
            f"{case.source}: the answer has shape {list(values.shape)}, not {list(expected)}: "
            "return [..., L, P] for loads [..., L, E]"
        )
    _first(~np.isfinite(values), "slot", values, case, "is not finite")
    _first(values < 0, "slot", values, case, "is negative")
    sums = by_expert(values.astype(np.int64 if is_whole(values) else np.float64), case)
    if is_whole(values):
        _first(sums != case.loads, "expert", sums, case, "whole tokens for its slots, not its load")
    else:
        off = (np.abs(sums - 1) > SHARE_TOLERANCE) & (case.counts > 0)
        _first(off, "expert", sums, case, "is the sum of its shares, not 1")


def _first(bad: NDArray[Any], word: str, values: NDArray[Any], case: Case, what: str) -> None:
    if not bad.any():
        return
    place = tuple(np.argwhere(bad)[0].tolist())
    *steps, layer, index = place
    step = f"step {', '.join(map(str, steps))}, " if steps else ""
    load = f" {case.loads[place]}" if what.endswith("load") else ""
    more = f" (and {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
    raise BadAnswerError(
        f"{case.source}: {step}layer {layer}, {word} {index}: {values[place]:g} {what}{load}{more}"
    )


def slot_tokens(values: NDArray[Any], case: Case) -> NDArray[Any]:
    """Tokens of each slot [..., L, P], int64 from whole tokens; float64 from shares, those of an
    expert divided by their sum, so that all its tokens are served.
    """
    if is_whole(values):
        return values.astype(np.int64)
    shares = values.astype(np.float64)
    sums = of_experts(by_expert(shares, case), case)
    return np.asarray(shares / sums * of_experts(case.loads, case))


def makespans(values: NDArray[Any], case: Case) -> Floats:
    """[..., L] tokens on the fullest rank, from a valid answer."""
    ranks = by_rank(slot_tokens(values, case), case)
    return np.asarray(ranks.max(axis=-1), dtype=np.float64)


def even_shares(case: Case) -> Floats:
    """[..., L, P] with 1 / c_e in each slot of expert e."""
    shares = 1 / of_experts(case.counts, case)
    return np.broadcast_to(shares, (*case.loads.shape[:-1], shares.shape[-1]))


def dealt_tokens(case: Case) -> Ints:
    """[..., L, P] whole tokens, those of an expert dealt to its slots in turn.

    That is 1 / c_e each, rounded by largest remainders, which are all equal: the first slots of an
    expert get one more.
    """
    counts = of_experts(case.counts, case)
    same = case.phy2log[:, :, None] == case.phy2log[:, None, :]
    before = np.tril(same, -1).sum(axis=-1)  # slots of the expert that come first
    loads = of_experts(case.loads, case)
    return np.asarray(loads // counts + (before < loads % counts))


def even_limits(case: Case, *, whole: bool) -> Floats:
    """[..., L] what no makespan may be above: that of even shares.

    In whole tokens the larger of that rounded up, which can always be met since flows are integral,
    and of tokens dealt in turn, which is what an engine has without a dispatcher.
    """
    even = makespans(even_shares(case), case)
    if not whole:
        return even
    rounded = np.ceil(even * (1 - 1e-12))  # 1 / 3 of 3 tokens is 1
    return np.maximum(rounded, makespans(dealt_tokens(case), case))


@cache
def optima(case: Case, *, whole: bool) -> Floats:
    """[T, L] least makespans of the placement, exact and then rounded; in whole tokens the next
    integer, by integrality of flows.
    """
    found = np.zeros(case.loads.shape[:2])
    for layer, row in enumerate(case.phy2log.tolist() if found.size else ()):
        held = holders(row, case.num_experts, case.num_ranks)
        exact = optimal_makespans(classes_of(case.loads[:, layer], held)).values
        found[:, layer] = [float(-(-v // 1) if whole else v) for v in exact]
    return found
