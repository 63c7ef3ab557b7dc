"""What vLLM and SGLang load by entry point, in each of their processes; off unless asked for.

==================== ============== ================================================================
``EPLB_OPT_POLICY``  both engines   a policy places the experts: ``refined``, ``refined:40``,
                                    ``robust``, ``refined@home:0.1``, any name that
                                    ``ruled_placer`` reads
``EPLB_OPT_SGLANG``  SGLang         ``dispatch`` or ``dispatch:own``: the dispatcher
==================== ============== ================================================================
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from torch import Tensor

from heuristics.engines import sglang_dispatch
from heuristics.engines.rules import ruled_placer
from heuristics.engines.sglang import rebalance_experts_sglang
from heuristics.engines.vllm import eplb_policy
from heuristics.pipeline import Maps

POLICY = "EPLB_OPT_POLICY"
DISPATCH = "EPLB_OPT_SGLANG"

logger = logging.getLogger(__name__)


def register_vllm() -> None:
    """The plugin of ``vllm.general_plugins``: the policy becomes vLLM's ``default``.

    Raises:
        ValueError: no policy has the name. vLLM does not start.
    """
    name = _policy_name()
    if name is None:
        return
    from vllm.distributed.eplb.policy import EPLB_POLICIES

    EPLB_POLICIES["default"] = eplb_policy(name)
    logger.warning("%s=%s: eplb-opt places the experts", POLICY, name)


def register_sglang() -> None:
    """The plugin of ``sglang.srt.plugins``: the policy, the dispatcher, or both.

    Raises:
        ValueError: one of the variables is set to something unknown. SGLang logs it and runs its
            own code for both.
    """
    name, dispatcher = _policy_name(), os.environ.get(DISPATCH)
    if dispatcher and dispatcher not in sglang_dispatch.SOLVERS:
        known = ", ".join(sglang_dispatch.SOLVERS)
        raise ValueError(f"{DISPATCH}={dispatcher!r} is unknown: say one of {known}")
    # SGLang loads plugins before it sets up its log: until then nothing less than a warning shows.
    if name is not None:
        _replace("eplb_algorithms.rebalance_experts", sglang_function(name))
        logger.warning("%s=%s: eplb-opt places the experts", POLICY, name)
    if dispatcher:
        _replace("lplb_solver.LPLBSolver", sglang_dispatch.SOLVERS[dispatcher])
        _replace(
            "expert_location_dispatch.topk_ids_logical_to_physical",
            sglang_dispatch.topk_ids_logical_to_physical,
            kind="AROUND",
        )
        logger.warning(
            "%s=%s: --ep-dispatch-algorithm lp is served by eplb-opt", DISPATCH, dispatcher
        )


def _policy_name() -> str | None:
    """The policy that the environment asks for.

    Raises:
        ValueError: no policy has the name.
    """
    name = os.environ.get(POLICY)
    if not name:
        return None
    try:
        ruled_placer(name)
    except ValueError as error:
        raise ValueError(f"{POLICY}={name!r} names no policy: {error}") from None
    return name


def _replace(target: str, new: Callable[..., object], kind: str = "REPLACE") -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(f"sglang.srt.eplb.{target}", new, HookType[kind])


def sglang_function(policy: str) -> Callable[..., Maps]:
    """SGLang's ``rebalance_experts`` by a policy; what SGLang's own looks up, this does, too.

    Under ``elasticity_aware`` that is which ranks live. The placement now is what ``refined:40``
    starts from.
    """

    def rebalance_experts(
        tokens_per_expert: Tensor,
        num_physical_experts: int,
        num_local_physical_experts: int,
        num_groups: int | None,
        num_nodes: int,
        algorithm: object,
    ) -> Maps:
        elastic = getattr(algorithm, "name", "").startswith("elasticity_aware")
        return rebalance_experts_sglang(
            tokens_per_expert,
            num_physical_experts,
            num_local_physical_experts,
            num_groups,
            num_nodes,
            algorithm,
            _active_ranks(num_physical_experts // num_local_physical_experts) if elastic else None,
            policy=policy,
            old=_map_now(),
        )

    return rebalance_experts


def _active_ranks(num_ranks: int) -> Tensor | None:
    """[G] 0 for a rank that SGLang holds for dead; it also counts ranks that may join later."""
    from sglang.srt.elastic_ep.elastic_ep import ElasticEPStateManager

    state = ElasticEPStateManager.instance()
    return None if state is None else state.active_ranks[:num_ranks]


def _map_now() -> Tensor | None:
    """[L, P] the expert in each slot now; None before there is a placement."""
    from sglang.srt.eplb.expert_location import get_global_expert_location_metadata

    metadata = get_global_expert_location_metadata()
    return None if metadata is None else metadata.physical_to_logical_map_cpu
