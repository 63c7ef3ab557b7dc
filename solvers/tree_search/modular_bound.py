"""Modular bound on a packing: which rank sums are possible modulo d.

Most experts have one replica; scaled by the common multiple M of the counts their sizes are 0
modulo M. Only the few other items decide the rank sums modulo a divisor d of M. With slack
``G T - sum of sizes`` the rank sums ``s_g <= T`` need

    sum over ranks of  (T - s_g) mod d  <=  G T - sum of sizes,

and if no assignment of those items alone allows that, no packing keeps to T. Example: three thirds
of a token cannot give four ranks the same sum.

Of 210 packings with 12 to 288 slots it lets the search prove 179 within four million units of work,
163 without it (benchmarks/packing_parts.py).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from solvers.arrays import Integers

MAX_STATES = 4000
MAX_MODULUS = 10_000


def modular_bound(items: Integers, num_ranks: int, bound: int) -> int:
    """The least makespan from ``bound`` on that no modulus excludes; ``items`` [P] sizes.

    The moduli are the divisors of what all sizes that occur once have in common.
    """
    total = int(items.sum())
    reachable = []
    for d in _moduli(items):
        states = _reachable(items, num_ranks, d) if d > num_ranks * bound - total else None
        if states is not None:
            reachable.append((d, states))
    while any(not _allows(states, d, bound, num_ranks * bound - total) for d, states in reachable):
        bound += 1
    return bound


def _moduli(items: Integers) -> list[int]:
    """Divisors, from 2 to MAX_MODULUS, of the greatest common one of the sizes that occur once."""
    sizes, frequency = np.unique(items, return_counts=True)
    common = int(np.gcd.reduce(sizes[frequency == 1], initial=0))
    return [d for d in range(2, min(common, MAX_MODULUS) + 1) if common % d == 0]


def _reachable(items: Integers, num_ranks: int, d: int) -> set[tuple[int, ...]] | None:
    """Rank sums modulo d, sorted, that assignments of the items give; None if they are too many.

    How many items a rank takes is left aside.
    """
    states = {(0,) * num_ranks}
    for residue in (items % d).tolist():
        if residue:
            states = {
                tuple(sorted((*s[:g], (s[g] + residue) % d, *s[g + 1 :])))
                for s in states
                for g in _distinct(s)
            }
        if len(states) > MAX_STATES:
            return None
    return states


def _distinct(state: tuple[int, ...]) -> list[int]:
    """Where a new value starts in a sorted tuple: ranks of equal sum are interchangeable."""
    return [0, *(g + 1 for g, (a, b) in enumerate(pairwise(state)) if a != b)]


def _allows(states: set[tuple[int, ...]], d: int, threshold: int, slack: int) -> bool:
    """Whether some ranks' distances below ``threshold``, modulo ``d``, fit into the slack."""
    return any(sum((threshold - r) % d for r in state) <= slack for state in states)
