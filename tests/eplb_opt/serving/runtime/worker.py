"""One rank of a test: ``run`` writes FOLDER/SCENARIO-RANK.json, and what it prints to .log."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import eplb_opt.serving.runtime.rank_engine as engine_module
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.transfer import EMPTY, count_transfers, over_same_ranks
from eplb_opt.serving.runtime import Runtime, Served, TransferError
from eplb_opt.serving.state_machine import Settings

SIZES = {
    "short": {"layers": 2, "experts": 6, "slots": 2, "width": (8, 4), "passes": 12},
    "long": {"layers": 4, "experts": 32, "slots": 12, "width": (256, 256), "passes": 80},
}


class Node:
    """A model with whole-numbered weights on this rank, so that sums are exact in any order."""

    def __init__(self, size: str, seed: int = 0) -> None:
        self.__dict__.update(SIZES[size])
        self.seed = seed

    def expert(self, layer: int, expert: int) -> list[torch.Tensor]:
        d, h = self.width
        rng = np.random.default_rng([self.seed, layer, expert])
        shapes = (d, h), (h, d)
        return [torch.from_numpy(rng.integers(-2, 3, s).astype(np.float64)) for s in shapes]

    def weights(self, slots: list[int]) -> list[list[torch.Tensor]]:
        """Of each layer, for these experts; -1 is empty."""
        blank = [torch.full((a, b), -9.0, dtype=torch.float64) for a, b in
                 (self.width, self.width[::-1])]  # fmt: skip
        found = []
        for layer in range(self.layers):
            rows = [self.expert(layer, e) if e >= 0 else blank for e in slots]
            found.append([torch.stack([row[i] for row in rows]) for i in (0, 1)])
        return found

    def tokens(self, step: int, layer: int, rank: int) -> tuple[torch.Tensor, np.ndarray]:
        """Hidden states [n, d] and their two experts [n, 2]; some experts are popular."""
        rng = np.random.default_rng([self.seed, step // 3, layer])
        popular = rng.dirichlet(np.full(self.experts, 0.3)) + 1e-6
        rng = np.random.default_rng([self.seed, step, layer, rank])
        hidden = rng.integers(-2, 3, (6, self.width[0])).astype(np.float64)
        pairs = [
            rng.choice(self.experts, 2, replace=False, p=popular / popular.sum()) for _ in hidden
        ]
        return torch.from_numpy(hidden), np.array(pairs)

    @staticmethod
    def apply(hidden: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
        return torch.relu(hidden @ w1) @ w2

    def expected(self, step: int, layer: int, rank: int) -> torch.Tensor:
        hidden, pairs = self.tokens(step, layer, rank)
        rows = [
            sum(self.apply(row, *self.expert(layer, int(e))) for e in pair)
            for row, pair in zip(hidden, pairs, strict=True)
        ]
        return torch.stack(rows)

    def forward(self, runtime, weights, step: int, layer: int, rank: int, model: int = 0):
        """The layer over all ranks, each token's experts at one replica each; and who got what."""
        phy2log = runtime.phy2log(model)[layer]
        log2phy = Placement([phy2log], self.experts).log2phy[0]
        passes = np.zeros(len(phy2log))
        own = self.tokens(step, layer, rank)
        everyone = runtime.group.gather(own)
        outputs = torch.zeros(len(everyone), *own[0].shape, dtype=torch.float64)
        for sender, (hidden, pairs) in enumerate(everyone):
            for token, pair in enumerate(pairs):
                for e in pair:
                    replicas = log2phy[e][log2phy[e] >= 0]
                    slot = int(replicas[token % len(replicas)])
                    passes[slot] += sender == rank
                    if slot // self.slots == rank:
                        w1, w2 = (t[slot % self.slots] for t in weights[layer])
                        outputs[sender, token] += self.apply(hidden[token], w1, w2)
        return runtime.group.sum(outputs)[rank], passes


def serve(runtime, node, weights, steps, rank, before_step=lambda _step: None) -> dict:
    """Forward passes and steps; checks everything after each, and counts bytes from the maps."""
    bytes_of_expert = 2 * 8 * node.width[0] * node.width[1]
    expected_bytes, events, digests = 0, [], runtime.check()
    for step in steps:
        passes = np.zeros((node.layers, runtime.phy2log().shape[1]))
        for layer in range(node.layers):
            output, passes[layer] = node.forward(runtime, weights, step, layer, rank)
            assert torch.equal(output, node.expected(step, layer, rank)), (step, layer)
        before = runtime.phy2log()
        before_step(step)
        outcome = runtime.step([passes])
        after = runtime.phy2log()
        expected_bytes += (
            int(count_transfers(before, after, node.slots)[:, rank].sum()) * bytes_of_expert
        )
        events.append([len(outcome.committed), outcome.rearranged, outcome.deferred])
        if outcome.committed:
            assert runtime.check() == digests
            check_content(runtime, node, weights, rank)
    assert expected_bytes == runtime.bytes_received, (expected_bytes, runtime.bytes_received)
    return {"bytes": runtime.bytes_received, "events": events, "maps": runtime.phy2log().tolist()}


def check_content(runtime, node, weights, rank) -> None:
    own = runtime.phy2log()[:, rank * node.slots : (rank + 1) * node.slots]
    for layer, slots in enumerate(own.tolist()):
        for slot, e in enumerate(slots):
            for tensor, wanted in zip(weights[layer], node.expert(layer, e), strict=True):
                assert torch.equal(tensor[slot], wanted), (rank, layer, slot, e)


def start(
    node, store, rank, ranks, *, use_async=False, policy="deepseek", timeout=30.0, interval=4
):
    served = Served(
        node.experts, node.slots, settings=Settings(interval, interval, use_async),
        policy=policy, timeout=timeout,
    )  # fmt: skip
    slots = [p % node.experts for p in range(rank * node.slots, (rank + 1) * node.slots)]
    weights = node.weights(slots)
    return Runtime(served, [weights], store, rank, [r // 2 for r in range(ranks)]), weights, served


def rearrange(store, rank, size="short", use_async=False):
    node = Node(size)
    start_time = time.perf_counter()
    runtime, weights, _ = start(node, store, rank, 4, use_async=use_async, interval=8)
    with runtime:
        found = serve(runtime, node, weights, range(node.passes), rank)
    return found | {"seconds": time.perf_counter() - start_time}


def policy_fails(store, rank):
    node = Node("short")
    policy = str(Path(__file__).with_name("flaky_policy.py"))
    runtime, weights, _ = start(node, store, rank, 4, policy=policy)
    with runtime:
        return serve(runtime, node, weights, range(12), rank)


def request_during_transfer(store, rank):
    node = Node("short")
    runtime, weights, _ = start(node, store, rank, 4, use_async=True, interval=1)
    asked = []

    def request(_step):
        if runtime.schedule.transferring:
            asked.append(runtime.rearrange())

    with runtime:
        found = serve(runtime, node, weights, range(8), rank, request)
    return found | {"asked": len(asked), "answers": sum(len(a) for a in asked)}


def two_models(store, rank):
    nodes = [Node("short", seed=s) for s in (0, 1)]
    node = nodes[0]
    slots = [p % node.experts for p in range(rank * node.slots, (rank + 1) * node.slots)]
    weights = [n.weights(slots) for n in nodes]
    served = Served(node.experts, node.slots, settings=Settings(3, 3, use_async=True))
    committed = []
    with Runtime(served, weights, store, rank, [0] * 4) as runtime:
        digests = runtime.check()
        for step in range(16):
            passes = []
            for model, n in enumerate(nodes):
                passes.append(np.zeros((n.layers, 8)))
                for layer in range(n.layers):
                    output, passes[model][layer] = n.forward(
                        runtime, weights[model], step, layer, rank, model
                    )
                    assert torch.equal(output, n.expected(step, layer, rank))
            committed += runtime.step(passes).committed
            assert runtime.check() == digests
    return {"committed": committed}


def scale(store, rank, size="short"):
    """Four ranks, the second leaves, another comes."""
    node = Node(size)
    slots, nodes = node.slots, [0, 0, 1, 1]
    if rank == 4:
        served = Served(node.experts, slots, settings=Settings(4, 4), policy="deepseek")
        weights = node.weights([EMPTY] * slots)
        runtime = Runtime.join(served, [weights], store, 3, nodes, generation=2)
        with runtime:
            return after_scaling(runtime, node, weights, 3)
    runtime, weights, _ = start(node, store, rank, 4)
    found = serve(runtime, node, weights, range(6), rank)
    old, received_before = runtime.phy2log(), runtime.bytes_received
    stays = [0, -1, 1, 2]
    if not runtime.scale(stays, [0, 1, 1]):
        return found | {"left": True}
    rank = stays[rank]
    frames = over_same_ranks(old, runtime.phy2log(), stays, slots)
    own = int(count_transfers(*frames, slots)[:, stays.index(rank)].sum())
    assert runtime.bytes_received - received_before == own * 16 * node.width[0] * node.width[1]
    runtime.check()
    check_content(runtime, node, weights, rank)
    for step in range(6, 10):
        for layer in range(node.layers):
            output, _ = node.forward(runtime, weights, step, layer, rank)
            assert torch.equal(output, node.expected(step, layer, rank))
    assert runtime.scale([0, 1, 2], nodes)
    with runtime:
        return after_scaling(runtime, node, weights, rank)


def after_scaling(runtime, node, weights, rank):
    check_content(runtime, node, weights, rank)
    for step in range(10, 16):
        passes = np.zeros((node.layers, runtime.phy2log().shape[1]))
        for layer in range(node.layers):
            output, passes[layer] = node.forward(runtime, weights, step, layer, rank)
            assert torch.equal(output, node.expected(step, layer, rank))
        runtime.step([passes])
    runtime.check()
    check_content(runtime, node, weights, rank)
    return {"maps": runtime.phy2log().tolist(), "counter": runtime.schedule.counter}


def trouble(store, rank, how, use_async=False):
    """Rank 2 stops, dies or dawdles while layer 1 is moved; the others must end with an error."""
    node = Node("short")
    runtime, weights, _ = start(node, store, rank, 4, use_async=use_async, timeout=2.0, interval=2)
    fill, calls = engine_module.fill, []

    def sabotaged(*arguments):
        calls.append(None)
        if len(calls) == 2 and rank == 2:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(60)
        return fill(*arguments)

    engine_module.fill = sabotaged
    begin = time.monotonic()
    try:
        serve(runtime, node, weights, range(60), rank, lambda _step: time.sleep(0.1 * use_async))
    except TransferError as error:
        check_content(runtime, node, weights, rank)
        again = ""
        try:
            runtime.step(None)
        except TransferError as second:
            again = str(second)
        return {
            "error": str(error),
            "again": again,
            "seconds": time.monotonic() - begin,
            "maps": runtime.phy2log().tolist(),
        }
    return {"error": ""}


SCENARIOS = {
    "sync": lambda s, r: rearrange(s, r),
    "async": lambda s, r: rearrange(s, r, use_async=True),
    "long-sync": lambda s, r: rearrange(s, r, "long"),
    "long-async": lambda s, r: rearrange(s, r, "long", use_async=True),
    "policy-fails": policy_fails,
    "request": request_during_transfer,
    "two-models": two_models,
    "scale": scale,
    "long-scale": lambda s, r: scale(s, r, "long"),
    "stopped": lambda s, r: trouble(s, r, "stopped"),
    "killed": lambda s, r: trouble(s, r, "killed"),
    "slow-async": lambda s, r: trouble(s, r, "slow", use_async=True),
    "killed-async": lambda s, r: trouble(s, r, "killed", use_async=True),
}


def run(scenario: str, rank: int, port: int, folder: Path) -> None:
    """In a process of its own, in ``folder``."""
    os.chdir(folder)
    log = os.open(f"{scenario}-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    found = SCENARIOS[scenario](dist.TCPStore("127.0.0.1", port, None, False), rank)
    Path(f"{scenario}-{rank}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that wait for a lost rank need not be waited for
