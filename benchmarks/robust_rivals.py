"""Simple and published ways to place for several steps under even dispatch; for measuring only.

All take loads [T, L, E] and the sizes of a policy, and return [L, P]. Written from the ideas:

- ``refined``, ``deepseek``: on the sum of the steps;
- ``best-swaps``: from ``refined`` on the sum, the swap of two slots that lowers the mean makespan
  most, one side on the fullest rank of a step, until there is none;
- ``annealed-A``: from the same, one side on the fullest rank of a random step, the other any slot,
  kept by Metropolis' rule; A seconds of CPU a layer; counts stay;
- ``flashlb-stages``: the first public form of FlashLB in vllm-ascend (policy_flashlb.py): stages
  as vectors, replicas to what lowers the summed largest load of a replica, expert by expert on the
  rank that raises the summed relative maximum least; ``flashlb-swaps`` goes on with best swaps,
  ``flashlb-annealed`` with annealed ones, 0.05 s a layer;
- ``flashlb-risk``: its later form: mean, variance and covariance of the stages, counts in
  proportion to mean + z sigma in four classes of experts with the totals of classes searched within
  8, placed by LPT with mean + z sigma of the rank.

What may differ from FlashLB: it keeps state between calls, skips layers that are balanced, and
writes the result so that experts stay; the first form also tries a
second way to count, and a form between the two with swaps of its own is not public any more. A
replica that finds no rank without its expert is put where there is room. More than 16 stages (64
for ``flashlb-risk``) are joined, runs of neighbours summed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import sqrt

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heuristics.policies import placer

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Place = Callable[[Tensor, int, int, int, int], Tensor]
"""(loads [T, L, E], slots, groups, nodes, ranks) -> phy2log [L, P]."""
Z = 0.6744897501960817
"""The upper quartile of a normal distribution."""
HOT, COLD = 2e-3, 2e-5
"""First and last temperature, in mean rank loads."""
MOVES = 50_000
"""Moves x steps between two looks at the clock."""


# Sums of the steps -------------------------------------------------------------------------------


def of_sum(policy: str, loads: Tensor, *sizes: int) -> Tensor:
    return placer(policy)(loads.sum(0), *sizes)


# Swaps -------------------------------------------------------------------------------------------


@numba.njit(cache=True)
def rank_loads(tokens: Floats, num_ranks: int) -> Floats:
    """[G, T] from tokens [P, T] of the slots."""
    size = len(tokens) // num_ranks
    found = np.zeros((num_ranks, tokens.shape[1]))
    for p in range(len(tokens)):
        found[p // size] += tokens[p]
    return found


@numba.njit(cache=True)
def top_three(ranks: Floats, top: Ints, t: int) -> None:
    """The three fullest ranks of step t into ``top[t]``, -1 where there are fewer."""
    first, second, third = -1, -1, -1
    for g in range(len(ranks)):
        load = ranks[g, t]
        if first < 0 or load > ranks[first, t]:
            first, second, third = g, first, second
        elif second < 0 or load > ranks[second, t]:
            second, third = g, second
        elif third < 0 or load > ranks[third, t]:
            third = g
    top[t, 0], top[t, 1], top[t, 2] = first, second, third


@numba.njit(cache=True)
def change(tokens: Floats, ranks: Floats, top: Ints, p: int, q: int, g: int, h: int) -> float:
    """By how much the sum of makespans rises if slots p on g and q on h are swapped."""
    found = 0.0
    for t in range(tokens.shape[1]):
        moved = tokens[q, t] - tokens[p, t]
        most = max(ranks[g, t] + moved, ranks[h, t] - moved)
        for place in range(3):
            other = top[t, place]
            if other >= 0 and other != g and other != h:
                most = max(most, ranks[other, t])
                break
        found += most - ranks[top[t, 0], t]
    return found


@numba.njit(cache=True)
def swap(
    phy2log: Ints, tokens: Floats, ranks: Floats, top: Ints, p: int, q: int, g: int, h: int
) -> None:
    for t in range(tokens.shape[1]):
        moved = tokens[q, t] - tokens[p, t]
        ranks[g, t] += moved
        ranks[h, t] -= moved
        tokens[p, t] += moved
        tokens[q, t] -= moved
        top_three(ranks, top, t)
    phy2log[p], phy2log[q] = phy2log[q], phy2log[p]


@numba.njit(cache=True)
def descend(phy2log: Ints, tokens: Floats, ranks: Floats, top: Ints, node_size: int) -> None:
    """Best swaps until none lowers the sum; a node has ``node_size`` slots, swaps stay in it."""
    size, num_slots = len(phy2log) // len(ranks), len(phy2log)
    least = -1e-9 * tokens.sum()
    while True:
        full, best, best_p, best_q = np.zeros(len(ranks), np.bool_), least, -1, -1
        for t in range(len(top)):
            full[top[t, 0]] = True
        for p in range(num_slots):
            if not full[p // size]:
                continue
            start = p // node_size * node_size
            for q in range(start, start + node_size):
                g, h = p // size, q // size
                if g == h or phy2log[p] == phy2log[q] or (full[h] and q < p):
                    continue
                found = change(tokens, ranks, top, p, q, g, h)
                if found < best:
                    best, best_p, best_q = found, p, q
        if best_p < 0:
            return
        swap(phy2log, tokens, ranks, top, best_p, best_q, best_p // size, best_q // size)


@numba.njit(cache=True)
def anneal(
    phy2log: Ints,
    tokens: Floats,
    ranks: Floats,
    top: Ints,
    node_size: int,
    moves: int,
    temperature: float,
    seed: int,
) -> None:
    """Random swaps at one temperature, tokens summed over steps."""
    np.random.seed(seed)
    size, steps = len(phy2log) // len(ranks), tokens.shape[1]
    for _ in range(moves):
        g = top[np.random.randint(steps), 0]
        p = g * size + np.random.randint(size)
        q = p // node_size * node_size + np.random.randint(node_size)
        h = q // size
        if g == h or phy2log[p] == phy2log[q]:
            continue
        found = change(tokens, ranks, top, p, q, g, h)
        if found <= 0 or np.random.random() < np.exp(-found / temperature):
            swap(phy2log, tokens, ranks, top, p, q, g, h)


State = tuple[Ints, Floats, Floats, Ints]


def state_of(loads: Floats, phy2log: Ints, num_ranks: int) -> State:
    """phy2log [P], tokens [P, T] of slots, [G, T] of ranks, the fullest ranks [T, 3]."""
    counts = np.bincount(phy2log, minlength=loads.shape[1])
    tokens = np.ascontiguousarray((loads / counts)[:, phy2log].T)
    ranks, top = rank_loads(tokens, num_ranks), np.zeros((len(loads), 3), np.int64)
    for t in range(len(loads)):
        top_three(ranks, top, t)
    return phy2log, tokens, ranks, top


def node_slots(slots: int, groups: int, nodes: int) -> int:
    """Slots among which a replica may move: of a node where groups stay on nodes, else all."""
    return slots // nodes if groups % nodes == 0 else slots


def swap_best(start: Place, loads: Tensor, *sizes: int) -> Tensor:
    """Best swaps, from a placement."""
    phy2log = start(loads, *sizes).numpy().copy()
    for layer, placed in enumerate(phy2log):
        state = state_of(loads[:, layer].double().numpy(), placed, sizes[3])
        descend(*state, node_slots(*sizes[:3]))
    return torch.from_numpy(phy2log)


def swap_annealed(seconds: float, start: Place, loads: Tensor, *sizes: int) -> Tensor:
    """Annealed swaps for ``seconds`` of CPU a layer, from a placement; the best one seen."""
    phy2log = start(loads, *sizes).numpy().copy()
    for layer, placed in enumerate(phy2log):
        begin, steps = time.process_time(), len(loads)
        state = state_of(loads[:, layer].double().numpy(), placed.copy(), sizes[3])
        scale, seed = state[1].sum() / sizes[3], 0
        least = state[2].max(0).sum()
        while (part := (time.process_time() - begin) / seconds) < 1:
            temperature = scale * HOT * (COLD / HOT) ** part
            anneal(*state, node_slots(*sizes[:3]), max(1, MOVES // steps), temperature, seed)
            seed += 1
            if state[2].max(0).sum() < least:
                least, placed[:] = state[2].max(0).sum(), state[0]
    return torch.from_numpy(phy2log)


# FlashLB -----------------------------------------------------------------------------------------


def join(loads: Floats, most: int) -> Floats:
    """At most so many stages of [T, E], runs of neighbours summed."""
    if len(loads) <= most:
        return loads
    stage = np.arange(len(loads)) * most // len(loads)
    return np.stack([loads[stage == s].sum(0) for s in range(most)])


def count_by_maxima(loads: Floats, num_slots: int) -> Ints:
    """Replica by replica, to the expert that lowers the summed largest load of a replica most."""
    steps, num_experts = loads.shape
    counts, rows = np.ones(num_experts, np.int64), np.arange(steps)
    for _ in range(num_slots - num_experts):
        unit = loads / counts
        order = np.argsort(-unit, axis=1)
        hottest, second = order[:, 0], order[:, 1]
        after = loads[rows, hottest] / (counts[hottest] + 1)
        gain = unit[rows, hottest] - np.maximum(after, unit[rows, second])
        counts[np.bincount(hottest, gain, minlength=num_experts).argmax()] += 1
    return counts


def fill(counts: Ints, order: Ints, num_ranks: int, cost: Callable[..., Floats]) -> Ints:
    """Expert by expert on the ranks of least cost(expert, experts of each rank), none twice."""
    room = np.full(num_ranks, counts.sum() // num_ranks)
    held: list[list[int]] = [[] for _ in range(num_ranks)]
    for e in order.tolist():
        for _ in range(counts[e]):
            costs = cost(e, held)
            costs[room == 0] = np.inf
            apart = np.array([np.inf if e in experts else 0.0 for experts in held])
            g = int((costs + apart).argmin())
            if not np.isfinite(costs[g] + apart[g]):
                g = int(costs.argmin())
            held[g].append(e)
            room[g] -= 1
    return np.concatenate([np.array(experts) for experts in held])


def place_by_maxima(loads: Floats, counts: Ints, num_ranks: int) -> Ints:
    """Least sum over stages of the maximum, relative to the mean, with the replica put there."""
    unit, ranks = loads / counts, np.zeros((num_ranks, len(loads)))
    weight = loads.sum(1) / loads.sum(1).max()
    known = [0] * num_ranks

    def cost(e: int, held: list[list[int]]) -> Floats:
        for g, experts in enumerate(held):
            for other in experts[known[g] :]:
                ranks[g] += unit[:, other]
            known[g] = len(experts)
        most = np.maximum(ranks + unit[:, e], ranks.max(0))
        return (most / (ranks.mean(0) + unit[:, e] + 1e-2)) @ weight

    return fill(counts, np.argsort(-unit.sum(0), kind="stable"), num_ranks, cost)


def flash_stages(loads: Tensor, slots: int, _groups: int, _nodes: int, ranks: int) -> Tensor:
    placed = []
    for layer in loads.double().unbind(1):
        stages = join(layer.numpy(), 16) + 1
        placed.append(place_by_maxima(stages, count_by_maxima(stages, slots), ranks))
    return torch.from_numpy(np.stack(placed))


@numba.njit(cache=True)
def place_by_risk(mean: Floats, cov: Floats, counts: Ints, num_ranks: int) -> Ints:
    """LPT by mean, each replica on the rank of least mean + Z sigma, none twice if possible."""
    size = counts.sum() // num_ranks
    held = np.full((num_ranks, size), -1)
    used, means, variances = np.zeros(num_ranks, np.int64), np.zeros(num_ranks), np.zeros(num_ranks)
    for e in np.argsort(-(mean / counts)):
        for _ in range(counts[e]):
            best, best_g, best_mean, best_variance = np.inf, -1, 0.0, 0.0
            for g in range(num_ranks):
                if used[g] == size:
                    continue
                variance, twice = variances[g] + cov[e, e] / counts[e] ** 2, False
                for other in held[g, : used[g]]:
                    twice |= other == e
                    variance += 2 * cov[e, other] / counts[e] / counts[other]
                total = means[g] + mean[e] / counts[e]
                risk = total + Z * sqrt(max(variance, 0.0)) + 1e30 * twice
                if risk < best:
                    best, best_g, best_mean, best_variance = risk, g, total, variance
            held[best_g, used[best_g]] = e
            used[best_g] += 1
            means[best_g], variances[best_g] = best_mean, best_variance
    return held.reshape(-1)


def in_proportion(risk: Floats, spare: int) -> Ints:
    """1 + a part of ``spare`` in proportion to the risk, by largest remainders."""
    quota = risk / risk.sum() * spare
    found = np.floor(quota).astype(np.int64)
    largest = np.argsort(-(quota - found), kind="stable")[: spare - found.sum()]
    found[largest] += 1
    return 1 + found


def score(loads: Floats, phy2log: Ints, counts: Ints, num_ranks: int) -> float:
    """Mean over stages of makespan / mean rank load."""
    ranks = (loads / counts)[:, phy2log].reshape(len(loads), num_ranks, -1).sum(2)
    return float((ranks.max(1) / ranks.mean(1)).mean())


def risk_layer(loads: Floats, slots: int, ranks: int, depth: int = 4, width: int = 8) -> Ints:
    """Replicas of the hottest quarter of the experts first, then of the next, .."""
    mean, cov = loads.mean(0), np.zeros((loads.shape[1],) * 2)
    if len(loads) > 1:
        cov = np.cov(loads.T)
    risk = mean + Z * np.sqrt(np.diag(cov))
    spare, order, counts = slots - len(mean), np.argsort(-risk), np.ones(len(mean), np.int64)
    part = -(-len(mean) // depth)
    for level in range(depth - 1):
        now, later = order[level * part : (level + 1) * part], order[(level + 1) * part :]
        if not len(later) or not spare:
            break
        likely = int((in_proportion(risk[order[level * part :]], spare)[: len(now)] - 1).sum())
        best = np.inf
        for given in sorted(range(spare + 1), key=lambda n: abs(n - likely))[: 2 * width + 1]:
            tried = counts.copy()
            tried[now] = in_proportion(risk[now], given)
            tried[later] = in_proportion(risk[later], spare - given)
            found = score(loads, place_by_risk(mean, cov, tried, ranks), tried, ranks)
            if found < best:
                best, best_given, best_counts = found, given, tried
        counts, spare = best_counts, spare - best_given
    return place_by_risk(mean, cov, counts, ranks)


def flash_risk(loads: Tensor, slots: int, _groups: int, _nodes: int, ranks: int) -> Tensor:
    layers = [join(layer.numpy(), 64) + 1 for layer in loads.double().unbind(1)]
    return torch.from_numpy(np.stack([risk_layer(layer, slots, ranks) for layer in layers]))


REFINED = partial(of_sum, "refined")
RIVALS: dict[str, Place] = {
    "deepseek": partial(of_sum, "deepseek"),
    "refined": REFINED,
    "flashlb-stages": flash_stages,
    "flashlb-swaps": partial(swap_best, flash_stages),
    "flashlb-annealed": partial(swap_annealed, 0.05, flash_stages),
    "flashlb-risk": flash_risk,
    "best-swaps": partial(swap_best, REFINED),
    "annealed-0.05": partial(swap_annealed, 0.05, REFINED),
    "annealed-0.5": partial(swap_annealed, 0.5, REFINED),
}
GLOBAL_ONLY = tuple(name for name in RIVALS if name.startswith("flashlb"))
"""They know no groups."""
