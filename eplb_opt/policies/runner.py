"""User programs in a process of their own, with a time limit and a memory limit for each call.

It protects from accidents (endless loops, crashes, leaks, prints), not from attackers.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from eplb_opt.policies import wire
from eplb_opt.policies.names import (
    AnyPolicy,
    InvalidPlacementError,
    PolicyError,
    PolicyTimeoutError,
    Run,
    Slots,
    arguments,
    check_placement,
    enough_calls,
    is_user_file,
    load_policy,
)
from eplb_opt.problem.instance import Instance

TIMEOUT = 60.0
"""Seconds for the import, and for each call."""
MEMORY = 4 * 2**30
"""Bytes that a policy may allocate."""
START_SECONDS = 120.0
"""For a process to start and import torch."""


@dataclass(frozen=True)
class Limits:
    """Seconds for the import and for each call, and bytes of memory."""

    timeout: float = TIMEOUT
    memory: int = MEMORY


class PolicyRunner:
    """Runs policies on instances; a context manager that ends all processes at the end.

    A built-in policy and a function run in this process. A user's file is imported once, in a
    process of its own, and again in a new one after that died or was killed. What the program
    prints is discarded.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._workers: dict[str, _Worker] = {}

    def __enter__(self) -> PolicyRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in list(self._workers):
            self._end(name)

    def _end(self, name: str) -> None:
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker.kill()

    def load(self, policy: AnyPolicy) -> None:
        """Find a policy before there is work for it; a user's file is imported, in its process.

        Raises:
            PolicyTimeoutError: importing it did not end in time.
            PolicyError: there is no such policy, file or function, or importing it failed.
        """
        if isinstance(policy, str) and is_user_file(policy):
            self._worker(policy)
        else:
            load_policy(policy)

    def _worker(self, file: str) -> _Worker:
        """The process that has imported a user's file."""
        if file not in self._workers:
            self._workers[file] = _Worker(file, self.limits)
            try:
                self._workers[file].wait_for_import()
            except BaseException:
                self._end(file)
                raise
        return self._workers[file]

    def run(
        self, policy: AnyPolicy, instance: Instance, old: Slots | None = None, *, once: bool = False
    ) -> Run:
        """Place all layers with a policy, several times for a steady time; the first answer counts.

        ``old`` [L, P] is the placement until now, for policies that take it; ``once`` calls once.

        Raises:
            PolicyTimeoutError: no answer in time.
            InvalidPlacementError: the answer is no placement, or the program wrote into its input.
            PolicyError: it could not be imported, raised an exception, or its process ended.
        """
        if not isinstance(policy, str) or not is_user_file(policy):
            return load_policy(policy).run(instance, old, once=once)
        worker = self._worker(policy)
        try:
            return _repeat(worker, instance, old, once)
        except InvalidPlacementError:
            raise
        except BaseException:
            self._end(policy)
            raise


def _repeat(worker: _Worker, instance: Instance, old: Slots | None, once: bool) -> Run:
    seconds, maps = worker.call(instance, old, want=True)
    placement = check_placement(tuple(maps), instance)
    runtimes: list[float] = []
    while not (once or enough_calls([seconds, *runtimes])):
        runtimes.append(worker.call(instance, old, want=False)[0])
    return Run.of(placement, seconds, runtimes, worker.import_time)


class _Worker:
    """The other process and the two pipes to it."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.limits = limits
        self.import_time: float | None = None
        self.takes_steps = False
        theirs_in, self._requests = os.pipe()
        self._answers, theirs_out = os.pipe()
        command = [sys.executable, "-P", "-m", "eplb_opt.policies.worker"]
        self._process = subprocess.Popen(
            [*command, str(theirs_in), str(theirs_out), name, str(limits.memory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def wait_for_import(self) -> None:
        """The time for this process to import torch does not count."""
        self._receive("its process did not start", START_SECONDS, 0)
        header, _ = self._receive("importing it did not end", self.limits.timeout, 0)
        self.import_time = float(header["import_s"])
        self.takes_steps = header["takes_steps"] is True

    def call(self, instance: Instance, old: Slots | None, *, want: bool) -> tuple[float, list[Any]]:
        """Seconds of one call, and the maps if they are wanted."""
        loads, sizes = arguments(instance, self.takes_steps)
        try:
            arrays = [loads] if old is None else [loads, old]
            wire.send(self._requests, {"sizes": sizes, "want": want}, arrays)
        except BrokenPipeError:
            raise PolicyError(self._epitaph()) from None
        most = 8 * instance.loads.size * (sizes[0] + 1)  # log2phy can't be wider than all slots
        header, maps = self._receive("no answer", self.limits.timeout, most)
        if header.get("wrote_into_input"):
            raise InvalidPlacementError("the policy wrote into its input, the loads")
        seconds = float(header["runtime_s"])
        if not (math.isfinite(seconds) and seconds >= 0):
            raise PolicyError(
                f"its process reports a call of {seconds} s: does it change the clock?"
            )
        return seconds, maps

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
            return f"the policy ended its process with exit code {code}"
        names = {number.value: number.name for number in signal.Signals}  # real-time ones have none
        return f"the policy's process was ended by {names.get(-code, f'signal {-code}')}"

    def kill(self) -> None:
        """End the process and what it has started."""
        for fd in (self._requests, self._answers):
            os.close(fd)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
