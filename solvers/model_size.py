"""Refuse what would not fit in memory, instead of being killed."""

from __future__ import annotations

LARGEST_MODEL = 20_000_000
"""Nonzeros of a model at most: some GB in the solvers' own structures."""
LARGEST_TABLE = 2**25
"""Entries of a table at most: each takes 8 to 50 bytes."""


class TooLargeError(ValueError):
    """A method refuses a layer for its size; another may take it."""


def require_size(backend: str, variables: int, nonzeros: int) -> None:
    """Refuse a model with too many nonzeros.

    Raises:
        TooLargeError: it has more than :data:`LARGEST_MODEL`; the message says how many.
    """
    if nonzeros > LARGEST_MODEL:
        raise TooLargeError(
            f"backend={backend!r} would need {variables:,} variables and {nonzeros:,} nonzeros, "
            f"more than {LARGEST_MODEL:,}: use backend='auto'"
        )


def require_table(method: str, rows: int, columns: int) -> None:
    """Refuse a table with too many entries.

    Raises:
        TooLargeError: it has more than :data:`LARGEST_TABLE`.
    """
    if rows * columns > LARGEST_TABLE:
        raise TooLargeError(
            f"a table of {rows:,} x {columns:,} entries is more than {LARGEST_TABLE:,}, too large "
            f"for {method}: use backend='auto'"
        )
