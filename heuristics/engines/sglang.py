"""SGLang's function ``rebalance_experts``, for ranks that all live or that do not.

SGLang (looked at: 0.5.23) calls it in every process, with the tokens added up over all ranks, and
every process must find the same placement. It is therefore made on the CPU, where sums have one
order, and handed back on the device of the tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.completion import complete
from heuristics.engines.rules import ruled_placer
from heuristics.pipeline import Maps, maps
from heuristics.shape import ArgumentError, check_multiple


def rebalance_experts_sglang(
    tokens_per_expert: Tensor,
    num_physical_experts: int,
    num_local_physical_experts: int,
    num_groups: int | None,
    num_nodes: int,
    algorithm: object = "refined",
    active_ranks: Tensor | None = None,
    *,
    policy: str = "refined",
    old: Tensor | None = None,
) -> Maps:
    """SGLang's ``rebalance_experts``.

    Args:
        tokens_per_expert: [T, L, E] a recording over T steps: policies such as ``robust`` look at
            each, others see their sum.
        num_physical_experts: P, a multiple of S.
        num_local_physical_experts: S, slots a rank.
        num_groups: K; None (a model without groups) counts as 1.
        num_nodes: N.
        algorithm: SGLang's choice, a member of its ``EplbAlgorithm``, says by its name which rule
            holds: hierarchical if it ends with ``_hierarchical``, else global. Or a string, the
            name of a policy, which takes the place of ``policy``; the rule is then hierarchical if
            N divides K, else global. A rule in the policy's name takes the place of both.
        active_ranks: [G] 0 for a dead rank; None if all live. With dead ranks the rule is global.
        policy: the name of a policy, as :func:`heuristics.engines.rules.ruled_placer` reads it.
        old: [L, P] the placement now, which ``refined:40`` starts from; with dead ranks from its
            live slots, in which experts that were lost take the place of spare replicas.

    Returns:
        ``phy2log [L, P]``, where slots of dead ranks say expert 0; ``log2phy [L, E, P' - E + 1]``
        padded with -1 and ``logcnt [L, E]`` of the P' slots of live ranks alone.

    Raises:
        ArgumentError: an argument does not fit, or live ranks have too few slots; the message says
            how many are missing.
    """
    if tokens_per_expert.ndim != 3:
        shape = tuple(tokens_per_expert.shape)
        raise ArgumentError(f"tokens_per_expert of shape {shape} is not [steps, layers, experts]")
    if num_local_physical_experts < 1:
        raise ArgumentError(
            f"num_local_physical_experts={num_local_physical_experts} must be positive"
        )
    slots_per_rank = num_local_physical_experts
    check_multiple(
        "num_physical_experts", num_physical_experts, "num_local_physical_experts", slots_per_rank
    )
    place = ruled_placer(algorithm if isinstance(algorithm, str) else policy)
    groups, nodes = num_groups or 1, num_nodes
    if place.rule is None and not isinstance(algorithm, str):
        groups, nodes = _rule(algorithm, groups, nodes)
    tokens = tokens_per_expert.cpu()
    num_experts, num_ranks = tokens.shape[2], num_physical_experts // slots_per_rank
    old = None if old is None else torch.as_tensor(old).cpu()
    live = _live_ranks(active_ranks, num_ranks)
    if len(live) == num_ranks:
        phy2log = place(tokens, num_physical_experts, groups, nodes, num_ranks, old)
        found = maps(phy2log, num_experts)
    else:
        slots = _slots_of(live, num_ranks, slots_per_rank, num_experts)
        if old is not None and old.shape[1] == num_physical_experts:
            old = complete(old[:, slots].long(), tokens.sum(0, dtype=torch.float64), len(live))
        placed = place(tokens, len(slots), 1, 1, len(live), old)
        found = _spread_out(maps(placed, num_experts), slots, num_physical_experts)
    phy2log, log2phy, logcnt = (x.to(tokens_per_expert.device) for x in found)
    return phy2log, log2phy, logcnt


def _rule(algorithm: object, num_groups: int, num_nodes: int) -> tuple[int, int]:
    """Groups and nodes that policies see under SGLang's algorithm."""
    name = getattr(algorithm, "name", None)
    if not isinstance(name, str):
        raise ArgumentError(
            f"algorithm={algorithm!r} is neither a policy's name nor one of SGLang's algorithms"
        )
    if not name.endswith("_hierarchical"):
        return 1, 1
    if num_nodes < 1:
        raise ArgumentError(f"num_nodes={num_nodes} must be positive")
    check_multiple(f"num_groups (under {name})", num_groups, "num_nodes", num_nodes)
    return num_groups, num_nodes


def _live_ranks(active_ranks: Tensor | None, num_ranks: int) -> Tensor:
    """The ranks that live, in order, [G'] int64 on the CPU."""
    if active_ranks is None:
        return torch.arange(num_ranks)
    active_ranks = torch.as_tensor(active_ranks)
    if active_ranks.shape != (num_ranks,):
        shape = tuple(active_ranks.shape)
        raise ArgumentError(f"active_ranks of shape {shape} is not {(num_ranks,)}, one a rank")
    return active_ranks.cpu().nonzero().flatten()


def _slots_of(live: Tensor, num_ranks: int, slots_per_rank: int, num_experts: int) -> Tensor:
    """The slots [P'] of ranks ``live`` [G'], of which there must be one for each expert."""
    missing = num_experts - len(live) * slots_per_rank
    if missing > 0:
        raise ArgumentError(
            f"{len(live)} of {num_ranks} ranks live, with {slots_per_rank} slots each: {missing} "
            f"slots are missing for {num_experts} experts"
        )
    return (live[:, None] * slots_per_rank + torch.arange(slots_per_rank)).flatten()


def _spread_out(placed: Maps, slots: Tensor, num_slots: int) -> Maps:
    """Maps of P' slots as maps of P, in which these are the slots ``slots`` [P'].

    The others, which no expert counts on, say expert 0, as in SGLang.
    """
    phy2log, log2phy, logcnt = placed
    full = phy2log.new_zeros(len(phy2log), num_slots)
    full[:, slots] = phy2log
    return full, torch.where(log2phy < 0, -1, slots[log2phy]), logcnt
