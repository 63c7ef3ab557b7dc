"""The state machine against a straight-line model of vLLM's, and its corner cases one by one."""

import random
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from eplb_opt.problem.topology import Topology
from eplb_opt.serving.state_machine import Schedule, Settings, Step, machine


def place(loads: list[list[float]], slots: int, ranks: int, nodes: int) -> list[list[int]]:
    """Any deterministic rule that depends on all its arguments."""
    rows = []
    for row in loads:
        order = sorted(range(len(row)), key=lambda e: (-row[e], e))
        row_slots = order + [order[i % max(1, len(row) // 2)] for i in range(slots - len(row))]
        shift = ranks + nodes
        rows.append(row_slots[shift % slots :] + row_slots[: shift % slots])
    return rows


@dataclass
class Simulated:
    """An engine without weights: it keeps what it was told."""

    buffer_ready: bool = True
    fails: bool = False
    asked: list[Any] = field(default_factory=list)
    moved: list[Any] = field(default_factory=list)

    def reduce(self, loads):
        return loads

    def place(self, model, loads, topology: Topology, old):
        self.asked.append((model, loads.tolist(), old.tolist(), topology))
        if self.fails:
            return None
        slots, nodes = topology.num_physical_experts, topology.num_nodes
        return np.array(place(loads.tolist(), slots, topology.num_ranks, nodes))

    def move(self, model, layer, old, new):
        self.moved.append((model, layer, old.tolist(), new.tolist()))

    def start(self, model, old, new):
        pass

    def ready(self, *_):
        return self.buffer_ready

    def commit(self, model, layer):
        pass


def straight_line(script: dict[str, Any]) -> list[Any]:
    """vLLM's state machine once more, as one loop over plain lists, in its own variables."""
    layers, experts, models = script["layers"], script["experts"], script["models"]
    per_rank, nodes = script["slots_per_rank"], list(script["nodes"])
    window_size, interval = script["window"], script["interval"]
    slots = per_rank * len(nodes)

    def empty_window():
        return [[[0.0] * slots for _ in range(layers)] for _ in range(window_size)]

    maps = [[[i % experts for i in range(slots)] for _ in range(layers)] for _ in range(models)]
    windows = [empty_window() for _ in range(models)]
    window_step = 0
    rearrangement_step = max(0, interval - interval // 4)
    rebalanced = [False] * models
    layer_to_transfer = [0] * models
    new_maps: list[Any] = [None] * models
    trail = []

    def window_loads(m):
        loads = [[0.0] * experts for _ in range(layers)]
        for entry in windows[m]:
            for layer in range(layers):
                for slot in range(slots):
                    loads[layer][maps[m][layer][slot]] += entry[layer][slot]
        return loads

    def solve(loads):
        num_nodes = len(set(nodes))
        if len(nodes) % num_nodes != 0:
            num_nodes = 1
        return place(loads, slots, len(nodes), num_nodes)

    def rearrange():
        for m in range(models):
            new = solve(window_loads(m))
            if script["async"]:
                new_maps[m], rebalanced[m], layer_to_transfer[m] = new, True, 0
            else:
                maps[m] = new

    for event in script["events"]:
        kind = event["kind"]
        if kind == "profile":
            for m in range(models):
                solve(window_loads(m))
        elif kind == "scale" and not any(rebalanced):
            loads = [window_loads(m) for m in range(models)]
            nodes = list(event["nodes"])
            slots = per_rank * len(nodes)
            maps = [solve(loads[m]) for m in range(models)]
            windows = [empty_window() for _ in range(models)]
            window_step = rearrangement_step = 0
        elif kind in ("pass", "dummy"):
            if kind == "pass":
                for m in range(models):
                    tokens = event["tokens"][m]
                    windows[m][window_step] = [row[:slots] for row in tokens]
                window_step += 1
                if window_step >= window_size:
                    window_step = 0
            rearrangement_step += 1
            if script["async"]:
                for m in range(models):
                    if rebalanced[m] and event["ready"]:
                        maps[m][layer_to_transfer[m]] = new_maps[m][layer_to_transfer[m]]
                        layer_to_transfer[m] += 1
                        if layer_to_transfer[m] >= layers:
                            rebalanced[m], layer_to_transfer[m] = False, 0
            if rearrangement_step >= interval and not (script["async"] and any(rebalanced)):
                rearrangement_step = 0
                rearrange()
        trail.append((rearrangement_step, [[list(row) for row in m] for m in maps]))
    return trail


def random_script(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    layers, experts, per_rank = rng.randint(1, 3), rng.randint(2, 6), rng.randint(1, 3)
    fewest = -(-experts // per_rank)
    ranks, most = fewest + rng.randint(0, 2), fewest + 4
    interval = rng.randint(1, 9)
    script: dict[str, Any] = {
        "layers": layers,
        "experts": experts,
        "models": rng.randint(1, 2),
        "slots_per_rank": per_rank,
        "nodes": [r // rng.choice([1, 2, 3]) for r in range(ranks)],
        "interval": interval,
        "window": rng.choice([1, 2, interval, 2 * interval + 1]),
        "async": rng.random() < 0.5,
        "events": [],
    }
    script["nodes"].sort()
    for _ in range(rng.randint(5, 40)):
        kind = rng.choices(["pass", "dummy", "profile", "scale"], [20, 4, 1, 2])[0]
        event: dict[str, Any] = {"kind": kind, "ready": rng.random() < 0.7}
        event["tokens"] = [
            [
                [float(rng.choice([0, 1, 7, 100])) for _ in range(most * per_rank)]
                for _ in range(layers)
            ]
            for _ in range(script["models"])
        ]
        if kind == "scale":
            event["nodes"] = [r // 2 for r in range(rng.randint(fewest, most))]
        script["events"].append(event)
    return script


def run(script: dict[str, Any]) -> list[Any]:
    engine = Simulated()
    settings = Settings(script["window"], script["interval"], script["async"])
    schedule = Schedule(
        engine,
        settings,
        num_layers=script["layers"],
        num_logical_experts=script["experts"],
        num_physical_experts=script["slots_per_rank"] * len(script["nodes"]),
        node_of_rank=script["nodes"],
        num_models=script["models"],
    )
    trail = []
    for event in script["events"]:
        engine.buffer_ready = event["ready"]
        slots = schedule.topology.num_physical_experts
        if event["kind"] == "profile":
            if not schedule.transferring:  # what vLLM places then changes nothing either
                schedule.rearrange(is_profile=True)
        elif event["kind"] == "scale" and not schedule.transferring:
            old, new = len(schedule.node_of_rank), len(event["nodes"])
            stays = [r if r < new else -1 for r in range(old)]
            schedule.scale(stays, event["nodes"])
        elif event["kind"] in ("pass", "dummy"):
            tokens = [np.array(t)[:, :slots] for t in event["tokens"]]
            schedule.step(tokens if event["kind"] == "pass" else None)
        maps = [schedule.phy2log(m).tolist() for m in range(script["models"])]
        trail.append((schedule.counter, maps))
    return trail


@pytest.mark.filterwarnings("ignore:num_ranks=")
def test_the_same_decisions_as_a_straight_line_model_in_500_schedules() -> None:
    seen = {"async": 0, "scale": 0, "long window": 0, "changed": 0}
    for seed in range(500):
        script = random_script(seed)
        expected, got = straight_line(script), run(script)
        assert got == expected, f"seed {seed}"
        seen["async"] += script["async"]
        seen["scale"] += any(e["kind"] == "scale" for e in script["events"])
        seen["long window"] += script["window"] > script["interval"]
        seen["changed"] += len({str(maps) for _, maps in got}) > 2
    assert min(seen.values()) > 100, seen


def small(engine: Simulated, settings: Settings, **sizes: Any) -> Schedule:
    sizes = {"num_layers": 1, "num_logical_experts": 3, "num_physical_experts": 4} | sizes
    return Schedule(engine, settings, **({"node_of_rank": [0, 0]} | sizes))


def one(*tokens: Any) -> list[np.ndarray]:
    return [np.array(tokens if isinstance(tokens[0], list) else [tokens])]


def test_starts_in_order_at_three_quarters_of_the_interval() -> None:
    schedule = small(Simulated(), Settings(4, 10), num_layers=2)
    assert schedule.phy2log().tolist() == [[0, 1, 2, 0]] * 2
    assert schedule.counter == 8
    assert schedule.step(None) == Step()
    assert schedule.step(None) == Step(((0, 0), (0, 1)), rearranged=True)
    assert schedule.counter == 0


def test_a_window_longer_than_the_interval_misattributes_as_it_does_there() -> None:
    engine = Simulated()
    schedule = small(engine, Settings(window_size=4, step_interval=2))
    schedule.step(one(0, 0, 60, 0))  # expert 2, while slots hold 0 1 2 0
    assert engine.asked[-1][1] == [[0, 0, 60]]
    held = schedule.phy2log()[0].tolist()
    schedule.step(None)
    schedule.step(None)
    wrong = [0.0, 0.0, 0.0]
    wrong[held[2]] = 60
    assert held[2] != 2
    assert engine.asked[-1][1] == [wrong]


def test_misattribution_can_be_avoided() -> None:
    engine = Simulated()
    schedule = small(engine, Settings(4, 2, attribute_late=False))
    schedule.step(one(0, 0, 60, 0))
    schedule.step(None)
    schedule.step(None)
    assert [asked[1] for asked in engine.asked] == [[[0, 0, 60]]] * 2


def test_a_transfer_defers_the_rearrangement_and_the_counter_goes_on() -> None:
    engine = Simulated(buffer_ready=False)
    schedule = small(engine, Settings(1, 2, use_async=True), num_layers=2)
    assert schedule.step(one(*[[0, 5, 0, 0]] * 2)) == Step(rearranged=True)
    assert schedule.transferring
    assert [schedule.step(None).deferred for _ in range(3)] == [False, True, True]
    assert schedule.counter == 3
    engine.buffer_ready = True
    assert schedule.step(None) == Step(((0, 0),), deferred=True)
    mixed = schedule.phy2log().tolist()
    assert mixed[0] != mixed[1] == [0, 1, 2, 0]
    assert schedule.rearrange() == ()  # a request meanwhile asks nobody
    assert len(engine.asked) == 1
    assert schedule.step(None) == Step(((0, 1),), rearranged=True)  # the end and the next start


def test_a_policy_that_fails_is_asked_again_after_the_interval() -> None:
    engine = Simulated(fails=True)
    schedule = small(engine, Settings(1, 2))
    assert schedule.step(one(0, 5, 0, 0)) == Step(rearranged=True)
    assert schedule.phy2log().tolist() == [[0, 1, 2, 0]]
    engine.fails = False
    assert [schedule.step(None).committed for _ in range(2)] == [(), ((0, 0),)]


def test_scale_down_with_a_rank_from_the_middle_and_up_again() -> None:
    engine = Simulated()
    sizes = {"num_physical_experts": 6, "node_of_rank": [0, 0, 1]}
    with pytest.warns(UserWarning, match="num_ranks=3 is not a multiple of num_nodes=2"):
        schedule = small(engine, Settings(1, 8), **sizes)
    assert schedule.scale([0, -1, 1], [0, 1])
    assert schedule.topology == Topology(4, 2, 2)
    _, _, old, new = engine.moved[-1]
    assert old == [0, 1, 2, 0, 1, 2]
    assert new[2:4] == [-1, -1]
    assert new[:2] + new[4:] == schedule.phy2log()[0].tolist()
    assert schedule.counter == 0
    with pytest.warns(UserWarning, match="not a multiple"):
        assert schedule.scale([0, 1], [0, 1, 1])
    _, _, old, new = engine.moved[-1]
    assert old[4:] == [-1, -1]
    assert new == schedule.phy2log()[0].tolist()


def test_scaling_that_fails_changes_nothing() -> None:
    engine = Simulated(fails=True)
    schedule = small(engine, Settings(1, 8))
    schedule.step(one(0, 5, 0, 0))
    assert not schedule.scale([0, 1], [0, 0, 0])
    assert (schedule.topology, schedule.counter) == (Topology(4, 2), 7)
    assert schedule.loads()[0].tolist() == [[0, 5, 0]]
    with pytest.raises(ValueError, match="num_physical_experts=2 is less than"):
        schedule.scale([0, -1], [0])
    for stays in ([0], [0, 0], [0, 2]):
        with pytest.raises(ValueError, match=r"ranks"):
            schedule.scale(stays, [0, 0])
    assert schedule.phy2log().tolist() == [[0, 1, 2, 0]]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="window_size=0"):
        Settings(window_size=0)
    with pytest.raises(ValueError, match="every expert needs a slot"):
        small(Simulated(), Settings(), num_physical_experts=2)
    with pytest.raises(ValueError, match=r"shapes \(1, 3\) are not \[L, P\] = \(1, 4\)"):
        small(Simulated(), Settings()).step(one(1, 2, 3))


def test_one_node_is_never_a_reason_to_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert machine(6, [5, 5, 5], 2) == Topology(6, 3, 1, 2)
