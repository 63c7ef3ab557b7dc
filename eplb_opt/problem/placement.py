"""A placement of replicas on slots, and the maps that serving engines derive from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Placement:
    """Which logical expert each slot holds.

    Only the shape and the range of ids are checked here, so that a placement that breaks the rules
    can be held and shown; :func:`eplb_opt.problem.validity.find_violations` says what is wrong.

    Attributes:
        phy2log: [L, P] int64, the logical expert in each slot.
        num_logical_experts: E.

    Raises:
        ValueError: ``phy2log`` is not a matrix of integers in ``0..E-1``.

    Example:
        >>> placement = Placement([[0, 1, 0, 2]], num_logical_experts=3)
        >>> placement.logcnt.tolist(), placement.log2phy.tolist()
        ([[2, 1, 1]], [[[0, 2], [1, -1], [3, -1]]])
    """

    phy2log: NDArray[np.int64]
    num_logical_experts: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "phy2log", _check_map(self.phy2log, self.num_logical_experts))

    @classmethod
    def in_order(cls, num_layers: int, num_logical_experts: int, num_slots: int) -> Placement:
        """What engines start with: the experts in order, then again from the first."""
        row = np.arange(num_slots, dtype=np.int64) % num_logical_experts
        return cls(np.tile(row, (num_layers, 1)), num_logical_experts)

    @cached_property
    def logcnt(self) -> NDArray[np.int64]:
        """[L, E] int64, replicas of each expert."""
        layers, experts = len(self.phy2log), self.num_logical_experts
        flat = self.phy2log + experts * np.arange(layers)[:, None]
        return np.bincount(flat.ravel(), minlength=layers * experts).reshape(layers, experts)

    @cached_property
    def log2phy(self) -> NDArray[np.int64]:
        """[L, E, X] int64, the slots of each expert in ascending order, padded with -1; X =
        max(logcnt).
        """
        layers, num_slots = self.phy2log.shape
        by_expert = np.argsort(self.phy2log, axis=1, kind="stable")
        expert = np.take_along_axis(self.phy2log, by_expert, axis=1)
        first = np.cumsum(self.logcnt, axis=1) - self.logcnt
        replica_index = np.arange(num_slots) - np.take_along_axis(first, expert, axis=1)
        log2phy = np.full((layers, self.num_logical_experts, int(self.logcnt.max())), -1)
        log2phy[np.arange(layers)[:, None], expert, replica_index] = by_expert
        return log2phy

    def rank_loads(self, loads: ArrayLike, num_ranks: int) -> NDArray[np.float64]:
        """Tokens on each rank under an even split: [L, G] float64 from loads [L, E]."""
        per_replica = np.asarray(loads, dtype=np.float64) / np.maximum(self.logcnt, 1)
        per_slot = np.take_along_axis(per_replica, self.phy2log, axis=1)
        loads_of_ranks: NDArray[np.float64] = per_slot.reshape(len(per_slot), num_ranks, -1).sum(2)
        return loads_of_ranks


def _check_map(given: ArrayLike, num_experts: int) -> NDArray[np.int64]:
    try:
        phy2log = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"phy2log is ragged ({error})") from None
    if phy2log.dtype.kind not in "iu":
        raise ValueError(f"phy2log must hold integers, not {phy2log.dtype}")
    if phy2log.ndim != 2 or 0 in phy2log.shape:
        raise ValueError(f"phy2log of shape {phy2log.shape} is not [layers, slots]")
    outside = (phy2log < 0) | (phy2log >= num_experts)
    if outside.any():
        layer, slot = (int(i) for i in np.argwhere(outside)[0])
        raise ValueError(
            f"layer {layer}, slot {slot} holds expert {phy2log[layer, slot]}, "
            f"which is not in 0..{num_experts - 1}"
        )
    phy2log = phy2log.astype(np.int64)
    phy2log.setflags(write=False)
    return phy2log
