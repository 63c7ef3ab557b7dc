"""The one error that a file's content can cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST_DETAIL = 200


class FormatError(ValueError):
    """A file does not hold what it should; one line that names file, field, value and remedy."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(" ".join(f"{path}: {problem}".split()))


@contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Whatever a decoder raises on malformed bytes becomes a :class:`FormatError`.

    No decoder promises a closed set of exceptions for corrupt input, so all of ``Exception`` is
    meant; ``OSError`` passes, for it already names the file and the cause.
    """
    try:
        yield
    except (FormatError, OSError):
        raise
    except MemoryError:
        raise FormatError(
            path, f"not a readable {what}: it asks for more memory than there is"
        ) from None
    except Exception as error:
        detail = " ".join(str(error).split())[:_LONGEST_DETAIL] or type(error).__name__
        raise FormatError(
            path, f"not a readable {what} ({detail}): the file is damaged or of another format"
        ) from error
