"""Production heuristics for expert placement: torch, batched over layers, on any device."""

from heuristics.drop_ins import RefinedEplbPolicy, rebalance_experts_sglang
from heuristics.policies import POLICIES, rebalance_experts

__all__ = ["POLICIES", "RefinedEplbPolicy", "rebalance_experts", "rebalance_experts_sglang"]
