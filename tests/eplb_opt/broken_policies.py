"""The baseline with one fault each, for the oracle suite to find; and a good one, as users write
it.
"""

from __future__ import annotations

import itertools

import torch

from heuristics.policies import POLICIES

CALLS = itertools.count()


def deepseek(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """The published algorithm, one layer after another, written with plain loops."""
    if num_groups % num_nodes:
        num_groups = num_nodes = 1
    if weight.shape[1] % num_groups:
        raise ValueError(f"{weight.shape[1]} experts do not form {num_groups} groups")
    rows = [
        place_layer(row, num_replicas, num_groups, num_nodes, num_gpus)
        for row in weight.double().tolist()
    ]
    return torch.tensor(rows)


def place_layer(loads, slots, groups, nodes, ranks):
    size = len(loads) // groups
    totals = [sum(loads[g * size : (g + 1) * size]) for g in range(groups)]
    row = []
    for mine in pack(totals, nodes):
        experts = [g * size + e for g in mine for e in range(size)]
        counts = dict.fromkeys(experts, 1)
        for _ in range(slots // nodes - len(experts)):
            counts[max(experts, key=lambda e: (loads[e] / counts[e], -e))] += 1
        replicas = [e for e in experts for _ in range(counts[e])]
        for rank in pack([loads[e] / counts[e] for e in replicas], ranks // nodes):
            row += [replicas[i] for i in rank]
    return row


def pack(items, packs):
    """Heaviest first into the lightest pack with room."""
    found = [[] for _ in range(packs)]
    load = [0.0] * packs
    for i in sorted(range(len(items)), key=lambda i: -items[i]):
        room = [p for p in range(packs) if len(found[p]) < len(items) // packs]
        p = min(room, key=load.__getitem__)
        found[p].append(i)
        load[p] += items[i]
    return found


def off_by_one_count(*arguments):
    phy2log, log2phy, logcnt = POLICIES["deepseek"](*arguments)
    logcnt[-1, 0] += 1
    return phy2log, log2phy, logcnt


def duplicate_slot(*arguments):
    phy2log, log2phy, logcnt = POLICIES["deepseek"](*arguments)
    phy2log[:, 1] = phy2log[:, 0]
    return phy2log, log2phy, logcnt


def nondeterministic(*arguments):
    phy2log = POLICIES["deepseek"](*arguments)[0]
    ranks = phy2log.view(len(phy2log), arguments[4], -1)
    return ranks.roll(next(CALLS) if arguments[3] == 1 else 0, dims=1).reshape(phy2log.shape)


def input_mutated(weight, *sizes):
    answer = POLICIES["deepseek"](weight, *sizes)
    weight += 1
    return answer


def one_percent_worse(*arguments):
    """Swaps a replica of the fullest rank for a heavier one, where both stay on their node."""
    weight, slots, _, nodes, ranks = arguments
    phy2log = POLICIES["deepseek"](*arguments)[0]
    counts = torch.zeros_like(weight, dtype=torch.int64)
    counts.scatter_add_(1, phy2log, torch.ones_like(phy2log))
    for layer in range(len(phy2log)):
        share = (weight[layer] / counts[layer])[phy2log[layer]]
        totals = share.view(ranks, -1).sum(1)
        first = int(totals.argmax()) * (slots // ranks)
        node = first // (slots // nodes) * (slots // nodes)
        gain = share[node : node + slots // nodes] - share[first]
        enough = (gain > 0.01 * totals.max()).nonzero()[:, 0]
        if len(enough):
            other = node + int(enough[gain[enough].argmin()])
            phy2log[layer, [first, other]] = phy2log[layer, [other, first]]
    return phy2log
