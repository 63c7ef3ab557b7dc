"""A process that has imported a user's file, and the pipes to it; limits of time and memory."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from eplb_opt.policies import wire
from eplb_opt.policies.names import InvalidPlacementError, PolicyError, PolicyTimeoutError

TIMEOUT = 60.0
"""Seconds for the import, and for each call."""
MEMORY = 4 * 2**30
"""Bytes that a program may allocate."""
START_SECONDS = 120.0
"""For a process to start and import torch."""


@dataclass(frozen=True)
class Limits:
    """Seconds for the import and for each call, and bytes of memory."""

    timeout: float = TIMEOUT
    memory: int = MEMORY


class WorkerProcess:
    """The other process and the two pipes to it.

    Args:
        kind: ``policy`` or ``dispatcher``.
        name: of it, as ``load_policy`` or ``load_dispatcher`` reads it.
        limits: for its import and each call.
    """

    def __init__(self, kind: str, name: str, limits: Limits) -> None:
        self.kind, self.limits = kind, limits
        theirs_in, self._requests = os.pipe()
        self._answers, theirs_out = os.pipe()
        command = [sys.executable, "-P", "-m", "eplb_opt.policies.worker"]
        self._process = subprocess.Popen(
            [*command, str(theirs_in), str(theirs_out), kind, name, str(limits.memory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def wait_for_import(self) -> dict[str, Any]:
        """What the process says of the program; its own import of torch does not count."""
        self._receive("its process did not start", START_SECONDS, 0)
        return self._receive("importing it did not end", self.limits.timeout, 0)[0]

    def ask(
        self, request: dict[str, Any], arrays: list[NDArray[Any]], *, most_bytes: int
    ) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """What the process answers: a header with seconds ``runtime_s``, and arrays of at most
        ``most_bytes``.
        """
        try:
            wire.send(self._requests, request, arrays)
        except BrokenPipeError:
            raise PolicyError(self._epitaph()) from None
        header, answers = self._receive("no answer", self.limits.timeout, most_bytes)
        seconds = header["runtime_s"] = float(header["runtime_s"])
        if not (math.isfinite(seconds) and seconds >= 0):
            raise PolicyError(
                f"its process reports a call of {seconds} s: does it change the clock?"
            )
        return header, answers

    def _receive(self, late: str, timeout: float, most_bytes: int) -> wire.Message:
        deadline = time.monotonic() + timeout
        try:
            header, maps = wire.receive(self._answers, deadline=deadline, most_bytes=most_bytes)
        except TimeoutError:
            raise PolicyTimeoutError(f"{late} within {timeout:g} s") from None
        except wire.WireError as error:
            raise PolicyError(self._epitaph() or f"the answer is {error}") from None
        if "error" in header:
            message = str(header["error"])
            if header.get("memory"):
                message = f"out of memory: the limit is {self.limits.memory / 2**30:g} GB"
            raise (InvalidPlacementError if header.get("invalid") else PolicyError)(message)
        return header, maps

    def _epitaph(self) -> str:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return ""
        if code >= 0:
            return f"the {self.kind} ended its process with exit code {code}"
        names = {number.value: number.name for number in signal.Signals}  # real-time ones have none
        return f"the {self.kind}'s process was ended by {names.get(-code, f'signal {-code}')}"

    def kill(self) -> None:
        """End the process and what it has started."""
        for fd in (self._requests, self._answers):
            os.close(fd)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
