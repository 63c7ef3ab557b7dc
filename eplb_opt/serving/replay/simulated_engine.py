"""An engine without weights: it asks a policy, and notes what would be moved."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.policies.names import AnyPolicy, PolicyError
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.problem.transfer import count_copies, count_transfers
from eplb_opt.serving.state_machine import Map, Tokens


@dataclass(frozen=True)
class Move:
    """What one layer's new placement costs.

    Attributes:
        step: after which it happened.
        row: model and layer, ``model * L + layer``.
        received: experts that came from other ranks, over all ranks.
        received_most: by the rank that received most of them: the others wait for it.
        copied: slots filled from the rank's own memory.
        answer: which answer of the policy it carries out.
    """

    step: int
    row: int
    received: int
    received_most: int
    copied: int
    answer: int


@dataclass(frozen=True)
class Decision:
    """One answer of the policy.

    Attributes:
        step: after which it was asked.
        loads: [L, E] as the policy saw them.
        old: [L, P] until then.
        new: [L, P']; None if the policy failed.
        topology: the machine it was told.
        rule: that of the start.
        traffic_limit: of the rule ``home``.
        seconds: of the call; None if it failed.
        message: why it failed.
    """

    step: int
    loads: Tokens
    old: Map
    new: Map | None
    topology: Topology
    rule: Rule
    seconds: float | None
    message: str = ""
    traffic_limit: Fraction = Fraction(1)


def on_machine(
    loads: Tokens, topology: Topology, rule: Rule, traffic_limit: Fraction = Fraction(1)
) -> Instance:
    """The problem on a machine that may have changed: global if that is the rule, or if its nodes
    can no longer share the groups.
    """
    if rule == Rule.HOME and topology.num_groups % topology.num_nodes == 0:
        return Instance(loads, topology, rule, traffic_limit=traffic_limit)
    return Instance(loads, topology, "global" if rule == Rule.GLOBAL else "auto")


class SimulatedEngine:
    """Implements :class:`eplb_opt.serving.state_machine.Engine` for one policy.

    Attributes:
        step: now; set by the simulation.
        decisions: by model.
    """

    def __init__(
        self,
        policy: AnyPolicy,
        runner: PolicyRunner,
        rule: Rule,
        models: int,
        layer_steps: int,
        traffic_limit: Fraction = Fraction(1),
    ) -> None:
        """With ``layer_steps`` steps for a layer to reach the buffers of all ranks."""
        self.policy, self.runner, self.rule = policy, runner, rule
        self.traffic_limit = traffic_limit
        self.layer_steps = layer_steps
        self.step = 0
        self.slots_per_rank = 1
        self.moves: list[Move] = []
        self.decisions: list[list[Decision]] = [[] for _ in range(models)]
        self._pending: dict[int, tuple[Map, Map]] = {}
        self._ready_at: dict[int, int] = {}

    def reduce(self, loads: list[Tokens]) -> list[Tokens]:
        """One engine records for all ranks."""
        return loads

    def place(self, model: int, loads: Tokens, topology: Topology, old: Map) -> Map | None:
        """Ask the policy; ``old`` only where it is of the same machine."""
        self.slots_per_rank = topology.slots_per_rank
        instance = on_machine(loads, topology, self.rule, self.traffic_limit)
        before = old if old.shape[1] == topology.num_physical_experts else None
        new, seconds, message = None, None, ""
        try:
            run = self.runner.run(self.policy, instance, before, once=True)
            new, seconds = run.placement.phy2log, run.first_call
        except PolicyError as error:
            message = str(error)
        self.decisions[model].append(
            Decision(
                self.step,
                loads,
                old,
                new,
                topology,
                self.rule,
                seconds,
                message,
                self.traffic_limit,
            )
        )
        return new

    def move(self, model: int, layer: int, old: NDArray[np.int64], new: NDArray[np.int64]) -> None:
        """Note what a layer costs."""
        rows = old[None], new[None], self.slots_per_rank
        arrived = count_transfers(*rows)
        self.moves.append(
            Move(
                step=self.step,
                row=model * len(self.decisions[model][-1].loads) + layer,
                received=int(arrived.sum()),
                received_most=int(arrived.max()),
                copied=int(count_copies(*rows).sum()),
                answer=len(self.decisions[model]) - 1,
            )
        )

    def start(self, model: int, old: Map, new: Map) -> None:
        """The first layer begins to arrive."""
        self._pending[model] = old, new
        self._ready_at[model] = self.step + self.layer_steps

    def ready(self, model: int, layer: int) -> bool:  # noqa: ARG002 - one buffer, one layer
        """Whether enough steps have gone by since the buffer was free."""
        return self.step >= self._ready_at[model]

    def commit(self, model: int, layer: int) -> None:
        """Note what the layer costs; the next one begins to arrive."""
        old, new = self._pending[model]
        self.move(model, layer, old[layer], new[layer])
        self._ready_at[model] = self.step + self.layer_steps
