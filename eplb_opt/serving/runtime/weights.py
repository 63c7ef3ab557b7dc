"""One layer's weights from one placement to another: first into a buffer, then in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from eplb_opt.problem.transfer import EMPTY, Transfer

Weights = Sequence[Tensor]
"""Of one layer on one rank: tensors [S, ...], a row a slot."""


@dataclass(frozen=True)
class Change:
    """What a rank knows of the transfers of one layer.

    Attributes:
        old: [S] expert in each slot of this rank; ``EMPTY`` on a rank that has just come.
        new: [S] afterwards; ``EMPTY`` on a rank that leaves.
        transfers: to all ranks.
        rank: this one.
    """

    old: list[int]
    new: list[int]
    transfers: list[Transfer]
    rank: int


def fill(
    layer: Change, weights: Weights, group: dist.ProcessGroup | None, timeout: float
) -> dict[int, list[Tensor]]:
    """Send what others need, receive what this rank needs: rows by expert. Writes no weights.

    Raises:
        RuntimeError: a peer is gone, or did not answer in time.
    """
    num_slots = len(layer.old)
    incoming = {
        transfer.expert: [torch.empty_like(tensor[0]) for tensor in weights]
        for transfer in layer.transfers
        if transfer.receiver == layer.rank
    }
    batch, peers = [], []
    for number, transfer in enumerate(layer.transfers):
        for part, tensor in enumerate(weights):
            tag = number * len(weights) + part
            if transfer.sender == layer.rank:
                row = tensor[transfer.source % num_slots]
                batch.append(dist.P2POp(dist.isend, row, transfer.receiver, group, tag))
                peers.append(transfer.receiver)
            if transfer.receiver == layer.rank:
                row = incoming[transfer.expert][part]
                batch.append(dist.P2POp(dist.irecv, row, transfer.sender, group, tag))
                peers.append(transfer.sender)
    works = dist.batch_isend_irecv(batch) if batch else []
    for i, work in enumerate(works):
        try:
            work.wait(timedelta(seconds=timeout))
        except RuntimeError as error:
            who = f"rank {peers[i]}" if len(works) == len(peers) else "a rank"  # nccl: one for all
            raise RuntimeError(f"{who} did not answer within {timeout:g} s") from error
    return incoming


def commit(layer: Change, weights: Weights, incoming: dict[int, list[Tensor]]) -> None:
    """Write the slots that change, from the buffer or from the rank's own memory.

    All rows are collected before the first is written: a slot's old expert may be wanted elsewhere.
    """
    changed = [
        slot
        for slot, (before, after) in enumerate(zip(layer.old, layer.new, strict=True))
        if after not in (before, EMPTY)
    ]
    if not changed:
        return
    with torch.no_grad():
        for part, tensor in enumerate(weights):
            rows = [
                incoming[expert][part] if expert in incoming else tensor[layer.old.index(expert)]
                for expert in (layer.new[slot] for slot in changed)
            ]
            tensor[changed] = torch.stack(rows)


def num_bytes(incoming: dict[int, list[Tensor]]) -> int:
    """Size of what was received."""
    return sum(row.numel() * row.element_size() for rows in incoming.values() for row in rows)
