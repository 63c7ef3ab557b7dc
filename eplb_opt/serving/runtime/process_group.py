"""The ranks that talk to each other, and what happens when one does not answer.

Ranks agree through collectives of ``torch.distributed`` (gloo for tensors on CPUs, nccl on GPUs). A
collective that fails does not say who is to blame. The store does: every rank that is in trouble
signs in there, and those that have not signed in after a while are named.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]


class TransferError(RuntimeError):
    """Ranks could not agree or exchange weights; one line that names ranks and layer.

    No layer is half replaced: the weights of this rank are those of its map.
    """


class Group:
    """This rank among those of one generation; ranks that leave or come make a new generation.

    Attributes:
        rank: of this process.
        size: how many ranks there are.
        timeout: seconds that a rank is waited for.
        generation: how often ranks have left or come.
        sides: groups of the same ranks for background threads, one a model: what two threads send
            through one group may meet in another order elsewhere.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        *,
        timeout: float = 60.0,
        generation: int = 0,
        sides: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        """Meet the others in ``store``; it should outlive every rank."""
        self.rank, self.size, self.timeout, self.generation = rank, size, timeout, generation
        self.device = torch.device(device)
        self._base = store
        self._store = PrefixStore(f"generation-{generation}", store)
        self._answers = 0
        self._trouble = ""
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        with self.watch("when the group was formed"):
            dist.init_process_group(
                backend,
                store=PrefixStore("group", self._store),
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=timeout),
            )
            self.sides = [dist.new_group(backend=backend) for _ in range(sides)]

    def close(self) -> None:
        """Leave; also after trouble."""
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()

    def next_generation(self, rank: int, size: int) -> Group:
        """Close this group and meet those that stay, and those that come."""
        self.close()
        return Group(
            self._base,
            rank,
            size,
            timeout=self.timeout,
            generation=self.generation + 1,
            sides=len(self.sides),
            device=self.device,
        )

    @contextlib.contextmanager
    def watch(self, during: str) -> Iterator[None]:
        """Turn whatever goes wrong between ranks into a :class:`TransferError`."""
        self.require_peace()
        try:
            yield
        except TransferError:
            raise
        except RuntimeError as error:
            self._trouble = self._explain(error, during)
            raise TransferError(self._trouble) from error

    def require_peace(self) -> None:
        """Raise what went wrong before: after it nothing can be agreed."""
        if self._trouble:
            raise TransferError(self._trouble)

    def fail(self, reason: str) -> None:
        """Give up, on all ranks alike."""
        self._trouble = reason
        self.require_peace()

    def _explain(self, error: RuntimeError, during: str) -> str:
        missing = self.roll_call()
        if not missing:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            return f"the ranks lost each other {during} (rank {self.rank}: {reason[0]})"
        ranks = ", ".join(map(str, missing))
        plural = "s" if len(missing) > 1 else ""
        return (
            f"rank{plural} {ranks} did not answer within {self.timeout:g} s {during} "
            f"(rank {self.rank} waited)"
        )

    def roll_call(self) -> list[int]:
        """Sign in, and wait for the others as long as they may wait for something themselves."""
        others = {r: f"in-trouble/{r}" for r in range(self.size) if r != self.rank}
        try:
            self._store.set(f"in-trouble/{self.rank}", "here")
            deadline = time.monotonic() + self.timeout + 1
            while others and time.monotonic() < deadline:
                others = {r: key for r, key in others.items() if not self._store.check([key])}
                time.sleep(0.02)
        except RuntimeError:  # the store is gone, with whoever held it
            return []
        return sorted(others)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, on each."""
        with self.watch("when loads were summed"):
            dist.all_reduce(tensor)
        return tensor

    def least(self, value: int, during: str) -> int:
        """The smallest of all ranks' values, on each."""
        with self.watch(during):
            flag = torch.tensor([value])
            dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return int(flag)

    def of_first(self, compute: Any, patience: float) -> Any:
        """What rank 0 computes, on every rank; the others wait for it up to ``patience`` seconds.

        A policy may take longer than a message, and need not give the same on two machines.
        """
        self._answers += 1
        key = f"answer/{self._answers}"
        found = [None]
        if self.rank == 0:
            found = [compute()]
            self._store.set(key, "ready")
        else:
            with self.watch("when the policy was asked"):
                self._store.wait([key], timedelta(seconds=patience))
        with self.watch("when the placement was told"):
            dist.broadcast_object_list(found, src=0)
        return found[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on each."""
        values: list[Any] = [None] * self.size
        with self.watch("when ranks were compared"):
            dist.all_gather_object(values, value)
        return values
