"""Policies for vLLM: classes with the methods of its ``AbstractEplbPolicy``.

vLLM (looked at: 0.33.0) adds up the tokens of a window over all ranks, and then every rank places
the experts for itself, in the forward pass or, by default, in a thread beside it. What is placed
must therefore depend on the arguments alone, and on what all ranks remember alike.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from heuristics.completion import complete
from heuristics.engines.rules import ruled_placer
from heuristics.engines.windows import Windows
from heuristics.matching import fit_ranks, keep_slots
from heuristics.shape import Shape

Array = TypeVar("Array", Tensor, np.ndarray)


class RefinedEplbPolicy:
    """``refined``, or in a subclass with another ``policy`` any other.

    ``refined:40`` starts from the engine's old map and receives at most 40 experts a layer;
    ``refined@home:0.1`` follows a rule that is not the engine's
    (:func:`heuristics.engines.rules.ruled_placer`).
    """

    policy = "refined"

    @classmethod
    def rebalance_experts(
        cls,
        weight: Tensor,
        num_replicas: int,
        num_groups: int,
        num_nodes: int,
        num_ranks: int,
        old_global_expert_indices: Tensor | None = None,
    ) -> Tensor:
        """The expert in each slot, [L, P] int64, on the device of ``weight``.

        Args:
            weight: [L, E] tokens per logical expert, in vLLM over a whole window: around them
                ``dispatch-aware`` draws steps.
            num_replicas: P.
            num_groups: K; 0 (a model without groups) counts as 1.
            num_nodes: N.
            num_ranks: G.
            old_global_expert_indices: [L, P] the placement now, tensor or numpy array, -1 in the
                slots of new ranks; replicas that stay on their rank then keep their slot, so that
                the engine copies no weights within a rank. A map of more or fewer ranks is read as
                :func:`heuristics.matching.fit_ranks` says. A budget of transfers then counts from
                that map with its holes filled (:func:`heuristics.completion.complete`).

        Raises:
            ArgumentError: an argument does not fit; the message names it.
        """
        sizes = num_replicas, num_groups or 1, num_nodes, num_ranks
        Shape.resolve(weight, *sizes)  # before anything is remembered or fitted
        loads = cls.loads(weight, num_replicas, num_ranks)
        place = ruled_placer(cls.policy)
        if old_global_expert_indices is None:
            return place(loads, *sizes)
        now = torch.as_tensor(old_global_expert_indices).to(weight.device)
        old = fit_ranks(now, num_replicas, num_ranks)
        start = complete(old.long(), weight, num_ranks)
        return keep_slots(place(loads, *sizes, start), old, num_ranks)

    @classmethod
    def loads(cls, weight: Tensor, num_replicas: int, num_ranks: int) -> Tensor:  # noqa: ARG003
        """What the policy sees: [L, E], or [T, L, E]."""
        return weight

    @classmethod
    def preserve_intragpu_slots(cls, phy2log: Array, num_ranks: int, old_phy2log: Array) -> Array:
        """``phy2log`` [L, P] with the slots of each rank permuted: replicas that stay on their rank
        keep their slot, the others fill what is left in order.

        Args:
            phy2log: tensor or numpy array; not changed.
            num_ranks: G; of one that is not positive or does not divide P, ``phy2log`` comes back.
            old_phy2log: the map until now, of as many layers, of any width.
        """
        new, old = torch.as_tensor(phy2log), torch.as_tensor(old_phy2log)
        num_slots = new.shape[1]
        if num_ranks < 1 or num_slots % num_ranks:
            return phy2log
        kept = keep_slots(new, fit_ranks(old, num_slots, num_ranks), num_ranks)
        return kept.numpy() if isinstance(phy2log, np.ndarray) else kept


class WindowedEplbPolicy(RefinedEplbPolicy):
    """``robust`` on the windows of the last rearrangements, one [L, E] each, as steps [T, L, E].

    A subclass may name another ``policy`` that looks at steps, and another number of ``windows``;
    each class remembers windows of its own.
    """

    policy = "robust"
    windows = 8
    recorded: ClassVar[Windows] = Windows()

    def __init_subclass__(cls) -> None:
        cls.recorded = Windows()

    @classmethod
    def loads(cls, weight: Tensor, num_replicas: int, num_ranks: int) -> Tensor:
        """The windows remembered, ``weight`` among them: [T, L, E] with T <= ``windows``."""
        return cls.recorded.add(weight, (num_replicas, num_ranks), cls.windows)


def eplb_policy(name: str) -> type[RefinedEplbPolicy]:
    """The class for a policy's name: one that remembers windows if the policy looks at steps.

    Raises:
        ValueError: no policy has such a name.
    """
    base = WindowedEplbPolicy if ruled_placer(name).takes_steps else RefinedEplbPolicy
    return type("EplbOptPolicy", (base,), {"policy": name})
