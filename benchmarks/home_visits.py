"""Nodes that tokens visit: counted from the experts of each token, and estimated from loads alone.

    python benchmarks/home_visits.py

``--layers 6`` takes every sixth layer, ``--limits 0.05,0.1`` other limits of traffic, ``--policy
greedy`` another policy under ``home``, or a rival of ``home_rivals.py``.

Tokens of gpt-oss-20b (4 of 32 experts; it has no groups, here they are 4 or 8 contiguous ones), and
tokens drawn by the loads of a recording of DeepSeek-V3 as a router takes them from random scores: 8
of 256 experts from the best 4 of 8 groups, and without that limit. Placed and counted on the same
tokens, all as one step. A token takes among the replicas of an expert one

- ``drawn`` at random;
- ``hashed`` by its index, as vLLM does;
- ``near``: on a node where it must go anyway, else drawn.

Columns, means over layers: loss and traffic in %; visits of a token at all nodes with its experts
served at home, and at the fullest node as they are served; *further* visits, counted, at most as
traffic says, and if its experts were drawn independently by load; microseconds of a layer for 1,000
tokens, expert work of the fullest rank and the link of the fullest node (``eplb_opt.gap.travel``:
500 TFLOP/s of expert work on a GPU, 50 GB/s a GPU between nodes, FP8 out, BF16 back).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from home import Machine, header, options_of, recorded, row, rules
from numpy.typing import NDArray

from eplb_opt.gap.travel import Travel, drawn_visits, most_visits, node_visits, seconds
from eplb_opt.io.routing import read_routing
from eplb_opt.problem.homes import find_homes
from eplb_opt.problem.layer import Layer
from heuristics.dispatch import hashed
from heuristics.pipeline import maps

Ints = NDArray[np.int64]
TOKENS = 8192
"""That are drawn."""


Way = Callable[[Ints, Ints, int], Ints]
"""(experts [B, k], phy2log [P], slots of a node) -> slots [B, k]."""


def drawn(topk: Ints, phy2log: Ints, _: int) -> Ints:
    """A random replica for each token and expert."""
    _, log2phy, counts = maps(torch.from_numpy(phy2log)[None], int(phy2log.max()) + 1)
    chosen = np.random.default_rng(0).integers(counts[0].numpy()[topk])
    return log2phy[0].numpy()[topk, chosen]


def by_index(topk: Ints, phy2log: Ints, _: int) -> Ints:
    """As vLLM hashes the index of a token."""
    return hashed(torch.from_numpy(topk).long().contiguous(), torch.from_numpy(phy2log)).numpy()


def near(topk: Ints, phy2log: Ints, per_node: int) -> Ints:
    """Drawn among the replicas on nodes where an expert of the token is that has no other replica,
    or among all if there is none.
    """
    _, log2phy, counts = maps(torch.from_numpy(phy2log)[None], int(phy2log.max()) + 1)
    slots, number = log2phy[0].numpy()[topk], counts[0].numpy()[topk]
    nodes = np.where(slots < 0, -1, slots // per_node)
    visited = np.zeros((len(topk), nodes.max() + 1), bool)
    token, place = np.nonzero(number == 1)
    visited[token, nodes[token, place, 0]] = True
    there = visited[np.arange(len(topk))[:, None, None], nodes] & (slots >= 0)
    allowed = np.where(there.any(2, keepdims=True), there, slots >= 0)
    chosen = np.where(allowed, np.random.default_rng(0).random(allowed.shape), -1.0).argmax(2)
    return np.take_along_axis(slots, chosen[:, :, None], 2)[:, :, 0]


WAYS: dict[str, Way] = {"drawn": drawn, "hashed": by_index, "near": near}


def visits(options: argparse.Namespace) -> None:
    """Visits of a token at nodes, counted and estimated, means over tokens and layers."""
    names = ("loss", "traffic", "at home", "fullest", "further", "at most", "drawn", "work", "link")
    header("tokens, machine, rule, way", *names)
    routing = read_routing(options.data / "gpt_oss_20b_tokens.npz").experts[:, :: options.layers]
    for machine in (Machine(40, 8, 2, 4), Machine(40, 8, 4, 4), Machine(40, 8, 4, 8)):
        travel = travel_of(machine, 4, 2880, 2880)
        visited(f"gpt-oss-20b, {machine}", routing, 32, machine, travel, options)
    loads = recorded(options)["prefill_in2048"]
    for name, groups in (("4 of 8 groups", 4), ("any groups", 8)):
        routed = route(loads, TOKENS, groups)
        travel = travel_of(Machine(), 8, 7168, 2048)
        visited(f"drawn, {name}, {Machine()}", routed, 256, Machine(), travel, options)


def travel_of(machine: Machine, k: int, hidden_size: int, expert_size: int) -> Travel:
    """Experts of three matrices; two operations for each of their numbers and a token."""
    flops = 2 * 3 * hidden_size * expert_size
    return Travel(k, hidden_size, 50 * machine.ranks / machine.nodes, flops / 500e12)


def route(loads: Ints, tokens: int, kept: int) -> NDArray[np.int64]:
    """Experts [tokens, L, 8] as a router takes them from random scores, log-loads and Gumbel noise:
    from the ``kept`` of 8 groups whose two best scores sum to most, the best experts.
    """
    random = np.random.default_rng(0)
    found = []
    for layer in loads:
        scores = np.log(layer + 1.0) + random.gumbel(size=(tokens, 256))
        grouped = scores.reshape(tokens, 8, 32)
        totals = np.sort(grouped, 2)[:, :, -2:].sum(2)
        worst = np.argsort(totals, 1)[:, : 8 - kept]
        grouped[np.arange(tokens)[:, None], worst] = -np.inf
        found.append(np.argsort(-scores, 1)[:, :8])
    return np.stack(found, 1)


def visited(
    name: str,
    routing: NDArray[np.integer],
    experts: int,
    machine: Machine,
    travel: Travel,
    options: argparse.Namespace,
) -> None:
    """Rows of a machine, by rule and by how tokens choose among replicas."""
    layers = routing.shape[1]
    loads = np.stack([np.bincount(routing[:, i].ravel(), minlength=experts) for i in range(layers)])
    for under in rules(options.limits):
        placed = under.place(loads, machine, options.policy if under.rule == "home" else "refined")
        for way, choose in WAYS.items():
            counted = [
                visits_of(layer, phy2log, routing[:, i], choose, travel)
                for i, (layer, phy2log) in enumerate(
                    zip(under.instance(loads, machine).layers(), placed.numpy(), strict=True)
                )
            ]
            loss, away, *cells = np.mean(counted, 0)
            row(f"{name}, {under}, {way}", loss * 100, away * 100, *cells)


def visits_of(
    layer: Layer, phy2log: Ints, topk: NDArray[np.integer], way: Way, travel: Travel
) -> tuple[float, ...]:
    """Loss, traffic, and visits: at home, of the fullest node; further: counted, at most, drawn;
    and the microseconds.
    """
    topology = layer.topology
    nodes, per_node, k = topology.num_nodes, topology.slots_per_node, topk.shape[1]
    homes = find_homes(layer, phy2log.tolist(), present=False)
    assert homes is not None
    group_size = layer.num_logical_experts // topology.num_groups
    home = np.array(homes)[topk // group_size]
    slots = way(topk, phy2log, per_node)
    tokens = np.bincount(slots.ravel(), minlength=len(phy2log))
    makespan = tokens.reshape(topology.num_ranks, -1).sum(1).max() / len(topk)
    loss = makespan * topology.num_ranks / k - 1
    away = slots // per_node != home
    traffic_at = np.bincount((slots // per_node)[away], minlength=nodes) / topk.size
    owned = np.bincount(home.ravel(), minlength=nodes) / topk.size
    served = tokens.reshape(nodes, -1).sum(1) / topk.size
    at_home = node_visits(home, 1, nodes) / len(topk)
    counted = node_visits(slots, per_node, nodes) / len(topk)
    most = sum(most_visits(k, traffic_at.tolist()))
    drawn = sum(drawn_visits(k, served.tolist())) - sum(drawn_visits(k, owned.tolist()))
    further = float(counted.sum() - at_home.sum())
    work = makespan * 1000 * travel.seconds_per_token * 1e6
    link = seconds(travel, 1000, 0, counted.tolist()) * 1e6
    return loss, away.mean(), at_home.sum(), counted.max(), further, most, drawn, work, link


def main() -> None:
    options = options_of(__doc__).parse_args()
    torch.set_num_threads(1)
    visits(options)


if __name__ == "__main__":
    main()
