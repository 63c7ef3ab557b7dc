"""Results as JSON lines: appended one by one, readable after any crash."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any


class StoreError(ValueError):
    """A file of results that can't be used; one line."""


def rows(path: Path, warn: Callable[[str], None] = lambda _text: None) -> Iterator[dict[str, Any]]:
    """The rows of a file, one at a time; a torn last line is left out, with a word.

    Raises:
        StoreError: another line is no JSON object with a ``unit``.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = _parse(line)
            if row is not None:
                yield row
            elif line.endswith(b"\n"):
                raise StoreError(f"{path}: line {number} is no row of a sweep: delete the line")
            else:
                warn(f"{path}: the last line is torn and left out")


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("unit"), str) else None


class Store:
    """A file of results that this process alone appends to; a context manager.

    Attributes:
        done: keys of the units in the file.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = lambda _text: None) -> None:
        self.path = path
        self.done: set[str] = set()
        self._warn = warn

    def __enter__(self) -> Store:
        if self.path.exists() and not self.path.is_file():
            raise StoreError(f"{self.path}: a sweep reads back what is done: give a regular file")
        self._file: IO[bytes] = self.path.open("ab+")
        try:
            _lock(self._file, self.path)
            self._repair()
            self.done = {row["unit"] for row in rows(self.path)}
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, row: dict[str, Any]) -> None:
        """Add a row, in one write that has reached the operating system when this returns.

        Raises:
            OSError: the disk is full, for instance; the message names the file.
        """
        try:
            self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.done.add(row["unit"])

    def _repair(self) -> None:
        """Cut off a last line that a crash has torn."""
        size = self._file.seek(0, os.SEEK_END)
        end, block = size, 1 << 16
        while end > 0:
            start = max(0, end - block)
            self._file.seek(start)
            newline = self._file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            self._file.truncate(end)
            self._warn(f"{self.path}: the last line was torn; its unit is done again")


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StoreError(
            f"{path}: another sweep is writing to it: wait or give another -o"
        ) from None
