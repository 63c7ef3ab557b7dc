"""A trace of loads, step by step, through the state machine with one policy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.policies.names import AnyPolicy, policy_name
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import step_makespans
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.serving.replay.simulated_engine import Decision, Move, SimulatedEngine
from eplb_opt.serving.replay.traffic import ServedMaps
from eplb_opt.serving.state_machine import Map, Schedule, Settings, Tokens, machine


@dataclass(frozen=True)
class Scenario:
    """What happens, whatever the policy.

    Attributes:
        trace: [T, R, E] tokens; rows are the layers of all models, model by model. A step without
            any token is a dummy pass.
        num_models: of equal shape, R = models x layers.
        topology: the machine at the start.
        rule: as resolved for it.
        traffic_limit: of the rule ``home``: for the loads that a policy sees. What it places may
            serve more off home in the steps that follow.
        settings: of the state machine.
        layer_steps: steps until a layer is in the buffers of all ranks, for asynchronous transfers.
        ranks_from: step -> number of ranks from that step on, with as many slots each; the last
            ranks leave, new ones come at the end.
    """

    trace: Tokens
    num_models: int
    topology: Topology
    rule: Rule
    settings: Settings
    layer_steps: int = 1
    ranks_from: Mapping[int, int] = field(default_factory=dict)
    traffic_limit: Fraction = Fraction(1)

    @property
    def num_layers(self) -> int:
        """Of one model."""
        return int(self.trace.shape[1]) // self.num_models

    def nodes(self, ranks: int) -> list[int]:
        """The node of each rank, if there are so many ranks: all nodes as full as at the start."""
        return [rank // self.topology.ranks_per_node for rank in range(ranks)]

    def machine(self, ranks: int) -> Topology:
        """The machine with so many ranks."""
        num_slots = ranks * self.topology.slots_per_rank
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once, when the machine changed
            return machine(num_slots, self.nodes(ranks), self.topology.num_groups)

    @classmethod
    def of(
        cls,
        models: Sequence[Instance],
        settings: Settings,
        layer_steps: int = 1,
        ranks_from: Mapping[int, int] | None = None,
    ) -> Scenario:
        """The scenario of one or several traces on the same machine.

        Raises:
            ValueError: loads without a time axis, of different shapes, a scale event outside the
                trace, or ``spread_replicas``, which engines do not know.
        """
        first = models[0]
        traces = []
        for model in models:
            if model.trace is None:
                raise ValueError(f"{model.source}: a replay needs a trace [steps, layers, experts]")
            traces.append(np.asarray(model.trace, dtype=np.float64))
            if traces[-1].shape != traces[0].shape:
                shapes = f"{traces[-1].shape} and {traces[0].shape}"
                raise ValueError(f"{model.source}: traces of shapes {shapes} differ")
        if first.spread_replicas:
            raise ValueError("spread_replicas is no rule of the engines that are replayed")
        events = dict(ranks_from or {})
        for step, ranks in events.items():
            if not 0 < step < len(traces[0]) or ranks < 1:
                raise ValueError(
                    f"scale event {step}:{ranks}: give a step in 1..{len(traces[0]) - 1} and ranks"
                )
            num_slots = ranks * first.topology.slots_per_rank
            if num_slots < first.num_logical_experts:
                raise ValueError(
                    f"scale event {step}:{ranks} leaves {num_slots} slots for "
                    f"{first.num_logical_experts} experts"
                )
        trace = np.concatenate(traces, axis=1)
        rule = Rule(first.rule)
        limit = Fraction(first.traffic_limit)
        return cls(trace, len(models), first.topology, rule, settings, layer_steps, events, limit)


@dataclass
class Trail:
    """What a policy did to a trace.

    Attributes:
        policy: its name.
        makespan: [T, R] tokens on the fullest rank.
        mean: [T, R] tokens, mean rank load.
        tokens: [T, R] in all.
        off_home: [T, R] tokens served off home (:mod:`eplb_opt.serving.replay.traffic`), NaN where
            nodes do not divide groups.
        moves: in order.
        decisions: in order; rows of all models together.
    """

    policy: str
    makespan: Tokens
    mean: Tokens
    tokens: Tokens
    off_home: Tokens
    moves: list[Move] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many were replayed."""
        return len(self.makespan)

    def traffic(self, start: int = 0, stop: int | None = None) -> float | None:
        """The part of the tokens of some steps that was served off home; None where nothing was
        served, or where nodes do not divide groups.
        """
        away, tokens = self.off_home[start:stop], self.tokens[start:stop]
        known = ~np.isnan(away)
        total = float(tokens[known].sum())
        return float(away[known].sum()) / total if total > 0 else None


def simulate(
    scenario: Scenario,
    policy: AnyPolicy,
    runner: PolicyRunner,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> tuple[Trail, bool]:
    """Replay all steps; also whether Ctrl-C ended it early, with the steps until then."""
    engine = SimulatedEngine(
        policy,
        runner,
        scenario.rule,
        scenario.num_models,
        scenario.layer_steps,
        scenario.traffic_limit,
    )
    schedule = _schedule(scenario, engine)
    served: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    history = ServedMaps()
    interrupted = False
    try:
        for step, loads in enumerate(scenario.trace):
            progress(policy_name(policy), step, len(scenario.trace))
            if step in scenario.ranks_from:
                engine.step = step - 1
                _scale(schedule, scenario.nodes(scenario.ranks_from[step]))
            engine.step = step
            maps = [schedule.phy2log(m) for m in range(scenario.num_models)]
            rows = np.concatenate(maps)
            ranks = schedule.topology.num_ranks
            (makespans,) = step_makespans(placed(rows, loads), loads[None], ranks)
            history.note(step, rows)
            served.append((makespans, loads.sum(1) / ranks))
            tokens = slot_tokens(rows, loads)
            schedule.step(np.split(tokens, scenario.num_models) if loads.any() else None)
    except KeyboardInterrupt:
        interrupted = True
    shape = (len(served), scenario.trace.shape[1])
    makespan, mean = (np.array([s[i] for s in served]).reshape(shape) for i in (0, 1))
    merged = [_merge(answers) for answers in zip(*engine.decisions, strict=False)]
    trace, per_rank = scenario.trace[: len(served)], scenario.topology.slots_per_rank
    off_home = history.tokens_off_home(trace, lambda slots: scenario.machine(slots // per_rank))
    terms = makespan, mean, trace.sum(2), off_home
    return Trail(policy_name(policy), *terms, engine.moves, merged), interrupted


def _schedule(scenario: Scenario, engine: SimulatedEngine) -> Schedule:
    topology = scenario.topology
    return Schedule(
        engine,
        scenario.settings,
        num_layers=scenario.num_layers,
        num_logical_experts=scenario.trace.shape[2],
        num_physical_experts=topology.num_physical_experts,
        node_of_rank=scenario.nodes(topology.num_ranks),
        num_groups=topology.num_groups,
        num_models=scenario.num_models,
    )


def _scale(schedule: Schedule, nodes: list[int]) -> None:
    """The last ranks leave, or new ones come on nodes as full as the first."""
    schedule.finish()
    ranks = len(nodes)
    stays = [rank if rank < ranks else -1 for rank in range(schedule.topology.num_ranks)]
    schedule.scale(stays, nodes)


def _merge(answers: Sequence[Decision]) -> Decision:
    """The answers for all models of one moment as one, rows together."""
    first = answers[0]
    failed = next((a for a in answers if a.new is None), None)
    return Decision(
        step=first.step,
        loads=np.concatenate([a.loads for a in answers]),
        old=np.concatenate([a.old for a in answers]),
        new=np.concatenate([a.new for a in answers if a.new is not None]) if not failed else None,
        topology=first.topology,
        rule=first.rule,
        seconds=sum(a.seconds or 0.0 for a in answers) if not failed else None,
        message=failed.message if failed else "",
        traffic_limit=first.traffic_limit,
    )


def placed(phy2log: Map, loads: Tokens) -> Placement:
    """The placement with the number of experts of ``loads``."""
    return Placement(phy2log, loads.shape[1])


def slot_tokens(phy2log: Map, loads: Tokens) -> Tokens:
    """What each slot receives: [R, P] from [R, E]. Whole tokens, as evenly as may be.

    The first replicas of an expert take one token more where its tokens cannot be shared.
    """
    placement = Placement(phy2log, loads.shape[1])
    rows = np.arange(len(phy2log))[:, None, None]
    index = np.zeros((len(phy2log), phy2log.shape[1] + 1), dtype=np.int64)
    slots = placement.log2phy  # ascending; padding -1 writes into the column that is cut off
    index[rows, slots] = np.arange(slots.shape[2])
    own = np.take_along_axis(loads, phy2log, axis=1)
    count = np.take_along_axis(placement.logcnt, phy2log, axis=1)
    share = np.floor(own / count)
    rest = own - share * count
    tokens: Tokens = share + np.clip(rest - index[:, :-1], 0, 1)
    return tokens
