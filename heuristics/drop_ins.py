"""Drop-ins for serving engines: vLLM's policy interface and SGLang's function."""

from __future__ import annotations

from torch import Tensor

from heuristics.matching import keep_slots
from heuristics.pipeline import Maps
from heuristics.policies import placer, rebalance_experts


class RefinedEplbPolicy:
    """A policy for vLLM: ``rebalance_experts`` of its ``AbstractEplbPolicy``, ``phy2log`` only.

    Set ``policy`` in a subclass to run another than ``refined``: ``refined:40`` starts from the
    engine's old map and receives at most 40 experts a layer.
    """

    policy = "refined"

    @classmethod
    def rebalance_experts(
        cls,
        weight: Tensor,
        num_replicas: int,
        num_groups: int,
        num_nodes: int,
        num_ranks: int,
        old_global_expert_indices: Tensor | None = None,
    ) -> Tensor:
        """The expert in each slot, [L, P] int64, on the device of ``weight``.

        Args:
            weight: [L, E] tokens per logical expert, in vLLM over a whole window: around them
                ``dispatch-aware`` draws steps.
            num_replicas: P.
            num_groups: K; 0 (a model without groups) counts as 1.
            num_nodes: N.
            num_ranks: G.
            old_global_expert_indices: [L, P] the placement now, -1 in the slots of new ranks;
                replicas that stay on their rank then keep their slot, so that the engine copies no
                weights within a rank. One of another width counts as None.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        old = old_global_expert_indices
        if old is not None and old.shape[-1] != num_replicas:
            old = None
        place = placer(cls.policy)
        phy2log = place(weight, num_replicas, num_groups or 1, num_nodes, num_ranks, old)
        return phy2log if old is None else keep_slots(phy2log, old.to(phy2log.device), num_ranks)


def rebalance_experts_sglang(
    tokens_per_expert: Tensor,
    num_physical_experts: int,
    num_local_physical_experts: int,
    num_groups: int | None,
    num_nodes: int,
    algorithm: object = "refined",
) -> Maps:
    """SGLang's ``rebalance_experts``.

    Args:
        tokens_per_expert: [T, L, E] a recording over T steps: ``dispatch-aware`` looks at each,
            other policies see their sum.
        num_physical_experts: P.
        num_local_physical_experts: S, slots a rank.
        num_groups: K; None (a model without groups) counts as 1.
        num_nodes: N.
        algorithm: the name of a policy, as :func:`heuristics.policies.placer` reads it; SGLang's
            own choice (an enum member) means ``refined``.

    Returns:
        ``phy2log [L, P]``, ``log2phy [L, E, P - E + 1]`` padded with -1, ``logcnt [L, E]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    if tokens_per_expert.ndim != 3:
        shape = tuple(tokens_per_expert.shape)
        raise ValueError(f"tokens_per_expert of shape {shape} is not [steps, layers, experts]")
    if num_local_physical_experts < 1 or num_physical_experts % num_local_physical_experts:
        raise ValueError(
            f"num_physical_experts={num_physical_experts} is not a multiple of "
            f"num_local_physical_experts={num_local_physical_experts}"
        )
    return rebalance_experts(
        tokens_per_expert,
        num_physical_experts,
        num_groups or 1,
        num_nodes,
        num_physical_experts // num_local_physical_experts,
        policy=algorithm if isinstance(algorithm, str) else "refined",
    )
