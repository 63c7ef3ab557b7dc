"""Shares and tokens of slots, loads of ranks: the quantities that every dispatcher speaks of.

``loads [..., L, E]`` are the tokens of each expert, ``phy2log [L, P]`` the expert in each slot, a
*share* is the part of its expert's tokens that a slot serves: not negative, and the shares of an
expert's slots sum to 1. Sums run over neighbouring elements only, never by scattered addition, so
that a device gives the same bits every time.
"""

from __future__ import annotations

from torch import Tensor

from heuristics.replication import count_replicas


def even_shares(phy2log: Tensor, num_experts: int) -> Tensor:
    """``1 / c_e`` for each slot of expert e, [L, P] float32, as engines share on average."""
    counts = count_replicas(phy2log, num_experts)
    return counts.gather(1, phy2log).float().reciprocal()


def expert_loads(loads: Tensor, phy2log: Tensor) -> Tensor:
    """The tokens of the expert in each slot, [..., L, P], from loads [..., L, E]."""
    return loads.gather(-1, phy2log.expand(*loads.shape[:-1], -1))


def rank_loads(tokens: Tensor, num_ranks: int) -> Tensor:
    """The tokens on each rank [..., L, G], from the tokens of each slot [..., L, P]."""
    slots_per_rank = tokens.shape[-1] // num_ranks
    return tokens.reshape(*tokens.shape[:-1], num_ranks, slots_per_rank).sum(-1)


def check(loads: Tensor, phy2log: Tensor, num_ranks: int) -> None:
    """Loads [..., L, E] and the experts in slots [L, P] fit together and on G ranks.

    Raises:
        ValueError: they do not; the message names the sizes.
    """
    if loads.dim() < 2 or phy2log.dim() != 2 or len(phy2log) != loads.shape[-2]:
        raise ValueError(
            f"loads {list(loads.shape)} and phy2log {list(phy2log.shape)}: give loads [..., L, E] "
            "and the expert in each slot [L, P]"
        )
    check_placement(phy2log, loads.shape[-1], num_ranks)


def check_placement(phy2log: Tensor, num_experts: int, num_ranks: int) -> None:
    """The slots [L, P] of E experts are as many on each of G ranks.

    Raises:
        ValueError: they are not, or some expert has none; the message names the sizes.
    """
    if phy2log.dim() != 2:
        raise ValueError(f"phy2log {list(phy2log.shape)}: give the expert in each slot [L, P]")
    num_slots = phy2log.shape[1]
    if num_ranks < 1 or num_slots % num_ranks:
        raise ValueError(f"num_ranks={num_ranks} does not divide {num_slots} slots")
    if num_slots < num_experts:
        raise ValueError(f"{num_slots} slots for {num_experts} experts: every expert needs one")
