"""The process in which a user's program runs; started by :mod:`eplb_opt.policies.process`."""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eplb_opt.policies import wire
from eplb_opt.policies.dispatchers import Dispatcher, load_dispatcher
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


Call = Callable[..., wire.Message]
"""From a request and its arrays to the answer."""


def serve(requests: int, answers: int, kind: str, name: str, memory: int) -> None:
    """Import the program, then answer each request with what it returns, and the seconds it took.

    Args:
        requests: file descriptor to read loads and arguments from.
        answers: file descriptor to write results to.
        kind: ``policy`` or ``dispatcher``.
        name: of it.
        memory: bytes that it may allocate beyond what this process needs before it is imported.
    """
    import torch

    die_with_parent()
    torch.set_num_threads(1)
    limit_memory(memory)
    wire.send(answers, {"ready": True})
    start = time.perf_counter()
    try:
        call, told = (_policy if kind == "policy" else _dispatcher)(name)
    except PolicyError as error:
        wire.send(answers, {"error": str(error)})
        return
    wire.send(answers, {"import_s": time.perf_counter() - start} | told)
    while True:
        try:
            request, arrays = wire.receive(requests)
        except wire.WireError:  # nobody asks any more
            return
        wire.send(answers, *_answer(call, request, arrays))


def _answer(call: Call, request: dict[str, Any], arrays: list[Any]) -> wire.Message:
    try:
        return call(request, *arrays)
    except InvalidPlacementError as error:
        return {"error": str(error), "invalid": True}, []
    except BaseException as error:
        memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
        return {"error": one_line(error), "memory": memory}, []


def _policy(name: str) -> tuple[Call, dict[str, Any]]:
    policy = load_policy(name)
    told = {"takes_steps": policy.takes_steps, "cost": [str(word) for word in policy.cost]}
    return partial(_place, policy), told


def _place(policy: Policy, request: dict[str, Any], loads: Any, old: Any = None) -> wire.Message:
    import torch

    weight = torch.from_numpy(loads.copy())
    before = None if old is None else torch.from_numpy(old.copy())
    start = time.perf_counter()
    answer = policy.call(weight, request["sizes"], before)
    runtime = time.perf_counter() - start
    maps = answer if isinstance(answer, tuple) else (answer,)
    arrays = [_numbers(value) for value in maps[:3]] if request["want"] else []
    wrote = not np.array_equal(weight.numpy(), loads)
    return {"runtime_s": runtime, "wrote_into_input": wrote}, arrays


def _dispatcher(name: str) -> tuple[Call, dict[str, Any]]:
    return partial(_dispatch, load_dispatcher(name)), {}


def _dispatch(
    dispatcher: Dispatcher, request: dict[str, Any], loads: Any, phy2log: Any
) -> wire.Message:
    answer = dispatcher.call(loads, phy2log, request["num_ranks"], strided=request["strided"])
    header = {"runtime_s": answer.runtime, "wrote_into_input": answer.wrote_into_input}
    return header, [answer.values]


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
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
