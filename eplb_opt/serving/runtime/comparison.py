"""Are the weights on all ranks those that the maps say?"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch

from eplb_opt.serving.runtime.process_group import Group, TransferError
from eplb_opt.serving.runtime.weights import Weights
from eplb_opt.serving.state_machine import Map


def compare(
    group: Group, maps: Sequence[Map], models: Sequence[Sequence[Weights]]
) -> list[list[dict[int, bytes]]]:
    """A digest of each expert's content, [model][layer][expert], if all its replicas agree.

    Raises:
        TransferError: the maps differ between ranks, or the content of two replicas.
    """
    mine = [[_digests(weights) for weights in model] for model in models]
    everyone = group.gather((maps, mine))
    for rank, (theirs, _) in enumerate(everyone):
        for model, (here, there) in enumerate(zip(maps, theirs, strict=True)):
            if (here != there).any():
                raise TransferError(f"model {model}: rank {rank} has another map")
    return [
        [
            _of_experts(phy2log[layer].tolist(), [d[model][layer] for _, d in everyone])
            for layer in range(len(phy2log))
        ]
        for model, phy2log in enumerate(maps)
    ]


def _of_experts(phy2log: list[int], digests: list[list[bytes]]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    slots = [digest for rank in digests for digest in rank]
    for slot, (expert, digest) in enumerate(zip(phy2log, slots, strict=True)):
        if found.setdefault(expert, digest) != digest:
            raise TransferError(f"slot {slot} should hold expert {expert}, but holds other weights")
    return found


def _digests(weights: Weights) -> list[bytes]:
    """Of each slot."""
    found = []
    for slot in range(len(weights[0])):
        state = blake2b(digest_size=16)
        for tensor in weights:
            row = tensor[slot].detach().cpu().contiguous()
            state.update(row.view(torch.uint8).numpy().tobytes())
        found.append(state.digest())
    return found
