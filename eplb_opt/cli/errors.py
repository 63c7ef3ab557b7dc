"""What a user did wrong, as opposed to what this program did wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Bad input: one line that names file, field, value and remedy."""


@contextmanager
def bad_input(where: str = "") -> Iterator[None]:
    """Inside, a ``ValueError`` is the user's input: it becomes an :class:`InputError`."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        raise InputError(
            message if not where or where in message else f"{where}: {message}"
        ) from error
