"""SGLang's dispatcher ``--ep-dispatch-algorithm lp`` by ours: shares by sweeps, tokens by count.

SGLang (looked at: 0.5.23) has two steps in each layer. ``LPLBSolver.solve`` adds up the tokens of
each expert over all ranks and finds the part of them that each replica serves;
``topk_ids_logical_to_physical`` then lets every token draw a replica with these probabilities. The
drop-ins here keep both interfaces. The first uses :func:`heuristics.dispatch.shares`. The second
does not draw: it gives replicas whole numbers of tokens by :func:`heuristics.dispatch.whole` and
deals the tokens out in order, so that the numbers are met exactly.

To know how many tokens of an expert the ranks before it have, a rank needs the counts of each rank,
[G, E], in place of their sum [E]: ``solve`` gathers them. :class:`OwnCountsSolver` only adds them
up; each rank then rounds the common shares for its own tokens (``heuristics.dispatch.own_tokens``).

``heuristics.engines.plugins`` puts both into SGLang if the environment says
``EPLB_OPT_SGLANG=dispatch`` or ``EPLB_OPT_SGLANG=dispatch:own``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

from heuristics.dispatch import expert_counts, own_tokens, physical_ids, shares, whole
from heuristics.dispatch.fused import Plan, shares_and_tokens

HAVE_TRITON = find_spec("triton") is not None


class RankGroup(Protocol):
    """What is used of SGLang's ``GroupCoordinator``: the ranks that share the experts."""

    rank_in_group: int

    def all_gather(self, input_: Tensor, dim: int) -> Tensor:
        """The inputs of all ranks one after the other along ``dim``."""

    def all_reduce(self, input_: Tensor) -> Tensor:
        """The sum over the ranks; only what is returned counts."""


def by_operations(loads: Tensor, phy2log: Tensor, num_ranks: int) -> tuple[Tensor, Tensor]:
    """Shares [P] and whole tokens [P] of one layer with loads [E]: hundreds of small operations."""
    part = shares(loads[None], phy2log[None], num_ranks)
    return part[0], whole(loads[None], phy2log[None], part, num_ranks)[0]


def by_kernel(loads: Tensor, phy2log: Tensor, num_ranks: int) -> tuple[Tensor, Tensor]:
    """The same in one kernel on a GPU, and some operations on the map, which may have changed."""
    part, tokens = shares_and_tokens(loads[None], Plan.of(phy2log[None], len(loads), num_ranks))
    return part[0], tokens[0]


def decide(loads: Tensor, phy2log: Tensor, num_ranks: int) -> tuple[Tensor, Tensor]:
    """As the device allows."""
    best = by_kernel if loads.is_cuda and HAVE_TRITON else by_operations
    return best(loads, phy2log, num_ranks)


@dataclass(frozen=True)
class Step:
    """What ``solve`` knows of a step, for the dispatch of the same step.

    Attributes:
        phy2log: [P] int64, the expert in each slot.
        num_ranks: G.
        own: [E] int64, the tokens of each expert on this rank.
        before: [E] int64, those that ``tokens`` counts on the ranks before this one.
        tokens: [P] int64, those that each slot is to serve: over all ranks, or of this one.
    """

    phy2log: Tensor
    num_ranks: int
    own: Tensor
    before: Tensor
    tokens: Tensor

    def physical_ids(self, topk_ids: Tensor, rank_invariant: bool) -> Tensor:
        """The slot that serves each token, shape and dtype of ``topk_ids``; -1 stays -1.

        ``rank_invariant``: every rank holds the same tokens, so its own are all there are.
        """
        if not rank_invariant:
            return physical_ids(topk_ids, self.phy2log, self.tokens, before=self.before)
        _, tokens = decide(self.own, self.phy2log, self.num_ranks)
        return physical_ids(topk_ids, self.phy2log, tokens)


class LPLBSolver:
    """Stands in for SGLang's class of this name, of which there is one a layer.

    Nothing is derived from the maps ahead of time: SGLang changes them in place when experts move,
    and a recorded CUDA graph then reads the new ones. No step waits for the device.

    Args:
        phy2log: [P] the expert in each slot.
        log2phy: [E, X] the slots of each expert, padded with -1.
        num_gpus: G, which divides P; rank g holds slots ``g * P // G`` and following.
        ep_group: the ranks that share the experts; None for one rank.
        logical_to_all_physical_map_num_valid: not used.
    """

    def __init__(
        self,
        phy2log: Tensor,
        log2phy: Tensor,
        num_gpus: int,
        ep_group: RankGroup | None = None,
        logical_to_all_physical_map_num_valid: Tensor | None = None,  # noqa: ARG002
    ) -> None:
        num_slots = len(phy2log)
        if num_gpus < 1 or num_slots % num_gpus:
            raise ValueError(f"{num_slots} physical experts are no multiple of num_gpus={num_gpus}")
        self.phy2log = phy2log
        self.log2phy = log2phy
        self.num_gpus = num_gpus
        self.ep_group = ep_group

    def solve(self, topk_ids: Tensor) -> Tensor:
        """The probability of each replica, [E, X] float32 in the order of ``log2phy``, 0 at -1.

        All ranks call it at every step, one without tokens with an empty ``topk_ids``.

        Args:
            topk_ids: [tokens, k] int32, the experts of this rank's tokens; -1 is padding.
        """
        own = expert_counts(topk_ids, len(self.log2phy))
        phy2log = self.phy2log.long()
        part, tokens, before = self._decide(own, phy2log)
        columns = self.log2phy.long()
        probability = part[columns.clamp(min=0)].masked_fill(columns < 0, 0.0)
        # The dispatch step gets this very tensor and nothing else that knows the layer.
        step = Step(phy2log, self.num_gpus, own, before, tokens)
        probability.step = step  # type: ignore[attr-defined]
        return probability

    def _decide(self, own: Tensor, phy2log: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shares [P], tokens [P] and ``before`` [E] of the step, from this rank's counts [E]."""
        if self.ep_group is None:
            return *decide(own, phy2log, self.num_gpus), torch.zeros_like(own)
        gathered = self.ep_group.all_gather(own.int()[None], dim=0).long()
        before = gathered[: self.ep_group.rank_in_group].sum(0)
        return *decide(gathered.sum(0), phy2log, self.num_gpus), before


class OwnCountsSolver(LPLBSolver):
    """Adds counts up instead of gathering them: each rank rounds the common shares for itself."""

    def _decide(self, own: Tensor, phy2log: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.ep_group is None:
            return super()._decide(own, phy2log)
        loads, rank = self.ep_group.all_reduce(own.float()), self.ep_group.rank_in_group
        part, _ = decide(loads, phy2log, self.num_gpus)
        tokens = own_tokens(own[None], phy2log[None], part[None], rank)[0]
        return part, tokens, torch.zeros_like(own)


def topk_ids_logical_to_physical(
    original: Callable[..., Tensor],
    topk_ids: Tensor,
    info: Any,
    log2phy_prob: Tensor | None = None,
) -> Tensor:
    """The slots of tokens after :meth:`LPLBSolver.solve`; every other case is SGLang's own.

    Args:
        original: SGLang's function of this name.
        topk_ids: [tokens, k] int32, experts.
        info: SGLang's ``ExpertLocationDispatchInfo`` of the layer, or None.
        log2phy_prob: what ``solve`` returned for the same ``topk_ids``.
    """
    step = getattr(log2phy_prob, "step", None)
    if info is None or info.ep_dispatch_algorithm != "lp" or step is None:
        return original(topk_ids, info, log2phy_prob)
    return step.physical_ids(topk_ids, info.rank_invariant)  # type: ignore[no-any-return]


SOLVERS = {"dispatch": LPLBSolver, "dispatch:own": OwnCountsSolver}
