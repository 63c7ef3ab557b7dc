"""The process in which a user's policy runs; started by :mod:`eplb_opt.policies.runner`."""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from eplb_opt.policies import wire
from eplb_opt.policies.names import (
    InvalidPlacementError,
    Policy,
    PolicyError,
    as_array,
    load_policy,
    one_line,
)

SET_PARENT_DEATH_SIGNAL = 1
"""``PR_SET_PDEATHSIG`` of prctl(2)."""


def serve(requests: int, answers: int, name: str, memory: int) -> None:
    """Import the policy, then answer each request with what it returns, and the seconds it took.

    Args:
        requests: file descriptor to read loads and arguments from.
        answers: file descriptor to write results to.
        name: the policy.
        memory: bytes that it may allocate beyond what this process needs before it is imported.
    """
    import torch

    die_with_parent()
    torch.set_num_threads(1)
    limit_memory(memory)
    wire.send(answers, {"ready": True})
    start = time.perf_counter()
    try:
        policy = load_policy(name)
    except PolicyError as error:
        wire.send(answers, {"error": str(error)})
        return
    seconds = time.perf_counter() - start
    wire.send(answers, {"import_s": seconds, "takes_steps": policy.takes_steps})
    while True:
        try:
            request, arrays = wire.receive(requests)
        except wire.WireError:  # nobody asks any more
            return
        wire.send(answers, *_call(policy, request, *arrays))


def _call(policy: Policy, request: dict[str, Any], loads: Any, old: Any = None) -> wire.Message:
    import torch

    weight = torch.from_numpy(loads.copy())
    before = None if old is None else torch.from_numpy(old.copy())
    try:
        start = time.perf_counter()
        answer = policy.call(weight, request["sizes"], before)
        runtime = time.perf_counter() - start
        maps = answer if isinstance(answer, tuple) else (answer,)
        arrays = [_numbers(value) for value in maps[:3]] if request["want"] else []
    except InvalidPlacementError as error:
        return {"error": str(error), "invalid": True}, []
    except BaseException as error:
        memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
        return {"error": one_line(error), "memory": memory}, []
    wrote = not np.array_equal(weight.numpy(), loads)
    return {"runtime_s": runtime, "wrote_into_input": wrote}, arrays


def _numbers(value: Any) -> Any:
    array = as_array(value, "the answer")
    if array.dtype.kind not in wire.KINDS:
        raise InvalidPlacementError(f"the policy returned a {type(value).__name__}, not numbers")
    return np.ascontiguousarray(array)


def die_with_parent() -> None:
    """On Linux: be killed when the process ends that asks for placements, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def limit_memory(size: int) -> None:
    """Let this process allocate ``size`` bytes more than it has now; where the system can't, no
    limit.
    """
    try:
        import resource

        fields = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        now = int(fields["VmData"].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (now + size, now + size))
    except (ImportError, OSError, KeyError, ValueError):
        return


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
