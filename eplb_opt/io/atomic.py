"""Writing a file: a regular one whole or not at all, a device or pipe as it is."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

_OPEN = re.compile(r"/dev/std(?P<name>out|err)|/(?:dev|proc/self)/fd/(?P<number>\d+)")


def replace_file(path: Path, content: bytes) -> None:
    """Make ``content`` the file at ``path``, or write it to the device, FIFO or open file there.

    A regular file is replaced by rename, with the permissions of the old one; an interrupt leaves
    the old file, or none. Links are followed. ``/dev/stdout`` and ``/dev/fd/N`` are written where
    they are, after what has been written before.

    Raises:
        OSError: it cannot be written; the message names ``path``.
    """
    try:
        if (descriptor := _open_already(path)) is not None:
            with os.fdopen(os.dup(descriptor), "wb") as stream:
                stream.write(content)
            return
        old = _status(path)
        if old is None or stat.S_ISREG(old.st_mode):
            _replace(Path(os.path.realpath(path)), old, content)
        else:
            with path.open("wb") as stream:
                stream.write(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _open_already(path: Path) -> int | None:
    """The descriptor that ``path`` stands for: opening it again would lose its position."""
    match = _OPEN.fullmatch(str(path))
    if match is None:
        return None
    return int(match["number"]) if match["number"] else {"out": 1, "err": 2}[match["name"]]


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _replace(target: Path, old: os.stat_result | None, content: bytes) -> None:
    # A name of its own: what is there by that name is not ours, and a long name may not grow.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        mode = 0o666 if old is None else 0o600  # nobody reads it before it has the old permissions
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        if old is not None:
            temporary.chmod(stat.S_IMODE(old.st_mode))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
