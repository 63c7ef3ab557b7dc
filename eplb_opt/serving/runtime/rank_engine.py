"""The engine of one real rank: does what the state machine decides."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from eplb_opt.policies.names import PolicyError
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.topology import Topology
from eplb_opt.problem.transfer import plan_transfers
from eplb_opt.serving.runtime.background import Background, Rows
from eplb_opt.serving.runtime.process_group import Group
from eplb_opt.serving.runtime.weights import Change, Weights, commit, fill, num_bytes
from eplb_opt.serving.state_machine import Map, Tokens

LOGGER = logging.getLogger("eplb_opt.serving.runtime")


class RankEngine:
    """Implements :class:`eplb_opt.serving.state_machine.Engine`; every call is collective.

    A layer is replaced in two phases: all ranks receive into buffers, agree that all have done so,
    and only then write. Who fails in the first phase leaves everybody's weights as they were.

    Attributes:
        group: the ranks of now.
        node_of_rank: of the ranks in ``group``.
        bytes_received: by this rank, since the start.
    """

    def __init__(
        self,
        group: Group,
        models: Sequence[Sequence[Weights]],
        node_of_rank: Sequence[int],
        policy: str,
        runner: PolicyRunner,
        patience: float,
    ) -> None:
        """With weights ``models[model][layer]`` and ``patience`` seconds for an answer."""
        self.group, self.models, self.node_of_rank = group, models, list(node_of_rank)
        self.policy, self.runner, self.patience = policy, runner, patience
        self.bytes_received = 0
        self._background: dict[int, Background] = {}

    def reduce(self, loads: list[Tokens]) -> list[Tokens]:
        """One all-reduce for all models."""
        total = self.group.sum(torch.from_numpy(np.stack(loads)))
        return list(total.numpy())

    def place(self, model: int, loads: Tokens, topology: Topology, old: Map) -> Map | None:
        """Rank 0 asks the policy and tells the others what it said, also that it failed."""
        before = old if old.shape[1] == topology.num_physical_experts else None

        def ask() -> tuple[Map | None, str]:
            try:
                run = self.runner.run(self.policy, Instance(loads, topology), before, once=True)
                return run.placement.phy2log, ""
            except PolicyError as error:
                return None, str(error)

        placed: Map | None
        placed, message = self.group.of_first(ask, self.patience)
        if placed is None and self.group.rank == 0:
            LOGGER.error(
                "model %d: %s failed, the placement stays: %s", model, self.policy, message
            )
        return placed

    def move(self, model: int, layer: int, old: NDArray[np.int64], new: NDArray[np.int64]) -> None:
        """Both phases now."""
        todo, weights = self._layer(old, new), self.models[model][layer]
        with self.group.watch(f"while layer {layer} was moved"):
            incoming = fill(todo, weights, None, self.group.timeout)
        self.group.least(1, f"when layer {layer} was to be committed")
        self._commit(todo, weights, incoming)

    def start(self, model: int, old: Map, new: Map) -> None:
        """A thread receives one layer after the other."""
        layers = [self._layer(*rows) for rows in zip(old, new, strict=True)]
        group, timeout = self.group.sides[model], self.group.timeout
        self._background[model] = Background(
            layers,
            lambda number, layer: fill(layer, self.models[model][number], group, timeout),
        )

    def ready(self, model: int, layer: int) -> bool:
        """Whether all ranks have the layer; one all-reduce."""
        return self._agree(model, layer, self._background[model].state(layer)) == 1

    def commit(self, model: int, layer: int) -> None:
        """Wait until all ranks have the layer, and write it."""
        background = self._background[model]
        self._agree(model, layer, background.wait(layer, 2 * self.group.timeout))
        todo, weights = background.layer(layer), self.models[model][layer]
        background.take(lambda rows: self._commit(todo, weights, rows))

    def _agree(self, model: int, layer: int, state: int) -> int:
        """The least state of all ranks.

        Raises:
            TransferError: on every rank, if the layer will not arrive on one of them.
        """
        least = self.group.least(state, f"while layer {layer} was transferred")
        if least < 0:
            reasons = self.group.gather(str(self._background[model].error or ""))
            told = "; ".join(f"rank {rank}: {why}" for rank, why in enumerate(reasons) if why)
            self.group.fail(f"layer {layer} of model {model} did not arrive everywhere ({told})")
        return least

    def _commit(self, todo: Change, weights: Weights, incoming: Rows) -> None:
        commit(todo, weights, incoming)
        self.bytes_received += num_bytes(incoming)

    def _layer(self, old: NDArray[np.int64], new: NDArray[np.int64]) -> Change:
        slots_per_rank = len(old) // self.group.size
        own = slice(self.group.rank * slots_per_rank, (self.group.rank + 1) * slots_per_rank)
        transfers = plan_transfers(old, new, slots_per_rank, self.node_of_rank)
        return Change(old[own].tolist(), new[own].tolist(), transfers, self.group.rank)
