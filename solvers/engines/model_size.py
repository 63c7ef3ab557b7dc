"""Refuse what would not fit in memory, instead of being killed."""

from __future__ import annotations

LARGEST_MODEL = 20_000_000
"""Nonzeros of a model at most: some GB in the solvers' own structures."""


def require_size(backend: str, variables: int, nonzeros: int) -> None:
    """Refuse a model with too many nonzeros.

    Raises:
        ValueError: it has more than :data:`LARGEST_MODEL`; the message says how many.
    """
    if nonzeros > LARGEST_MODEL:
        raise ValueError(
            f"backend={backend!r} would need {variables:,} variables and {nonzeros:,} nonzeros, "
            f"more than {LARGEST_MODEL:,}: use backend='auto'"
        )
