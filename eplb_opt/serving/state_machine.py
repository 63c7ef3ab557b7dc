"""The state machine in which placements live: when loads are recorded, solved for and acted upon.

It follows vLLM's EPLB, in its terms. After each forward pass comes one :meth:`Schedule.step`:

1. The tokens that each physical expert received enter a ring of the last ``window_size`` passes.
   A dummy pass is not recorded.
2. Asynchronous: if all ranks have the next layer in their buffers, that layer is committed. One
   layer a step, so that the layers of two placements are mixed meanwhile.
3. The counter, which a dummy pass also raises, has reached ``step_interval``: the loads of the
   window are summed, the policy places, and the weights are moved: all layers at once, or
   (asynchronous) from now on one after the other. While a transfer is under way nothing is
   rearranged and the counter goes on, so that the next rearrangement follows its end at once.

The ring holds counts of *slots*. They become counts of experts with the map of the moment in which
the policy is asked. Passes that were recorded under an older map are thereby attributed to wrong
experts if the window is longer than the interval, or a transfer was under way. ``attribute_late``
says whether to do as vLLM does; False converts each pass when it is recorded.

This module decides; an :class:`Engine` acts, on simulated or on real weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.placement import Placement
from eplb_opt.problem.topology import Topology
from eplb_opt.problem.transfer import over_same_ranks

Map = NDArray[np.int64]
"""[L, P], the logical expert in each slot."""
Tokens = NDArray[np.float64]
"""[L, P] of slots or [L, E] of logical experts, in tokens."""


@dataclass(frozen=True)
class Settings:
    """What vLLM's ``EPLBConfig`` holds, and one choice more.

    Attributes:
        window_size: passes that the policy sees.
        step_interval: passes from one rearrangement to the next.
        use_async: layers are moved one by one, between passes.
        attribute_late: counts of slots become counts of experts when the policy is asked.

    Raises:
        ValueError: a size below 1.
    """

    window_size: int = 1000
    step_interval: int = 3000
    use_async: bool = False
    attribute_late: bool = True

    def __post_init__(self) -> None:
        for name in ("window_size", "step_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


class Engine(Protocol):
    """What acts on the decisions; on real ranks all calls are collective."""

    def reduce(self, loads: list[Tokens]) -> list[Tokens]:
        """The sums over all ranks of what each has recorded, [L, E] of each model."""

    def place(self, model: int, loads: Tokens, topology: Topology, old: Map) -> Map | None:
        """What the policy places; None if it failed: then everything stays as it is."""

    def move(self, model: int, layer: int, old: NDArray[np.int64], new: NDArray[np.int64]) -> None:
        """Replace one layer's weights now; rows of maps over the same ranks."""

    def start(self, model: int, old: Map, new: Map) -> None:
        """Begin to fill buffers with the layers of ``new``, one after the other."""

    def ready(self, model: int, layer: int) -> bool:
        """Whether all ranks have this layer in their buffers."""

    def commit(self, model: int, layer: int) -> None:
        """Replace one layer's weights by the buffer's; wait for it if it is not :meth:`ready`."""


@dataclass(frozen=True)
class Step:
    """What a step did.

    Attributes:
        committed: (model, layer) pairs whose map has changed, in order.
        rearranged: the policy was asked.
        deferred: it was due, but a transfer is under way.
    """

    committed: tuple[tuple[int, int], ...] = ()
    rearranged: bool = False
    deferred: bool = False


@dataclass
class _Model:
    phy2log: Map
    window: Tokens
    target: Map | None = None
    next_layer: int = 0


class Schedule:
    """The state of one engine with one or several models of equal shape.

    Attributes:
        topology: the machine that the policy is told.
        counter: steps since the last rearrangement; starts at three quarters of the interval.

    Raises:
        ValueError: fewer slots than experts, or slots that the ranks cannot share evenly.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        num_layers: int,
        num_logical_experts: int,
        num_physical_experts: int,
        node_of_rank: Sequence[int],
        num_groups: int = 1,
        num_models: int = 1,
        initial: Sequence[Map] | None = None,
    ) -> None:
        """Start with ``initial``, one map a model, or with the experts in order and then again from
        the first.
        """
        self.engine, self.settings = engine, settings
        self.num_layers, self.num_logical_experts = num_layers, num_logical_experts
        self.num_groups = num_groups
        self._settle(num_physical_experts, node_of_rank)
        if initial is None:
            start = Placement.in_order(num_layers, num_logical_experts, num_physical_experts)
            initial = [start.phy2log] * num_models
        self._models = [self._fresh(phy2log) for phy2log in initial]
        self.counter = settings.step_interval - settings.step_interval // 4
        self._position = 0

    def _settle(self, num_physical_experts: int, node_of_rank: Sequence[int]) -> None:
        if num_physical_experts < self.num_logical_experts:
            raise ValueError(
                f"num_physical_experts={num_physical_experts} is less than "
                f"num_logical_experts={self.num_logical_experts}: every expert needs a slot"
            )
        self.node_of_rank = tuple(node_of_rank)
        self.topology = machine(num_physical_experts, node_of_rank, self.num_groups)

    def _fresh(self, phy2log: Map) -> _Model:
        width = phy2log.shape[1] if self.settings.attribute_late else self.num_logical_experts
        shape = (self.settings.window_size, self.num_layers, width)
        return _Model(np.array(phy2log, dtype=np.int64), np.zeros(shape))

    def phy2log(self, model: int = 0) -> Map:
        """[L, P] the map under which the next pass is served; a copy."""
        return self._models[model].phy2log.copy()

    @property
    def transferring(self) -> bool:
        """Whether an asynchronous transfer is under way."""
        return any(model.target is not None for model in self._models)

    def step(self, passes: Sequence[Tokens] | None) -> Step:
        """After a forward pass: tokens [L, P] that each slot received, by model; None for a dummy.

        Raises:
            ValueError: not one pass a model, or one of another shape.
        """
        if passes is not None:
            self._record(passes)
        self.counter += 1
        committed = self._commit_ready()
        if self.counter < self.settings.step_interval:
            return Step(committed)
        if self.transferring:
            return Step(committed, deferred=True)
        self.counter = 0
        return Step(committed + self.rearrange(), rearranged=True)

    def _record(self, passes: Sequence[Tokens]) -> None:
        expected = (self.num_layers, self.topology.num_physical_experts)
        if [np.shape(p) for p in passes] != [expected] * len(self._models):
            shapes = ", ".join(str(np.shape(p)) for p in passes)
            raise ValueError(
                f"passes of shapes {shapes} are not [L, P] = {expected} for each of "
                f"{len(self._models)} models"
            )
        for model, tokens in zip(self._models, passes, strict=True):
            late = self.settings.attribute_late
            model.window[self._position] = tokens if late else self._by_expert(model, tokens)
        self._position = (self._position + 1) % self.settings.window_size

    def _by_expert(self, model: _Model, tokens: Tokens) -> Tokens:
        """[L, E] from [L, P], with the map of now."""
        loads = np.zeros((self.num_layers, self.num_logical_experts))
        np.add.at(loads, (np.arange(self.num_layers)[:, None], model.phy2log), tokens)
        return loads

    def _commit_ready(self) -> tuple[tuple[int, int], ...]:
        return tuple(
            self._commit(number, model.target)
            for number, model in enumerate(self._models)
            if model.target is not None and self.engine.ready(number, model.next_layer)
        )

    def _commit(self, number: int, target: Map) -> tuple[int, int]:
        model = self._models[number]
        layer = model.next_layer
        self.engine.commit(number, layer)
        model.phy2log[layer] = target[layer]
        model.next_layer += 1
        if model.next_layer == self.num_layers:
            model.target, model.next_layer = None, 0
        return number, layer

    def finish(self) -> None:
        """Wait for a transfer that is under way and commit what is left of it."""
        for number, model in enumerate(self._models):
            while model.target is not None:
                self._commit(number, model.target)

    def loads(self) -> list[Tokens]:
        """[L, E] of each model: what the window holds, over all ranks."""
        late = self.settings.attribute_late
        sums = [(model, model.window.sum(0)) for model in self._models]
        return self.engine.reduce([self._by_expert(m, s) if late else s for m, s in sums])

    def rearrange(self, *, is_profile: bool = False) -> tuple[tuple[int, int], ...]:
        """Ask the policy and act; the (model, layer) pairs that were committed at once.

        A profile run asks it too and changes nothing. While a transfer is under way nothing is
        asked.
        """
        if self.transferring:
            return ()
        committed = []
        for number, (model, loads) in enumerate(zip(self._models, self.loads(), strict=True)):
            new = self.engine.place(number, loads, self.topology, model.phy2log.copy())
            if new is None or is_profile:
                continue
            if self.settings.use_async:
                self.engine.start(number, model.phy2log.copy(), new)
                model.target = new
                continue
            for layer in range(self.num_layers):
                self.engine.move(number, layer, model.phy2log[layer], new[layer])
                model.phy2log[layer] = new[layer]
                committed.append((number, layer))
        return tuple(committed)

    def scale(self, stays: Sequence[int], node_of_rank: Sequence[int]) -> bool:
        """Ranks leave or come: place for the ranks that will be, move, and start afresh.

        All layers are moved at once, in both modes. Afterwards the window is empty and the counter
        0, as of an engine that starts with known loads.

        Args:
            stays: vLLM's ``rank_mapping``: for each rank its new number, or -1 if it leaves.
            node_of_rank: the node of each new rank.

        Returns:
            Whether it was done; False if the policy failed: then everything is as before.

        Raises:
            ValueError: the mapping does not fit, or too few slots would be left.
            RuntimeError: a transfer is under way.
        """
        _check_mapping(stays, len(self.node_of_rank), len(node_of_rank))
        if self.transferring:
            raise RuntimeError("a transfer is under way: call finish() before ranks leave or come")
        slots_per_rank = self.topology.slots_per_rank
        before = (self.topology.num_physical_experts, self.node_of_rank)
        loads = self.loads()
        self._settle(slots_per_rank * len(node_of_rank), node_of_rank)
        old = [model.phy2log for model in self._models]
        new = [
            self.engine.place(number, loads[number], self.topology, phy2log.copy())
            for number, phy2log in enumerate(old)
        ]
        placed = [phy2log for phy2log in new if phy2log is not None]
        if len(placed) < len(new):
            self._settle(*before)
            return False
        for number, pair in enumerate(zip(old, placed, strict=True)):
            both = over_same_ranks(*pair, stays, slots_per_rank)
            for layer, rows in enumerate(zip(*both, strict=True)):
                self.engine.move(number, layer, *rows)
        self._models = [self._fresh(phy2log) for phy2log in placed]
        self.counter = self._position = 0
        return True


def machine(num_physical_experts: int, node_of_rank: Sequence[int], num_groups: int) -> Topology:
    """The machine that a policy is told; one node, with a warning, where nodes are not equal parts.

    As in vLLM only the numbers count: ranks 0 to 3 on nodes 0, 0, 0, 1 are two nodes of two.
    """
    num_ranks, num_nodes = len(node_of_rank), len(set(node_of_rank))
    if num_ranks % num_nodes:
        warnings.warn(
            f"num_ranks={num_ranks} is not a multiple of num_nodes={num_nodes}: "
            "placing as on one node",
            stacklevel=2,
        )
        num_nodes = 1
    return Topology(num_physical_experts, num_ranks, num_nodes, num_groups)


def _check_mapping(stays: Sequence[int], num_old: int, num_new: int) -> None:
    kept = [rank for rank in stays if rank != -1]
    if len(stays) != num_old:
        raise ValueError(f"{len(stays)} entries do not say of {num_old} ranks which of them stay")
    if len(set(kept)) < len(kept) or not all(0 <= rank < num_new for rank in kept):
        raise ValueError(f"new ranks {kept} are not different numbers in 0..{num_new - 1}")
