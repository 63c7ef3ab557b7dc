"""Test oracles for placement policies, for this repository and for others.

Assertions are here; Hypothesis strategies in :mod:`eplb_opt.testing.strategies` (extra ``test``),
the pytest plugin in :mod:`eplb_opt.testing.plugin`.

>>> from eplb_opt import Instance, Topology
>>> assert_valid([[0, 1, 1]], Instance([[3, 5]], Topology(3, 3)))
>>> assert_valid([[0, 0, 0]], Instance([[3, 5]], Topology(3, 3)))
Traceback (most recent call last):
AssertionError: layer 0: expert 1 has no replica
"""

from eplb_opt.testing.assertions import (
    assert_drop_in,
    assert_equivalent,
    assert_gap_below,
    assert_never_worse,
    assert_valid,
)
from eplb_opt.testing.dispatchers import assert_dispatcher

__all__ = [
    "assert_dispatcher",
    "assert_drop_in",
    "assert_equivalent",
    "assert_gap_below",
    "assert_never_worse",
    "assert_valid",
]
