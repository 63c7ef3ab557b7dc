# ruff: noqa: ARG001
"""Dispatchers with one fault each, for ``eplb-opt check --dispatcher`` to find; and good ones."""

from __future__ import annotations

import itertools
import os
import time

import torch

CALLS = itertools.count()
SEEN: list[float] = []


def shares(loads, phy2log, num_ranks):
    """Even shares, as a user writes them; ``num_ranks`` does not matter."""
    counts = torch.zeros(len(phy2log), loads.shape[-1]).scatter_add_(
        1, phy2log, torch.ones(phy2log.shape)
    )
    return (1 / counts.gather(1, phy2log)).expand(*loads.shape[:-1], -1)


def dealt(loads, phy2log, num_ranks):
    """Whole tokens: those of an expert dealt to its slots in turn."""
    same = phy2log[:, :, None] == phy2log[:, None, :]
    before, counts = same.tril(-1).sum(-1), same.sum(-1)
    tokens = loads.long().gather(-1, phy2log.expand(*loads.shape[:-1], -1))
    return tokens // counts + (before < tokens % counts)


def sums_to_99_percent(*arguments):
    return shares(*arguments) * 0.99


def negative_share(loads, phy2log, num_ranks):
    """One of the shares of an expert with several is negative; they sum to 1."""
    found = shares(loads, phy2log, num_ranks).clone()
    for layer, row in enumerate(phy2log.tolist()):
        e = max(set(row), key=row.count)
        slots = [p for p, held in enumerate(row) if held == e]
        if len(slots) > 1:
            found[..., layer, slots[0]] = -0.25
            found[..., layer, slots[1]] += 0.25 + 1 / len(slots)
    return found


def first_slot_serves_all(loads, phy2log, num_ranks):
    """Valid, and above even shares."""
    same = phy2log[:, :, None] == phy2log[:, None, :]
    first = (same.tril(-1).sum(-1) == 0).to(torch.float32)
    return first.expand(*loads.shape[:-1], -1)


def not_a_number(*arguments):
    found = shares(*arguments).clone()
    found[..., 0] = torch.nan
    return found


def wrong_shape(*arguments):
    return shares(*arguments)[..., :-1]


def no_numbers(*arguments):
    return {"shares": shares(*arguments)}


PLACEMENTS: dict[tuple[int, ...], torch.Tensor] = {}


def stale_placement(loads, phy2log, num_ranks):
    """What a placement of the same shape needed that came first."""
    first = PLACEMENTS.setdefault((*phy2log.shape, num_ranks), phy2log.clone())
    return shares(loads, first, num_ranks)


def returns_a_tuple(*arguments):
    return (shares(*arguments), None)


def remembers(loads, phy2log, num_ranks):
    """Even shares, but what it saw before decides how they are rounded."""
    SEEN.append(float(loads.sum()))
    return shares(loads, phy2log, num_ranks) * (1 + 1e-7 * (len(SEEN) % 3))


def random_rounding(*arguments):
    return shares(*arguments) * (1 + 1e-6 * torch.rand(()))


def writes_into_loads(loads, phy2log, num_ranks):
    found = shares(loads, phy2log, num_ranks).clone()
    loads += 1
    return found


def sorts_the_placement(loads, phy2log, num_ranks):
    found = shares(loads, phy2log, num_ranks).clone()
    phy2log[:] = phy2log.sort(dim=1).values
    return found


def drops_a_token(loads, phy2log, num_ranks):
    tokens = dealt(loads, phy2log, num_ranks)
    tokens[..., 0] -= (tokens[..., 0] > 0).long()
    return tokens


def token_to_another_expert(loads, phy2log, num_ranks):
    """The sum over all slots is right."""
    tokens = dealt(loads, phy2log, num_ranks)
    one = (tokens[..., :1] > 0).long()
    tokens[..., :1] -= one
    tokens[..., -1:] += one
    return tokens


def needs_floats(loads, phy2log, num_ranks):
    return torch.softmax(0 * loads, -1)[..., :1] * 0 + shares(loads, phy2log, num_ranks)


def other_shares_alone(loads, phy2log, num_ranks):
    """Even shares, but of a single step the first slot serves all."""
    alone = loads.ndim == 3 and len(loads) == 1
    return (first_slot_serves_all if alone else shares)(loads, phy2log, num_ranks)


def needs_contiguous(loads, phy2log, num_ranks):
    return shares(loads.view(-1).view(loads.shape), phy2log, num_ranks)


def divides_by_the_load(loads, phy2log, num_ranks):
    weight = shares(loads, phy2log, num_ranks)
    return weight * loads.sum(-1, keepdim=True) / loads.sum(-1, keepdim=True)


def needs_steps(loads, phy2log, num_ranks):
    steps, _, _ = loads.shape
    return shares(loads, phy2log, num_ranks).reshape(steps, *phy2log.shape)


def by_process(*arguments):
    return shares(*arguments) * (1 + 1e-6 * (os.getpid() % 7 + 1))


def by_load(loads, phy2log, num_ranks):
    """Misbehaves as the load of the first expert says."""
    kind = int(loads.flatten()[0])
    if kind == 1:
        print("much " * 10**6)
    if kind == 2:
        return "no numbers"
    if kind == 3:
        time.sleep(60)
    return shares(loads, phy2log, num_ranks)
