"""Dispatchers by name, as files and as functions; a user's file runs in a process of its own.

A dispatcher is a function ``(loads [..., L, E], phy2log [L, P], num_ranks)`` that says which slot
serves which part of its expert's tokens: shares [..., L, P], floats that are not negative and sum
to 1 over the slots of an expert, or whole tokens [..., L, P], integers that sum to its load.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.policies import wire
from eplb_opt.policies.names import (
    InvalidPlacementError,
    PolicyError,
    as_array,
    is_user_file,
    load_function,
    load_policy,
    one_line,
    policy_name,
)
from eplb_opt.policies.process import Limits, WorkerProcess

AnyDispatcher = str | Callable[..., Any]
"""A name, as :func:`load_dispatcher` reads it, or a function."""

DEFAULT_FUNCTION = "shares"


@dataclass(frozen=True)
class Answer:
    """What a dispatcher returned.

    Attributes:
        values: numbers of any shape; nothing is checked yet.
        runtime: seconds.
        wrote_into_input: the loads or the placement are not what they were.
    """

    values: NDArray[Any]
    runtime: float
    wrote_into_input: bool


@dataclass(frozen=True)
class Dispatcher:
    """A named way to share tokens.

    Attributes:
        name: as the user gave it.
        function: ``(loads, phy2log, num_ranks)``, tensors and an integer.
    """

    name: str
    function: Callable[..., Any]

    def call(
        self,
        loads: NDArray[Any],
        phy2log: NDArray[np.int64],
        num_ranks: int,
        *,
        strided: bool = False,
    ) -> Answer:
        """What the function returns for copies of the arrays, which are not contiguous if they
        shall be ``strided``.

        Raises:
            InvalidPlacementError: these are no numbers.
        """
        given = [_tensor(array, strided) for array in (loads, phy2log)]
        start = time.perf_counter()
        answer = self.function(*given, num_ranks)
        runtime = time.perf_counter() - start
        if isinstance(answer, list | tuple):
            kind = type(answer).__name__
            raise InvalidPlacementError(f"the answer is a {kind}, not one tensor [..., L, P]")
        values = as_array(answer, "the answer")
        if values.dtype.kind not in wire.KINDS:
            kind = type(answer).__name__
            raise InvalidPlacementError(f"the dispatcher returned a {kind}, not numbers")
        pairs = zip(given, (loads, phy2log), strict=True)
        wrote = not all(np.array_equal(tensor.numpy(), array) for tensor, array in pairs)
        return Answer(values, runtime, wrote)


def _tensor(array: NDArray[Any], strided: bool) -> Any:
    """A copy, its last axis the slowest in memory if it shall be ``strided``."""
    import torch

    return torch.from_numpy(np.array(array, order="F" if strided else "C"))


def load_dispatcher(dispatcher: AnyDispatcher) -> Dispatcher:
    """A built-in dispatcher, ``path/to/file.py[:function]``, or a function, to be called here.

    Built-in are the names that :func:`heuristics.dispatch.share_rule` reads. The function of a file
    is ``shares`` by default.

    Raises:
        PolicyError: there is no such dispatcher, file or function, or importing it failed.
    """
    if not isinstance(dispatcher, str):
        return Dispatcher(policy_name(dispatcher), dispatcher)
    if is_user_file(dispatcher):
        return Dispatcher(dispatcher, load_function(dispatcher, DEFAULT_FUNCTION))
    from heuristics.dispatch.rules import share_rule

    try:
        return Dispatcher(dispatcher, share_rule(dispatcher))
    except ValueError as error:
        raise PolicyError(f"{error}; or give FILE.py[:FUNCTION]{_meant(dispatcher)}") from None


def _meant(name: str) -> str:
    """What may be meant by a name that is no dispatcher's."""
    from heuristics.dispatch.rules import SHARE_RULES

    try:
        load_policy(name)
    except PolicyError:
        near = difflib.get_close_matches(name, SHARE_RULES, n=1)
        return f" (did you mean {near[0]}?)" if near else ""
    return f" ({name} is a policy)"


class DispatcherRunner:
    """Calls one dispatcher; a context manager that ends its process at the end.

    A built-in dispatcher and a function run in this process, in one thread; a user's file is
    imported once, in a process of its own, and again in a new one after that died or was killed.

    Args:
        dispatcher: its name, or a function.
        limits: of time and memory in the other process.
        apart: a name runs in a process of its own, built-in or not.
    """

    def __init__(
        self, dispatcher: AnyDispatcher, limits: Limits | None = None, *, apart: bool = False
    ) -> None:
        self.dispatcher, self.limits = dispatcher, limits or Limits()
        name = dispatcher if isinstance(dispatcher, str) else ""
        self._file = name if apart or is_user_file(name) else ""
        self._process: WorkerProcess | None = None
        self._here: Dispatcher | None = None

    @property
    def name(self) -> str:
        """Of the dispatcher, for messages."""
        return policy_name(self.dispatcher)

    def __enter__(self) -> DispatcherRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def load(self) -> None:
        """Find the dispatcher before there is work for it; a user's file is imported.

        Raises:
            PolicyTimeoutError: importing it did not end in time.
            PolicyError: there is no such dispatcher, file or function, or importing it failed.
        """
        if not self._file:
            self._here = self._here or load_dispatcher(self.dispatcher)
        elif self._process is None:
            self._process = WorkerProcess("dispatcher", self._file, self.limits)
            try:
                self._process.wait_for_import()
            except BaseException:
                self._end()
                raise

    def call(
        self,
        loads: NDArray[Any],
        phy2log: NDArray[np.int64],
        num_ranks: int,
        *,
        strided: bool = False,
    ) -> Answer:
        """What the dispatcher returns for ``loads`` [..., L, E] of their dtype, ``phy2log`` [L, P].

        Raises:
            PolicyTimeoutError: no answer in time.
            InvalidPlacementError: the answer is no array of numbers.
            PolicyError: it could not be imported, raised an exception, or its process ended.
        """
        self.load()
        if self._process is None:
            return _call_here(self._here, loads, phy2log, num_ranks, strided)
        request = {"num_ranks": num_ranks, "strided": strided}
        most = 16 * (loads.size + 1) * phy2log.shape[-1]
        try:
            header, arrays = self._process.ask(request, [loads, phy2log], most_bytes=most)
            return Answer(arrays[0], header["runtime_s"], header["wrote_into_input"] is True)
        except InvalidPlacementError:
            raise
        except BaseException:
            self._end()
            raise


def _call_here(
    dispatcher: Dispatcher | None,
    loads: NDArray[Any],
    phy2log: NDArray[np.int64],
    num_ranks: int,
    strided: bool,
) -> Answer:
    """In one thread, as in the other process, so that sums are the same; prints go to stderr."""
    import torch

    assert dispatcher is not None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return dispatcher.call(loads, phy2log, num_ranks, strided=strided)
    except PolicyError:
        raise
    except (Exception, SystemExit) as error:
        raise PolicyError(one_line(error)) from error
    finally:
        torch.set_num_threads(threads)
