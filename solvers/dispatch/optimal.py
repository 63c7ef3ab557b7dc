"""Makespans of all steps of a placement under optimal dispatch, with the ranks that prove them.

By max-flow min-cut the makespan of a step is

    max over sets U of ranks of  load of the experts whose ranks are all in U / |U|.

Of few ranks all sets are tried, by a transform of sums over subsets (Yates 1937). Else Newton steps
on the ratio: a makespan that is too small leaves a cut U, whose ratio is the next trial
(Dinkelbach, Management Science 13 (1967) 492). The ratio of any U is a lower bound, so the first
trial is the largest ratio of all ranks, of a rank alone, and of the cuts of steps before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.rationals import Integers, widen
from solvers.dispatch.classes import Classes
from solvers.dispatch.shares import load_inside, newton_steps

FEW_RANKS = 10
"""All 2^G sets of ranks are tried."""
TABLE_ENTRIES = 2**21
"""Of one table of sums over subsets: 16 MB."""
UNCOMPILED_PAIRS = 2_000
"""Steps times pairs (class, rank) below which loading compiled code takes longer than it saves."""


@dataclass(frozen=True)
class Makespans:
    """Of T steps: ``loads[t] / number[t]``, in the unit of the loads.

    Attributes:
        loads: [T] of the experts whose ranks are all in ``critical``.
        critical: [T, G] bool, the set U of ranks.
    """

    loads: Integers
    critical: NDArray[np.bool_]

    @property
    def values(self) -> list[Fraction]:
        """[T] in the unit of the loads."""
        number = self.critical.sum(axis=1).tolist()
        return [Fraction(w, n) for w, n in zip(self.loads.tolist(), number, strict=True)]


def optimal_makespans(classes: Classes) -> Makespans:
    """Exact, in integers of any size."""
    few = classes.base.shape[1] <= FEW_RANKS
    return try_all_sets(classes) if few else _newton_steps(classes)


def try_all_sets(classes: Classes) -> Makespans:
    """O(2^G G) additions a step, vectorized over steps."""
    T, G = classes.base.shape
    common = math.lcm(*range(1, G + 1))
    bit = 1 << np.arange(G)
    masks = np.r_[bit, classes.held @ bit]
    loads: Any = classes.columns.T.astype(widen(classes.totals, common).dtype)
    sizes = np.array([mask.bit_count() for mask in range(2**G)])
    chunk = max(1, TABLE_ENTRIES >> G)
    best = np.zeros(T, np.int64)
    for i in range(0, T, chunk):
        best[i : i + chunk] = _best_masks(loads[:, i : i + chunk], masks, sizes, common)
    critical = (best[:, None] & bit) > 0
    return of_cuts(classes, critical)


def _best_masks(
    loads: Integers, masks: NDArray[np.int64], sizes: NDArray[np.int64], common: int
) -> NDArray[np.int64]:
    """[T] the set of ranks whose ratio is largest, as bits; from loads [sets, T] of ``masks``."""
    num_ranks = int(sizes[-1])
    table: Any = np.zeros((len(sizes), loads.shape[1]), loads.dtype)
    table[masks] = loads  # of exactly these ranks
    for g in range(num_ranks):
        halves = table.reshape(-1, 2, 1 << g, loads.shape[1])
        halves[:, 1] += halves[:, 0]  # now of subsets of these ranks
    best, ratio = np.zeros(loads.shape[1], np.int64), None
    for k in range(1, num_ranks + 1):
        of_size = np.flatnonzero(sizes == k)
        first = table[of_size].argmax(axis=0)
        mask = of_size[first]
        found = table[mask, np.arange(loads.shape[1])] * (common // k)
        better = np.ones_like(best, bool) if ratio is None else (found > ratio).astype(bool)
        best = np.where(better, mask, best)
        ratio = found if ratio is None else np.where(better, found, ratio)
    return best


def of_cuts(classes: Classes, critical: NDArray[np.bool_]) -> Makespans:
    """With the loads inside the sets ``critical`` [T, G]."""
    inside = ~(~critical @ classes.held.T)  # [T, C]: no rank of the class is outside
    loads = np.where(critical, classes.base, 0).sum(axis=1)
    return Makespans(loads + np.where(inside, classes.loads, 0).sum(axis=1), critical)


def _newton_steps(classes: Classes) -> Makespans:
    """Compiled where 64 bits hold (total load) * G^2, else from a guess of the compiled code on
    shorter loads in Python's integers.
    """
    steps, G = classes.base.shape
    if steps * classes.held.sum() < UNCOMPILED_PAIRS:
        return of_cuts(classes, python_cuts(classes, np.ones((steps, G), bool)))
    bits = (int(classes.totals.max()) * G**2).bit_length() - 63
    if bits <= 0:
        return of_cuts(classes, compiled_cuts(classes))
    shorter = Classes(classes.columns >> bits, classes.held)
    return of_cuts(classes, python_cuts(classes, compiled_cuts(shorter)))


def compiled_cuts(classes: Classes) -> NDArray[np.bool_]:
    """[T, G] critical sets of ranks; 64 bits hold each total load * G^2."""
    from solvers.dispatch import flow  # loads numba

    pairs = np.argwhere(classes.held)
    base, loads = classes.base.astype(np.int64), classes.loads.astype(np.int64)
    return flow.find_cuts(base, loads, pairs[:, 0], pairs[:, 1])


def python_cuts(classes: Classes, guesses: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[T, G] critical sets of ranks, each from the best of all ranks, the fullest rank alone, the
    guess [T, G] for it, and the set of the step before.
    """
    G = classes.base.shape[1]
    ranks = [{g} for g in range(G)] + [set(np.flatnonzero(row).tolist()) for row in classes.held]
    everywhere = cut = frozenset(range(G))
    critical = np.zeros_like(guesses)
    for t, row in enumerate(classes.columns.tolist()):
        fullest, guess = max(range(G), key=row.__getitem__), guesses[t].nonzero()[0].tolist()
        starts = [everywhere, frozenset([fullest]), frozenset(guess), cut]
        best = max(starts, key=lambda U: Fraction(load_inside(row, ranks, U), len(U)))
        _, cut = newton_steps(row, ranks, best, G)
        critical[t, list(cut)] = True
    return critical
