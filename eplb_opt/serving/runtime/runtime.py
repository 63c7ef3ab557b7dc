"""Placements that change while a model serves: one object on each rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from eplb_opt.policies.process import Limits
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.serving.runtime.comparison import compare
from eplb_opt.serving.runtime.process_group import Group, TransferError
from eplb_opt.serving.runtime.rank_engine import RankEngine
from eplb_opt.serving.runtime.weights import Weights
from eplb_opt.serving.state_machine import Map, Schedule, Settings, Step, Tokens


@dataclass(frozen=True)
class Served:
    """What is served, the same on all ranks.

    Attributes:
        num_logical_experts: E.
        slots_per_rank: S.
        num_groups: K, for policies.
        settings: interval, window, mode.
        policy: a name or a file, as on the command line; asked on rank 0.
        patience: seconds that the other ranks wait for its answer.
        timeout: seconds that a rank is waited for in everything else.
    """

    num_logical_experts: int
    slots_per_rank: int
    num_groups: int = 1
    settings: Settings = field(default_factory=Settings)
    policy: str = "refined"
    patience: float = 120.0
    timeout: float = 60.0


class Runtime:
    """One rank's part. Every method is collective: all ranks call it with the same arguments, but
    for what they have recorded.

    Use as a context manager, or call :meth:`close`.
    """

    def __init__(
        self,
        served: Served,
        models: Sequence[Sequence[Weights]],
        store: Store,
        rank: int,
        node_of_rank: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        _group: Group | None = None,
        _maps: Sequence[Map] | None = None,
    ) -> None:
        """Start with the experts in order, which the weights must be: slot p holds p mod E.

        Args:
            served: what is served.
            models: weights of this rank, ``models[model][layer]`` a list of tensors [S, ...]; they
                are changed in place.
            store: where ranks meet, such as a ``TCPStore`` held by the launcher; it should outlive
                every rank.
            rank: of this process.
            node_of_rank: the node of each rank.
            device: where the weights are.

        Raises:
            ValueError: weights of other than S rows, or models of different shape.
            TransferError: not all ranks came.
        """
        _check_weights(models, served.slots_per_rank)
        self.served = served
        size = len(node_of_rank)
        self.group = _group or Group(
            store, rank, size, timeout=served.timeout, sides=len(models), device=device
        )
        self._runner = PolicyRunner(Limits(timeout=served.patience))
        self._engine = RankEngine(
            self.group, models, node_of_rank, served.policy, self._runner, served.patience
        )
        self.schedule = Schedule(
            self._engine,
            served.settings,
            num_layers=len(models[0]),
            num_logical_experts=served.num_logical_experts,
            num_physical_experts=size * served.slots_per_rank,
            node_of_rank=node_of_rank,
            num_groups=served.num_groups,
            num_models=len(models),
            initial=_maps,
        )

    @classmethod
    def join(
        cls,
        served: Served,
        models: Sequence[Sequence[Weights]],
        store: Store,
        rank: int,
        node_of_rank: Sequence[int],
        *,
        generation: int,
        device: torch.device | str = "cpu",
    ) -> Runtime:
        """Come to ranks that call :meth:`scale` with the same ``node_of_rank``.

        The content of ``models`` does not matter; it is received. ``generation`` is how often ranks
        have left or come, this time included.
        """
        size = len(node_of_rank)
        group = Group(
            store, rank, size, timeout=served.timeout, generation=generation,
            sides=len(models), device=device,
        )  # fmt: skip
        old_nodes, maps = group.of_first(lambda: None, served.patience)
        runtime = cls(served, models, store, rank, old_nodes, _group=group, _maps=maps)
        runtime._engine.node_of_rank = list(node_of_rank)
        _require(runtime.schedule.scale(list(range(len(old_nodes))), node_of_rank))
        return runtime

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the group and end the policy's process."""
        self._runner.__exit__(None, None, None)
        self.group.close()

    def phy2log(self, model: int = 0) -> Map:
        """[L, P] the map under which the next pass is served; the same on all ranks."""
        return self.schedule.phy2log(model)

    @property
    def bytes_received(self) -> int:
        """By this rank, since it started."""
        return self._engine.bytes_received

    def step(self, passes: Sequence[Tokens] | None) -> Step:
        """After each forward pass: this rank's tokens [L, P] of each slot of all ranks, by model;
        None for a dummy pass, on all ranks.

        Raises:
            TransferError: a rank did not answer, or weights did not arrive.
            ValueError: passes of another shape.
        """
        self.group.require_peace()
        return self.schedule.step(passes)

    def rearrange(self) -> tuple[tuple[int, int], ...]:
        """Ask the policy now, whatever the counter says; nothing while a transfer is under way."""
        self.group.require_peace()
        return self.schedule.rearrange()

    def check(self) -> list[list[dict[int, bytes]]]:
        """Compare all ranks: the maps, and the content of all slots with the same expert.

        Returns:
            A digest of each expert's content, [model][layer][expert]: the same at all times.

        Raises:
            TransferError: ranks differ; the message names model, layer, expert and slot.
        """
        return compare(self.group, [self.phy2log(m) for m in self._models], self._engine.models)

    def scale(self, stays: Sequence[int], node_of_rank: Sequence[int]) -> bool:
        """Ranks leave, or new ones :meth:`join`; a transfer under way is finished first.

        Args:
            stays: for each rank its new number, or -1 if it leaves. Where ranks come, all others
                keep their numbers.
            node_of_rank: the node of each new rank.

        Returns:
            Whether this rank still serves.

        Raises:
            ValueError: ranks leave and come at once: do one after the other.
            TransferError: a rank did not answer, or the policy failed: then nothing has moved.
        """
        grows = len(node_of_rank) > self.group.size
        if grows and list(stays) != list(range(self.group.size)):
            raise ValueError(
                f"stays={list(stays)}: where ranks come, all others keep their numbers"
            )
        self.schedule.finish()
        rank = stays[self.group.rank]
        if grows:
            told = self.schedule.node_of_rank, [self.phy2log(m) for m in self._models]
            self._regroup(rank, node_of_rank)
            self.group.of_first(lambda: told, self.served.patience)
            _require(self.schedule.scale(stays, node_of_rank))
            return True
        done = self.schedule.scale(stays, node_of_rank)
        if not done:
            return True
        if rank == -1:
            self.close()
            return False
        self._regroup(rank, node_of_rank)
        return True

    @property
    def _models(self) -> range:
        return range(len(self._engine.models))

    def _regroup(self, rank: int, node_of_rank: Sequence[int]) -> None:
        self.group = self.group.next_generation(rank, len(node_of_rank))
        self._engine.group, self._engine.node_of_rank = self.group, list(node_of_rank)


def _require(placed: bool) -> None:
    if not placed:
        raise TransferError("the policy failed, so that the new ranks hold no experts; none moved")


def _check_weights(models: Sequence[Sequence[Weights]], slots_per_rank: int) -> None:
    layers = {len(model) for model in models}
    if len(layers) != 1 or 0 in layers:
        raise ValueError(f"models of {sorted(layers)} layers: give models of equal shape")
    for m, model in enumerate(models):
        for number, weights in enumerate(model):
            rows = [len(tensor) for tensor in weights]
            if not rows or any(n != slots_per_rank for n in rows):
                raise ValueError(
                    f"model {m}, layer {number}: tensors of {rows} rows, one a slot: "
                    f"slots_per_rank={slots_per_rank}"
                )
            if not all(tensor.is_contiguous() for tensor in weights):
                raise ValueError(f"model {m}, layer {number}: tensors must be contiguous")
