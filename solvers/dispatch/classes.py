"""A placement as an optimal dispatcher sees it: which ranks hold an expert is all that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.rationals import Integers, widen


@dataclass(frozen=True)
class Classes:
    """Loads of T steps by the ranks that may serve them; G ranks.

    Attributes:
        columns: [T, G + C] load of the experts that each rank alone holds, then of each class, the
            experts that the same two or more ranks hold.
        held: [C, G] bool, the ranks of each class.
    """

    columns: Integers
    held: NDArray[np.bool_]

    @property
    def base(self) -> Integers:
        """[T, G] load of the experts that each rank alone holds."""
        return self.columns[:, : self.held.shape[1]]

    @property
    def loads(self) -> Integers:
        """[T, C] load of each class."""
        return self.columns[:, self.held.shape[1] :]

    @property
    def totals(self) -> Integers:
        """[T] load of each step."""
        totals: Integers = self.columns.sum(axis=1)
        return totals


def holders(phy2log: Sequence[int], num_experts: int, num_ranks: int) -> NDArray[np.bool_]:
    """[E, G] whether the rank holds the expert, from the experts in the slots [P]."""
    held = np.zeros((num_experts, num_ranks), dtype=bool)
    slots_per_rank = len(phy2log) // num_ranks
    held[np.asarray(phy2log), np.arange(len(phy2log)) // slots_per_rank] = True
    return held


def classes_of(loads: Integers, held: NDArray[np.bool_]) -> Classes:
    """The classes of experts with loads [T, E] and ranks [E, G].

    Raises:
        ValueError: an expert with load has no slot.
    """
    loads, number = widen(loads, loads.shape[1]), held.sum(axis=1)
    for expert in np.flatnonzero(number == 0):
        if loads[:, expert].any():
            raise ValueError(f"expert {expert} has load but no slot: give every expert a replica")
    several = np.flatnonzero(number > 1)
    kinds, kind = np.unique(held[several], axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    base = [loads[:, (number == 1) & on_rank].sum(axis=1) for on_rank in held.T]
    summed = [loads[:, several[kind == c]].sum(axis=1) for c in range(len(kinds))]
    return Classes(np.stack([*base, *summed], axis=1), kinds)
