"""User programs in a process of their own, with a time limit and a memory limit for each call.

It protects from accidents (endless loops, crashes, leaks, prints), not from attackers.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from eplb_opt.policies.names import (
    AnyPolicy,
    InvalidPlacementError,
    Run,
    Slots,
    arguments,
    check_placement,
    enough_calls,
    is_user_file,
    load_policy,
)
from eplb_opt.policies.process import Limits, WorkerProcess
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import EVEN_SUM, Cost


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

    def cost_of(self, policy: AnyPolicy) -> Cost:
        """What a policy minimizes, see :attr:`Policy.cost`; a user's file is imported.

        Raises:
            PolicyError: as of :meth:`load`.
        """
        if isinstance(policy, str) and is_user_file(policy):
            return self._worker(policy).cost
        return load_policy(policy).cost

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


class _Worker(WorkerProcess):
    """The process of a policy."""

    def __init__(self, name: str, limits: Limits) -> None:
        super().__init__("policy", name, limits)
        self.import_time: float | None = None
        self.takes_steps, self.cost = False, EVEN_SUM

    def wait_for_import(self) -> dict[str, Any]:
        """What the process says of the policy."""
        header = super().wait_for_import()
        self.import_time = float(header["import_s"])
        self.takes_steps = header["takes_steps"] is True
        self.cost = Cost.of(*map(str, header["cost"]))
        return header

    def call(self, instance: Instance, old: Slots | None, *, want: bool) -> tuple[float, list[Any]]:
        """Seconds of one call, and the maps if they are wanted."""
        loads, sizes = arguments(instance, self.takes_steps)
        most = 8 * instance.loads.size * (sizes[0] + 1)  # log2phy can't be wider than all slots
        arrays = [loads] if old is None else [loads, old]
        header, maps = self.ask({"sizes": sizes, "want": want}, arrays, most_bytes=most)
        if header.get("wrote_into_input"):
            raise InvalidPlacementError("the policy wrote into its input, the loads")
        return header["runtime_s"], maps
