"""From the tokens of each slot to the slot of each token.

Every source (a rank with its own tokens) counts its tokens by expert, the counts of all sources are
gathered, and every source works out the same shares and whole tokens for all of them. The tokens of
an expert are numbered over the sources in order; the slots of the expert, ascending, serve them in
that order, each as many as it was given. So the counts are met exactly, without drawing:

    counts = gather(expert_counts(topk_ids, E))          # [sources, E], small integers
    tokens = whole(loads := counts.sum(0)[None], phy2log, shares(loads, phy2log, G), G)
    ids = physical_ids(topk_ids, phy2log[0], tokens[0], before=tokens_before(counts)[source])

A fixed number of operations of one layer, without loops over tokens and without waiting for the
device. Ids below 0 are padding: they are not counted and stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expert_counts(topk_ids: Tensor, num_experts: int) -> Tensor:
    """How often each expert is among the ids of any shape: [E] int64."""
    expert = torch.where(topk_ids < 0, num_experts, topk_ids).flatten().long()
    counts = expert.new_zeros(num_experts + 1)
    return counts.scatter_add(0, expert, torch.ones_like(expert))[:-1]


def tokens_before(counts: Tensor) -> Tensor:
    """The tokens of each expert in the sources before each: [sources, E] from counts of the same
    shape.
    """
    return counts.cumsum(0) - counts


def physical_ids(
    topk_ids: Tensor, phy2log: Tensor, tokens: Tensor, *, before: Tensor | None = None
) -> Tensor:
    """The slot that serves each token of this source.

    The i-th token of expert e, i = before[e] + the number of earlier ids e in the flattened
    ``topk_ids``, goes to the first slot of e whose tokens, added to those of e's slots before it,
    exceed i. Tokens beyond the sum go to the last slot of e.

    Args:
        topk_ids: [tokens, k] integers, logical experts; ids below 0 are kept.
        phy2log: [P] int64, the expert in each slot; every expert of ``topk_ids`` has one.
        tokens: [P] int64, what each slot is to serve over all sources (:func:`whole`).
        before: [E] integers, the tokens of each expert in the sources before this one
            (:func:`tokens_before`); None: this is the only source.

    Returns:
        [tokens, k] slots, of the dtype of ``topk_ids``. O(N log N) for N = tokens * k.

    Raises:
        ValueError: ``tokens`` has not the shape of ``phy2log``, or the ids are of a type that does
            not hold all slots.

    >>> ids = torch.tensor([[0, 1], [0, 2], [0, 1]])
    >>> physical_ids(ids, torch.tensor([0, 1, 0, 2]), torch.tensor([1, 2, 2, 1]))
    tensor([[0, 1],
            [2, 3],
            [2, 1]])
    """
    if phy2log.ndim != 1 or tokens.shape != phy2log.shape:
        raise ValueError(
            f"phy2log {tuple(phy2log.shape)} and tokens {tuple(tokens.shape)} must both be [P]:"
            " one layer at a time"
        )
    if topk_ids.is_floating_point() or torch.iinfo(topk_ids.dtype).max < len(phy2log) - 1:
        raise ValueError(f"topk_ids of {topk_ids.dtype} cannot hold the slots of {len(phy2log)}")
    ids, order = topk_ids.flatten().sort(stable=True)
    expert, place = ids.long().clamp(min=0), torch.arange(len(ids), device=ids.device)
    experts = torch.arange(len(phy2log), device=phy2log.device)
    number = place - torch.searchsorted(ids.long(), experts)[expert]
    if before is not None:
        number = number + before.long()[expert]
    by_expert, slots = phy2log.sort(stable=True)
    end = tokens.long()[slots].cumsum(0)
    first, after = (torch.searchsorted(by_expert, experts, right=side) for side in (False, True))
    start = torch.cat([end.new_zeros(1), end])[first]
    at = torch.searchsorted(end, start[expert] + number, right=True).minimum((after - 1)[expert])
    found = torch.where(ids < 0, ids, slots[at].to(ids.dtype))
    return torch.empty_like(found).scatter(0, order, found).view_as(topk_ids)
